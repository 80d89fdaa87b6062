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
const ICMP_TARGET: usize = 62;
const OPTION: usize = 78;

/// All nodes of a link (RFC 4291, 2.7.1), and the hardware address for it (RFC 2464, 7).
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// An ARP frame.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ArpFrame(pub [u8; ARP_LENGTH]);

/// A frame of neighbour discovery.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct DiscoveryFrame(pub [u8; ADVERTISEMENT_LENGTH]);

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
    /// The address that the frame asks for; `None` if it is no request, or another host's announcement.
    #[inline(always)]
    pub fn requested(&self) -> Option<Address> {
        let frame = &self.0;
        let mut differs = frame[OPERATION] | (frame[OPERATION + 1] ^ REQUEST);
        let mut i = 0;
        while i < ARP_TYPES.len() {
            differs |= frame[NETWORK + i] ^ ARP_TYPES[i];
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
        if !is_valid {
            return None;
        }
        // Word by word: the compiler would store two at once where they are not aligned.
        let word =
            |number: usize| opaque(u32::from_ne_bytes(word(frame, ICMP_TARGET + 4 * number)).into()) as u32;
        Some(Address([word(0), word(1), word(2), word(3)]))
    }

    /// Makes a solicitation the advertisement that its target is at `mac`.
    #[inline(always)]
    pub fn advertise(&mut self, mac: &Mac) {
        let frame = &mut self.0;
        let mut source = 0;
        let mut i = 0;
        while i < 16 {
            source |= frame[SOURCE + i];
            i += 1;
        }
        // A host without an address yet receives it as all others do (RFC 4861, 7.2.4).
        let solicited = if source == 0 {
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
        // Addresses and ICMPv6 are behind each other.
        let mut sum =
            Delta::default().plus(u16::from(ICMP_LENGTH).to_be()).plus(u16::from(protocol::ICMPV6).to_be());
        let mut at = SOURCE;
        while at < ADVERTISEMENT_LENGTH {
            sum = sum.plus(u16::from_ne_bytes([frame[at], frame[at + 1]]));
            at += 2;
        }
        let checksum = sum.checksum();
        put(frame, ICMP_CHECKSUM, &checksum);
    }
}

#[cfg(test)]
mod tests;
