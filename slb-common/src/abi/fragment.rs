//! Records of first fragments, which lead the later fragments of a packet to the same end.

use super::{Address, Handle, flow::ClientPath, source::Source};

/// Most records. The kernel replaces the least recently used one.
pub const MAX_FRAGMENTED: usize = 1 << 14;

/// What all fragments of a packet have in common (RFC 791, 2.3; RFC 8200, 4.5).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source address, as in the frame that arrives.
    pub source: Address,
    /// Destination address, as in the frame that arrives.
    pub destination: Address,
    /// Identification, in network byte order.
    pub id: u32,
    /// IP protocol number.
    pub protocol: u32,
}

/// Where the first fragment of a packet went.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentRecord {
    /// The server that it went to or came from.
    pub server: Handle,
    /// The client path of a server's packet; 0 for a client's packet.
    pub client: ClientPath,
    /// [`Handle::tag`] of the service.
    pub service: u32,
    /// Source port in the lower half, destination port in the upper half; each in network byte order.
    pub ports: u32,
    /// When it arrived, in jiffies.
    pub since: u32,
    /// The flow's source.
    pub source: Source,
}

const _: () = assert!(size_of::<FragmentKey>() == 40 && size_of::<FragmentRecord>() == 32);
