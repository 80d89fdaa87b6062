//! Answers to requests for the hardware address of a VIP: ARP (RFC 826) and neighbour discovery (RFC 4861). Pure.
//!
//! Frames are those of Ethernet without VLAN tag. A probe for duplicate addresses (RFC 5227, RFC 4862) is a request and
//! is answered: its sender then knows that the VIP is in use. A gratuitous ARP request is another host's announcement,
//! and no request.

use crate::{
    net::{address::Address, checksum::Delta, headers::protocol},
    opaque::opaque,
};

/// Length of an ARP frame without padding.
pub const ARP_LENGTH: usize = 42;
/// Length of a neighbour solicitation without options.
pub const SOLICITATION_LENGTH: usize = 78;
/// Most units of eight bytes of a solicitation's options. One with more is not answered.
pub const MAX_OPTION_UNITS: usize = 8;
/// Bytes of a unit of options (RFC 4861, 4.6).
pub const OPTION_UNIT: usize = 8;
/// Length of the longest solicitation.
pub const DISCOVERY_LENGTH: usize = SOLICITATION_LENGTH + MAX_OPTION_UNITS * OPTION_UNIT;
/// Length of a neighbour advertisement with the option of the target's hardware address.
pub const ADVERTISEMENT_LENGTH: usize = 86;

/// An Ethernet address, as in a frame.
type Mac = [u8; 6];

/// Hardware type Ethernet, protocol type IPv4, and the lengths of both addresses.
const ARP_TYPES: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const ETHERNET_SOURCE: usize = 6;
/// The first byte behind the Ethernet header.
const NETWORK: usize = 14;
/// Bytes of an ARP frame.
const OPERATION: usize = 20;
const SENDER_MAC: usize = 22;
const SENDER: usize = 28;
const TARGET_MAC: usize = 32;
const TARGET: usize = 38;

/// ICMPv6 types (RFC 4861, 4.3 and 4.4).
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Hop limit of packets that no router has forwarded (RFC 4861, 7.1.1).
const ON_LINK: u8 = 255;
/// Shortest neighbour solicitation, and the advertisement with one option, in bytes of ICMPv6.
const SHORTEST: u16 = 24;
const ICMP_LENGTH: u8 = 32;
/// Flags of an advertisement: it answers a solicitation, and it replaces what the receiver knew.
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
/// Option of the source's hardware address.
const SOURCE_OPTION: u8 = 1;
/// Option of the target's hardware address, of one unit of eight bytes.
const TARGET_OPTION: [u8; 2] = [2, 1];
/// Start of a solicited-node multicast address (RFC 4291, 2.7.1).
const SOLICITED_NODE: [u8; 13] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];
/// Bytes of a frame of neighbour discovery.
const PAYLOAD_LENGTH: usize = 18;
const NEXT_HEADER: usize = 20;
const HOP_LIMIT: usize = 21;
const SOURCE: usize = 22;
const DESTINATION: usize = 38;
const ICMP: usize = 54;
const ICMP_CODE: usize = 55;
const ICMP_CHECKSUM: usize = 56;
const ICMP_TARGET: usize = 62;
const OPTION: usize = 78;

/// All nodes of a link (RFC 4291, 2.7.1), and the hardware address for it (RFC 2464, 7).
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// An ARP frame.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ArpFrame(pub [u8; ARP_LENGTH]);

/// A frame of neighbour discovery. Bytes after its last option are zero.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct DiscoveryFrame(pub [u8; DISCOVERY_LENGTH]);

// The functions below keep no arrays of bytes: on the stack of BPF they would have to be aligned.

/// The word at an offset.
#[inline(always)]
fn word(frame: &[u8], at: usize) -> [u8; 4] {
    [frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]
}

/// Copies `N` bytes within a frame.
#[inline(always)]
fn copy<const N: usize>(frame: &mut [u8], from: usize, to: usize) {
    let mut i = 0;
    while i < N {
        frame[to + i] = frame[from + i];
        i += 1;
    }
}

#[inline(always)]
fn put<const N: usize>(frame: &mut [u8], at: usize, bytes: &[u8; N]) {
    let mut i = 0;
    while i < N {
        frame[at + i] = bytes[i];
        i += 1;
    }
}

impl ArpFrame {
    /// The address that the frame asks for; `None` if it is no request, another host's announcement, or a request in
    /// the name of another hardware address than the frame's.
    #[inline(always)]
    pub fn requested(&self) -> Option<Address> {
        let frame = &self.0;
        let mut differs = frame[OPERATION] | (frame[OPERATION + 1] ^ REQUEST);
        let mut i = 0;
        while i < ARP_TYPES.len() {
            // Both hold six bytes.
            differs |= frame[NETWORK + i] ^ ARP_TYPES[i];
            differs |= frame[ETHERNET_SOURCE + i] ^ frame[SENDER_MAC + i];
            i += 1;
        }
        let (sender, target) = (Address::v4(word(frame, SENDER)), Address::v4(word(frame, TARGET)));
        // A host's own hardware address is no group address.
        let is_request = differs == 0 && frame[SENDER_MAC] & 1 == 0 && !sender.same(&target);
        if is_request { Some(target) } else { None }
    }

    /// Makes a request the answer that the requested address is at `mac`.
    #[inline(always)]
    pub fn answer(&mut self, mac: &Mac) {
        let frame = &mut self.0;
        copy::<6>(frame, SENDER_MAC, 0);
        copy::<6>(frame, SENDER_MAC, TARGET_MAC);
        let mut i = 0;
        while i < 4 {
            frame.swap(SENDER + i, TARGET + i);
            i += 1;
        }
        put(frame, 6, mac);
        put(frame, SENDER_MAC, mac);
        frame[OPERATION + 1] = REPLY;
    }
}

