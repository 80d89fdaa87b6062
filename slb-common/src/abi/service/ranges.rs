//! Port ranges in the service index.
//!
//! The ranges of a VIP and protocol are entries of their own, with the numbers 0, 1, ... in place of a port. Their protocol
//! has [`IndexEntry::RANGE`], so that no lookup of a single port finds them. Ranges do not overlap, except that of any
//! port, which has the highest number. So the first one that has a packet's port is the narrowest.

use super::{INDEX_PROBES, INDEX_SLOTS, IndexEntry, ServiceIndex};
use crate::abi::{Address, flow::FlowTag, ports::Ports};

/// Most ranges of a VIP and protocol, besides that of any port.
pub const MAX_RANGES: usize = 8;
/// No slot of the index: nothing found.
pub const NO_SLOT: u32 = INDEX_SLOTS as u32;

impl IndexEntry {
    /// Bit of [`Self::protocol`] of a range. No IP protocol that services have has it.
    pub const RANGE: u8 = 0x80;

    /// Whether its listener has a port range.
    #[inline(always)]
    pub const fn is_range(&self) -> bool {
        self.protocol & Self::RANGE != 0
    }

    /// Its ports.
    pub const fn ports(&self) -> Ports {
        match Ports::range(self.first_port, self.last_port) {
            Some(ports) => ports,
            None => Ports::single(u16::from_be(self.port)),
        }
    }

    /// The entry of a range without its number.
    #[must_use]
    pub const fn without_number(&self) -> Self {
        Self { port: if self.is_range() { 0 } else { self.port }, ..*self }
    }

    /// Whether a range has this port, which is in network byte order.
    #[inline(always)]
    const fn has_port(&self, port: u16) -> bool {
        let port = u16::from_be(port);
        self.first_port <= port && port <= self.last_port
    }

    /// What tells a flow to this port, which is in network byte order, from others of its client endpoint.
    #[inline(always)]
    pub const fn flow_tag(&self, port: u16) -> FlowTag {
        FlowTag::new(self.service, self.flow_port(port))
    }

    /// The salt for flow labels and outer source ports of flows to this port, by which they differ too.
    #[inline(always)]
    pub const fn label_salt(&self, port: u16) -> u64 {
        self.salt ^ self.flow_port(port) as u64
    }

    /// [`Flow::port`](crate::abi::flow::Flow) of a flow to this port.
    #[inline(always)]
    pub const fn flow_port(&self, port: u16) -> u16 {
        // Without a branch: it would double the paths that the verifier follows.
        port & (self.protocol.cast_signed() >> (u8::BITS - 1)) as u16
    }
}

impl ServiceIndex {
    /// Whether a listener has a port range.
    #[inline(always)]
    pub const fn has_ranges(&self) -> bool {
        self.has_ranges != 0
    }

    /// As [`Self::find`], the slot of the entry; [`NO_SLOT`] if there is none.
    #[inline(always)]
    pub fn find_slot(&self, address: &Address, port: u16, protocol: u8) -> u32 {
        let home = Self::home(Self::hash(self.seed, address, port, protocol));
        for probe in 0..INDEX_PROBES {
            let slot = (home + probe) & (INDEX_SLOTS - 1);
            let entry = &self.entries[slot];
            if entry.protocol == 0 {
                return NO_SLOT;
            }
            let is_same = u32::from(entry.port ^ port) | u32::from(entry.protocol ^ protocol);
            if is_same == 0 && entry.address.same(address) {
                return slot as u32;
            }
        }
        NO_SLOT
    }

    /// The slot of the narrowest range that has a port, in network byte order; [`NO_SLOT`] if none has. A BPF subprogram
    /// ([`PathCalls::find_range`](crate::datapath::path_calls::PathCalls::find_range)), as [`Self::listener_slot`].
    #[inline(always)]
    pub fn find_range(&self, address: &Address, port: u16, protocol: u8) -> u32 {
        for number in 0..=MAX_RANGES {
            let slot = self.find_slot(address, number as u16, protocol | IndexEntry::RANGE);
            match self.entry(slot) {
                None => return NO_SLOT,
                Some(entry) if entry.has_port(port) => return slot,
                Some(_) => {}
            }
        }
        NO_SLOT
    }

    /// The slot of the listener at an endpoint, or [`NO_SLOT`]; `port` is in network byte order. A BPF subprogram
    /// ([`PathCalls::listener_slot`](crate::datapath::path_calls::PathCalls::listener_slot)): the programs save its stack,
    /// and the verifier follows it once.
    #[inline(always)]
    pub fn listener_slot(&self, address: &Address, port: u16, protocol: u8) -> u32 {
        let slot = self.find_slot(address, port, protocol);
        if slot == NO_SLOT && self.has_ranges() { self.find_range(address, port, protocol) } else { slot }
    }

    /// The entry in a slot; `None` for [`NO_SLOT`].
    #[inline(always)]
    pub fn entry(&self, slot: u32) -> Option<&IndexEntry> {
        if slot >= NO_SLOT { None } else { Some(&self.entries[slot as usize & (INDEX_SLOTS - 1)]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::headers::protocol::{TCP, UDP};

    fn put(index: &mut ServiceIndex, entry: IndexEntry) {
        let home =
            ServiceIndex::home(ServiceIndex::hash(index.seed, &entry.address, entry.port, entry.protocol));
        let slot = (home..home + INDEX_PROBES).find(|slot| index.entries[*slot].protocol == 0).unwrap();
        index.entries[slot] = entry;
    }

    fn range(address: Address, number: u16, (first_port, last_port): (u16, u16), service: u32) -> IndexEntry {
        let protocol = TCP | IndexEntry::RANGE;
        IndexEntry {
            address,
            port: number,
            protocol,
            first_port,
            last_port,
            service,
            ..IndexEntry::default()
        }
    }

    #[test]
    fn narrowest_range_is_found_and_single_ports_are_not() {
        let (vip, other) = (Address::v4([192, 0, 2, 1]), Address::v4([192, 0, 2, 2]));
        let mut index = ServiceIndex::empty();
        put(&mut index, range(vip, 0, (8000, 8999), 1));
        put(&mut index, range(vip, 1, (9000, 9001), 2));
        put(&mut index, range(vip, 2, (1, 65_535), 3));
        let found = |address, port: u16, protocol| {
            index.entry(index.find_range(&address, port.to_be(), protocol)).map(|entry| entry.service)
        };
        for (port, service) in [(7999, 3), (8000, 1), (8999, 1), (9001, 2), (9002, 3), (65_535, 3), (1, 3)] {
            assert_eq!(found(vip, port, TCP), Some(service), "{port}");
        }
        assert_eq!([found(vip, 0, TCP), found(vip, 8000, UDP), found(other, 8000, TCP)], [None; 3]);
        for number in 0..3 {
            assert!(index.find(&vip, number, TCP).is_none(), "a packet to port {number}");
        }
    }

    #[test]
    fn only_flows_of_ranges_are_told_apart_by_their_port() {
        let entry = range(Address::default(), 0, (8000, 8999), 7);
        assert_eq!(entry.flow_tag(8080), FlowTag::new(7, 8080));
        let single = IndexEntry { protocol: TCP, service: 7, ..IndexEntry::default() };
        assert_eq!(single.flow_tag(8080), FlowTag::new(7, 0));
    }
}
