//! Layouts of the maps of the decapsulator, `slb-decap`, which has nothing in common with those of the daemon.
//!
//! Invariants: a policy is written before a program sees it and never changed afterwards, so that program and policy
//! are replaced in one step; every frame is counted under exactly one reason.

use super::{Address, named::named};

/// Version of everything in this module, part of the path of the pins.
pub const DECAP_ABI_VERSION: u32 = 1;

/// Addresses in each list of a policy.
pub const MAX_ADDRESSES: usize = 64;

/// Whose packets are stripped, and for whom.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Always 0, which the verifier does not know.
    zero: u32,
    /// Keeps the size a multiple of eight.
    reserved: u32,
    /// Outer sources whose packets are stripped: none if the list is empty.
    sources: Addresses,
    /// Inner destinations that may be reached: any if the list is empty.
    destinations: Addresses,
}

/// A list of addresses.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Addresses {
    len: u32,
    reserved: u32,
    entries: [Address; MAX_ADDRESSES],
}

impl Policy {
    /// A policy; `None` if a list is too long.
    #[must_use]
    pub fn new(sources: &[Address], destinations: &[Address]) -> Option<Self> {
        Some(Self {
            zero: 0,
            reserved: 0,
            sources: Addresses::new(sources)?,
            destinations: Addresses::new(destinations)?,
        })
    }

    /// The outer sources whose packets are stripped.
    pub fn sources(&self) -> &[Address] {
        self.sources.as_slice()
    }

    /// The only inner destinations that may be reached, unless there are none.
    pub fn destinations(&self) -> &[Address] {
        self.destinations.as_slice()
    }

    /// Whether packets from this outer source are stripped.
    #[inline(always)]
    pub fn allows(&self, source: &Address) -> bool {
        self.sources.contain(source)
    }

    /// Whether this inner destination may be reached.
    #[inline(always)]
    pub fn accepts(&self, destination: &Address) -> bool {
        self.destinations.len == 0 || self.destinations.contain(destination)
    }

    /// Returns `value`, of which the verifier knows nothing any more: paths that differ only in an offset are joined.
    #[inline(always)]
    pub fn hide(&self, value: usize) -> usize {
        // SAFETY: a reference to an aligned word; volatile, for the compiler not to learn that nobody writes it.
        (value as u32 ^ unsafe { (&raw const self.zero).read_volatile() }) as usize
    }
}

impl Addresses {
    fn new(addresses: &[Address]) -> Option<Self> {
        let mut entries = [Address::default(); MAX_ADDRESSES];
        entries.get_mut(..addresses.len())?.copy_from_slice(addresses);
        Some(Self { len: addresses.len() as u32, reserved: 0, entries })
    }

    fn as_slice(&self) -> &[Address] {
        &self.entries[..MAX_ADDRESSES.min(self.len as usize)]
    }

    #[inline(always)]
    fn contain(&self, address: &Address) -> bool {
        for (i, entry) in self.entries.iter().enumerate() {
            if i as u32 >= self.len {
                break;
            }
            if entry.same(address) {
                return true;
            }
        }
        false
    }
}

named! {
    /// What becomes of a frame.
    enum Action:
    /// The inner packet goes to the kernel in place of the tunnel packet.
    Strip = "strip",
    /// The frame is left to the kernel, unchanged.
    Pass = "pass",
    /// The frame is dropped.
    Drop = "drop",
}

named! {
    /// Why. The reason decides the action.
    enum Reason:
    /// IPv4 in IPv4.
    V4InV4 = "ipv4_in_ipv4",
    /// IPv6 in IPv4.
    V6InV4 = "ipv6_in_ipv4",
    /// IPv4 in IPv6.
    V4InV6 = "ipv4_in_ipv6",
    /// IPv6 in IPv6.
    V6InV6 = "ipv6_in_ipv6",
    /// A frame to a group of stations.
    LinkMulticast = "link_multicast",
    /// Neither IPv4 nor IPv6.
    NotIp = "not_ip",
    /// An IP packet that carries no other.
    NotTunnel = "not_tunnel",
    /// A frame that ends before its headers do, or an outer header that contradicts itself or the frame.
    BadOuter = "bad_outer",
    /// A fragment of a tunnel packet.
    Fragment = "fragment",
    /// More, or longer, IPv6 destination options than are walked.
    ExtensionHeaders = "extension_headers",
    /// A tunnel packet of a source that is not in the policy.
    SourceNotAllowed = "source_not_allowed",
    /// The inner packet is not of the version that the outer header says.
    InnerVersion = "inner_version",
    /// The inner header contradicts itself or the length of the outer packet.
    BadInner = "bad_inner",
    /// TTL or hop limit of the inner packet used up.
    InnerHopLimit = "inner_hop_limit",
    /// The inner destination is not in the policy.
    DestinationNotAccepted = "destination_not_accepted",
    /// Congestion was experienced on the way, and the inner packet has no place to say so (RFC 6040, 4.2).
    Congestion = "congestion",
    /// The kernel has not cut the outer header off.
    NotCut = "not_cut",
}

impl Reason {
    /// What becomes of the frame.
    #[inline(always)]
    pub const fn action(self) -> Action {
        match self {
            Self::V4InV4 | Self::V6InV4 | Self::V4InV6 | Self::V6InV6 => Action::Strip,
            Self::LinkMulticast
            | Self::NotIp
            | Self::NotTunnel
            | Self::BadOuter
            | Self::Fragment
            | Self::ExtensionHeaders
            | Self::SourceNotAllowed => Action::Pass,
            Self::InnerVersion
            | Self::BadInner
            | Self::InnerHopLimit
            | Self::DestinationNotAccepted
            | Self::Congestion
            | Self::NotCut => Action::Drop,
        }
    }
}

/// Room for reasons, a power of two.
pub const REASONS: usize = 32;

/// Frames by reason on one processor.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// `frames[reason]`.
    pub frames: [u64; REASONS],
}

const _: () = assert!(Reason::ALL.len() <= REASONS);
const _: () = assert!(size_of::<Policy>() == 8 + 2 * (8 + 16 * MAX_ADDRESSES));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_hold_what_they_were_made_of() {
        let addresses: Vec<_> = (0..=MAX_ADDRESSES as u8).map(|n| Address::v4([192, 0, 2, n])).collect();
        let full = Policy::new(&addresses[1..], &[]).unwrap();
        assert_eq!(full.sources(), &addresses[1..]);
        assert!(addresses[1..].iter().all(|address| full.allows(address)));
        assert!(!full.allows(&addresses[0]) && !full.allows(&Address::default()));
        assert!(Policy::new(&addresses, &[]).is_none());
        assert!(Policy::new(&[], &addresses).is_none());
    }

    #[test]
    fn no_source_means_nobody_and_no_destination_means_all() {
        let empty = Policy::new(&[], &[]).unwrap();
        let (one, other) = (Address::v4([192, 0, 2, 1]), Address::v6([1; 16]));
        assert!(!empty.allows(&one) && empty.accepts(&one) && empty.accepts(&other));
        let bound = Policy::new(&[], &[one]).unwrap();
        assert!(bound.accepts(&one) && !bound.accepts(&other));
    }
}