impl DiscoveryFrame {
    /// Units of options, from the length in the IPv6 header. `None` if that is no length of a solicitation, or there are
    /// more than [`MAX_OPTION_UNITS`].
    #[inline(always)]
    pub fn option_units(&self) -> Option<usize> {
        let frame = &self.0;
        let length = u16::from_be_bytes([frame[PAYLOAD_LENGTH], frame[PAYLOAD_LENGTH + 1]]);
        let options = usize::from(length.wrapping_sub(SHORTEST));
        let units = options / OPTION_UNIT;
        if options % OPTION_UNIT == 0 && units <= MAX_OPTION_UNITS { Some(units) } else { None }
    }

    /// The address that the frame asks for; `None` if it is no valid solicitation (RFC 4861, 7.1.1). The options have
    /// been read.
    #[inline(always)]
    pub fn solicited(&self) -> Option<Address> {
        let frame = &self.0;
        let differs = (frame[NEXT_HEADER] ^ protocol::ICMPV6)
            | (frame[HOP_LIMIT] ^ ON_LINK)
            | (frame[ICMP] ^ SOLICITATION)
            | frame[ICMP_CODE];
        // Neither the sender nor the target is a group.
        let is_valid = differs == 0
            && frame[ETHERNET_SOURCE] & 1 == 0
            && frame[SOURCE] != 0xff
            && frame[ICMP_TARGET] != 0xff;
        if !is_valid || !self.has_valid_options() || !self.has_valid_checksum() {
            return None;
        }
        // Word by word: the compiler would store two at once where they are not aligned.
        let word =
            |number: usize| opaque(u32::from_ne_bytes(word(frame, ICMP_TARGET + 4 * number)).into()) as u32;
        Some(Address([word(0), word(1), word(2), word(3)]))
    }

    /// Whether all options have a length and end with the packet. A sender without an address names no hardware address,
    /// and asks a solicited-node group.
    #[inline(always)]
    fn has_valid_options(&self) -> bool {
        let frame = &self.0;
        let Some(units) = self.option_units() else { return false };
        let (mut next, mut unit, mut names_source) = (0, 0, false);
        while unit < MAX_OPTION_UNITS {
            // After an option of length 0 this is never so again.
            if unit == next && unit < units {
                names_source |= frame[OPTION + OPTION_UNIT * unit] == SOURCE_OPTION;
                next += usize::from(frame[OPTION + OPTION_UNIT * unit + 1]);
            }
            unit += 1;
        }
        let mut differs = 0;
        let mut i = 0;
        while i < SOLICITED_NODE.len() {
            differs |= frame[DESTINATION + i] ^ SOLICITED_NODE[i];
            i += 1;
        }
        next == units && (!self.is_from_unspecified() || (differs == 0 && !names_source))
    }

    #[inline(always)]
    fn has_valid_checksum(&self) -> bool {
        let length = u16::from_ne_bytes([self.0[PAYLOAD_LENGTH], self.0[PAYLOAD_LENGTH + 1]]);
        self.sum(length, DISCOVERY_LENGTH).checksum() == [0, 0]
    }

    /// Whether the source is `::`.
    #[inline(always)]
    fn is_from_unspecified(&self) -> bool {
        let mut source = 0;
        let mut i = 0;
        while i < 16 {
            source |= self.0[SOURCE + i];
            i += 1;
        }
        source == 0
    }

    /// Sum of the pseudo-header and of ICMPv6 up to `end`. `length` is that of ICMPv6, in network byte order.
    #[inline(always)]
    fn sum(&self, length: u16, end: usize) -> Delta {
        let mut sum = Delta::default().plus(length).plus(u16::from(protocol::ICMPV6).to_be());
        // Addresses and ICMPv6 are behind each other.
        let mut at = SOURCE;
        while at < end {
            sum = sum.plus(u16::from_ne_bytes([self.0[at], self.0[at + 1]])).settled();
            at += 2;
        }
        sum
    }

    /// Makes a solicitation the advertisement that its target is at `mac`.
    #[inline(always)]
    pub fn advertise(&mut self, mac: &Mac) {
        let is_from_unspecified = self.is_from_unspecified();
        let frame = &mut self.0;
        // A host without an address yet receives it as all others do (RFC 4861, 7.2.4).
        let solicited = if is_from_unspecified {
            put(frame, 0, &ALL_NODES_MAC);
            put(frame, DESTINATION, &ALL_NODES);
            0
        } else {
            copy::<6>(frame, 6, 0);
            copy::<16>(frame, SOURCE, DESTINATION);
            SOLICITED
        };
        put(frame, 6, mac);
        put(frame, NETWORK, &[0x60, 0, 0, 0, 0, ICMP_LENGTH, protocol::ICMPV6, ON_LINK]);
        copy::<16>(frame, ICMP_TARGET, SOURCE);
        put(frame, ICMP, &[ADVERTISEMENT, 0, 0, 0, solicited | OVERRIDE, 0, 0, 0]);
        put(frame, OPTION, &TARGET_OPTION);
        put(frame, OPTION + 2, mac);
        let checksum = self.sum(u16::from(ICMP_LENGTH).to_be(), ADVERTISEMENT_LENGTH).checksum();
        put(&mut self.0, ICMP_CHECKSUM, &checksum);
    }
}

#[cfg(test)]
mod tests;
