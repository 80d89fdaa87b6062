//! Answers to requests for the hardware address of a VIP: ARP (RFC 826) and neighbour discovery (RFC 4861). Pure.
//!
//! Frames are those of Ethernet without VLAN tag. A probe for duplicate addresses (RFC 5227, RFC 4862) is a request and
//! is answered: its sender then knows that the VIP is in use. A gratuitous ARP request is another host's announcement,
//! and no request.

use crate::net::{
    address::Address,
    checksum::Delta,
    headers::{ether_type, protocol},
};

/// Length of an ARP frame without padding.
pub const ARP_LENGTH: usize = 42;
/// Length of the part of a neighbour solicitation that is read: without options.
pub const SOLICITATION_LENGTH: usize = 78;
/// Length of a neighbour advertisement with the option of the target's hardware address.
pub const ADVERTISEMENT_LENGTH: usize = 86;

/// An Ethernet address, as in a frame.
type Mac = [u8; 6];

/// Hardware type Ethernet, protocol type IPv4, and the lengths of both addresses.
const ARP_TYPES: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
/// Bytes of an ARP frame.
const ARP_FIRST: usize = 14;
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
/// Option of the target's hardware address, of one unit of eight bytes.
const TARGET_OPTION: [u8; 2] = [2, 1];
/// Bytes of a frame of neighbour discovery.
const PAYLOAD_LENGTH: usize = 18;
const NEXT_HEADER: usize = 20;
const HOP_LIMIT: usize = 21;
const SOURCE: usize = 22;
const DESTINATION: usize = 38;
const ICMP: usize = 54;
const ICMP_CODE: usize = 55;
const ICMP_CHECKSUM: usize = 56;
const ICMP_FLAGS: usize = 58;
const ICMP_TARGET: usize = 62;
const OPTION: usize = 78;

/// All nodes of a link (RFC 4291, 2.7.1), and the hardware address for it (RFC 2464, 7).
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// An ARP frame.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
pub struct ArpFrame(pub [u8; ARP_LENGTH]);

/// A frame of neighbour discovery.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
pub struct DiscoveryFrame(pub [u8; ADVERTISEMENT_LENGTH]);

/// `N` bytes of a frame from an offset.
#[inline(always)]
fn part<const N: usize>(frame: &[u8], at: usize) -> [u8; N] {
    let mut part = [0; N];
    let mut i = 0;
    while i < N {
        part[i] = frame[at + i];
        i += 1;
    }
    part
}

#[inline(always)]
fn put<const N: usize>(frame: &mut [u8], at: usize, bytes: [u8; N]) {
    let mut i = 0;
    while i < N {
        frame[at + i] = bytes[i];
        i += 1;
    }
}

impl ArpFrame {
    /// The address that the frame asks for; `None` if it is no request, or another host's announcement.
    #[inline(always)]
    pub fn requested(&self) -> Option<Address> {
        let frame = &self.0;
        let types: [u8; 6] = part(frame, ARP_FIRST);
        let mut differs = frame[OPERATION] | (frame[OPERATION + 1] ^ REQUEST);
        let mut i = 0;
        while i < 6 {
            differs |= types[i] ^ ARP_TYPES[i];
            i += 1;
        }
        let (sender, target) = (Address::v4(part(frame, SENDER)), Address::v4(part(frame, TARGET)));
        // A host's own hardware address is no group address.
        let is_request = differs == 0 && frame[SENDER_MAC] & 1 == 0 && !sender.same(&target);
        if is_request { Some(target) } else { None }
    }

    /// Makes a request the answer that the requested address is at `mac`.
    #[inline(always)]
    pub fn answer(&mut self, mac: Mac) {
        let frame = &mut self.0;
        let asking: Mac = part(frame, SENDER_MAC);
        let (sender, target): ([u8; 4], [u8; 4]) = (part(frame, SENDER), part(frame, TARGET));
        put(frame, 0, asking);
        put(frame, 6, mac);
        frame[OPERATION + 1] = REPLY;
        put(frame, SENDER_MAC, mac);
        put(frame, SENDER, target);
        put(frame, TARGET_MAC, asking);
        put(frame, TARGET, sender);
    }
}

impl DiscoveryFrame {
    /// The address that the frame asks for; `None` if it is no valid solicitation.
    #[inline(always)]
    pub fn solicited(&self) -> Option<Address> {
        let frame = &self.0;
        let differs = (frame[NEXT_HEADER] ^ protocol::ICMPV6)
            | (frame[HOP_LIMIT] ^ ON_LINK)
            | (frame[ICMP] ^ SOLICITATION)
            | frame[ICMP_CODE];
        let length = u16::from_be_bytes([frame[PAYLOAD_LENGTH], frame[PAYLOAD_LENGTH + 1]]);
        // Neither the sender nor the target is a group.
        let is_valid = differs == 0
            && length >= SHORTEST
            && frame[6] & 1 == 0
            && frame[SOURCE] != 0xff
            && frame[ICMP_TARGET] != 0xff;
        if is_valid { Some(Address::v6(part(frame, ICMP_TARGET))) } else { None }
    }

    /// Makes a solicitation the advertisement that its target is at `mac`.
    #[inline(always)]
    pub fn advertise(&mut self, mac: Mac) {
        let frame = &mut self.0;
        let (asking, source): (Mac, [u8; 16]) = (part(frame, 6), part(frame, SOURCE));
        let target: [u8; 16] = part(frame, ICMP_TARGET);
        // A host without an address yet is told with all others (RFC 4861, 7.2.4).
        let is_probe = Address::v6(source).same(&Address([0; 4]));
        let (to, to_mac, solicited) =
            if is_probe { (ALL_NODES, ALL_NODES_MAC, 0) } else { (source, asking, SOLICITED) };
        put(frame, 0, to_mac);
        put(frame, 6, mac);
        put(frame, 12, ether_type::IPV6.to_ne_bytes());
        put(frame, ARP_FIRST, [0x60, 0, 0, 0, 0, ICMP_LENGTH, protocol::ICMPV6, ON_LINK]);
        put(frame, SOURCE, target);
        put(frame, DESTINATION, to);
        put(frame, ICMP, [ADVERTISEMENT, 0, 0, 0, solicited | OVERRIDE, 0, 0, 0]);
        put(frame, OPTION, TARGET_OPTION);
        put(frame, OPTION + 2, mac);
        let sum = Delta::default()
            .plus(u16::from(ICMP_LENGTH).to_be())
            .plus(u16::from(protocol::ICMPV6).to_be())
            .bytes(&target)
            .bytes(&to)
            .bytes::<{ ICMP_LENGTH as usize }>(&part(frame, ICMP));
        put(frame, ICMP_CHECKSUM, sum.checksum());
        const { assert!(ICMP_FLAGS == ICMP + 4 && ICMP_TARGET == ICMP + 8) };
    }
}

#[cfg(test)]
mod tests;
