//! Layouts of the maps of the decapsulator, `slb-decap`. They share nothing with those of the daemon.
//!
//! Invariants: a policy is written before a program uses it and never changes after that. So program and policy are
//! replaced in one step. Every frame counts under exactly one reason.

use super::{Address, address_list::AddressList, named_enum::named_enum};

pub use super::address_list::MAX_ADDRESSES;

/// Version of all layouts in this module, part of the pins' path.
pub const DECAP_ABI_VERSION: u32 = 1;

/// Which tunnel packets are decapsulated.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecapPolicy {
    /// Always 0, which the verifier does not know.
    zero: u32,
    /// UDP destination port of GUE tunnel packets, in network byte order; 0 for none.
    gue_port: u32,
    /// Outer sources whose packets are decapsulated; an empty list allows none.
    sources: AddressList,
    /// Inner destinations that packets may have; an empty list allows all.
    destinations: AddressList,
}

impl DecapPolicy {
    /// A policy without GUE; `None` if a list has more than [`MAX_ADDRESSES`] addresses.
    #[must_use]
    pub fn new(sources: &[Address], destinations: &[Address]) -> Option<Self> {
        Some(Self {
            zero: 0,
            gue_port: 0,
            sources: AddressList::new(sources)?,
            destinations: AddressList::new(destinations)?,
        })
    }

    /// The same policy, which decapsulates UDP datagrams to this port, too; 0 for none.
    #[must_use]
    pub const fn with_gue_port(self, port: u16) -> Self {
        Self { gue_port: port.to_be() as u32, ..self }
    }

    /// UDP destination port of GUE tunnel packets; `None` if there are none.
    pub fn gue_port(&self) -> Option<u16> {
        Some(u16::from_be(self.gue_port as u16)).filter(|port| *port != 0)
    }

    /// Whether UDP datagrams to this port, in network byte order, are GUE tunnel packets.
    #[inline(always)]
    pub const fn is_gue(&self, port: u16) -> bool {
        port != 0 && self.gue_port == port as u32
    }

    /// Outer sources whose packets are decapsulated; empty for none.
    pub fn sources(&self) -> &[Address] {
        self.sources.as_slice()
    }

    /// Inner destinations that packets may have; empty for all.
    pub fn destinations(&self) -> &[Address] {
        self.destinations.as_slice()
    }

    /// Whether packets from this outer source are decapsulated.
    #[inline(always)]
    pub fn allows(&self, source: &Address) -> bool {
        self.sources.contains(source)
    }

    /// Whether packets may have this inner destination.
    #[inline(always)]
    pub fn accepts(&self, destination: &Address) -> bool {
        self.destinations.is_empty() || self.destinations.contains(destination)
    }

    /// Returns `value`, of which the verifier then knows nothing. Paths that differ only in an offset are joined.
    #[inline(always)]
    pub fn forget(&self, value: usize) -> usize {
        // SAFETY: a reference to an aligned word; volatile, so that the compiler does not learn that it never changes.
        (value as u32 ^ unsafe { (&raw const self.zero).read_volatile() }) as usize
    }
}

named_enum! {
    /// What the program does with a frame.
    enum DecapAction:
    /// Decapsulated: the inner packet goes to the kernel in place of the tunnel packet.
    Strip = "strip",
    /// Passed to the kernel, unchanged.
    Pass = "pass",
    /// Dropped.
    Drop = "drop",
}

named_enum! {
    /// Why the program takes an action. The reason decides the action.
    enum DecapReason:
    /// IPv4 in IPv4.
    V4InV4 = "ipv4_in_ipv4",
    /// IPv6 in IPv4.
    V6InV4 = "ipv6_in_ipv4",
    /// IPv4 in IPv6.
    V4InV6 = "ipv4_in_ipv6",
    /// IPv6 in IPv6.
    V6InV6 = "ipv6_in_ipv6",
    /// A frame to a group address.
    LinkMulticast = "link_multicast",
    /// Neither IPv4 nor IPv6.
    NotIp = "not_ip",
    /// An IP packet that contains no other.
    NotTunnel = "not_tunnel",
    /// The frame ends within its headers, or the outer header contradicts itself or the frame.
    BadOuter = "bad_outer",
    /// A fragment of a tunnel packet.
    Fragment = "fragment",
    /// IPv6 destination options that are more, or longer, than the program reads.
    ExtensionHeaders = "extension_headers",
    /// A tunnel packet whose source is not in the policy.
    SourceNotAllowed = "source_not_allowed",
    /// The inner packet does not have the IP version that the outer header names.
    InnerVersion = "inner_version",
    /// The inner header contradicts itself or the length of the outer packet.
    BadInner = "bad_inner",
    /// TTL or hop limit of the inner packet is used up.
    InnerHopLimit = "inner_hop_limit",
    /// The inner destination is not in the policy.
    DestinationNotAccepted = "destination_not_accepted",
    /// Routers marked congestion in the outer header, and the inner packet is not ECN-capable (RFC 6040, 4.2).
    Congestion = "congestion",
    /// The kernel refused to cut the outer header off.
    NotCut = "not_cut",
    /// A GUE packet with a control message, flags or extension fields, or of an unknown variant.
    GueHeader = "gue_header",
}

impl DecapReason {
    /// The action of this reason.
    #[inline(always)]
    pub const fn action(self) -> DecapAction {
        match self {
            Self::V4InV4 | Self::V6InV4 | Self::V4InV6 | Self::V6InV6 => DecapAction::Strip,
            Self::LinkMulticast
            | Self::NotIp
            | Self::NotTunnel
            | Self::BadOuter
            | Self::Fragment
            | Self::ExtensionHeaders
            | Self::GueHeader
            | Self::SourceNotAllowed => DecapAction::Pass,
            Self::InnerVersion
            | Self::BadInner
            | Self::InnerHopLimit
            | Self::DestinationNotAccepted
            | Self::Congestion
            | Self::NotCut => DecapAction::Drop,
        }
    }
}

/// Size of the array by reason, a power of two.
pub const DECAP_REASONS: usize = 32;

/// Frames by reason on one processor.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DecapCounters {
    /// `frames[reason]`.
    pub frames: [u64; DECAP_REASONS],
}

const _: () = assert!(DecapReason::ALL.len() <= DECAP_REASONS);
const _: () = assert!(size_of::<DecapPolicy>() == 8 + 2 * (8 + 16 * MAX_ADDRESSES));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decap_policy_allows_exactly_its_sources_up_to_the_limit() {
        let addresses: Vec<_> = (0..=MAX_ADDRESSES as u8).map(|n| Address::v4([192, 0, 2, n])).collect();
        let full = DecapPolicy::new(&addresses[1..], &[]).unwrap();
        assert_eq!(full.sources(), &addresses[1..]);
        assert!(addresses[1..].iter().all(|address| full.allows(address)));
        assert!(!full.allows(&addresses[0]) && !full.allows(&Address::default()));
        assert!(DecapPolicy::new(&addresses, &[]).is_none());
        assert!(DecapPolicy::new(&[], &addresses).is_none());
    }

    #[test]
    fn empty_sources_allow_none_and_empty_destinations_allow_all() {
        let empty = DecapPolicy::new(&[], &[]).unwrap();
        let (one, other) = (Address::v4([192, 0, 2, 1]), Address::v6([1; 16]));
        assert!(!empty.allows(&one) && empty.accepts(&one) && empty.accepts(&other));
        let bound = DecapPolicy::new(&[], &[one]).unwrap();
        assert!(bound.accepts(&one) && !bound.accepts(&other));
    }
}
