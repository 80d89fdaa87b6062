//! Values of the maps that the programs of `slb-bench pps` and the benchmark share. Included by both.

/// Length of the frames the source makes, in eight-byte words; the shortest that Ethernet allows, rounded up.
pub(crate) const FRAME_WORDS: usize = 8;

/// Servers whose frames are counted one by one: by the low bits of their hardware address.
pub(crate) const SERVERS: usize = 16;

/// What the source sends. One of them, in the map `SOURCE`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    /// The frame, with both checksums, the source address and the source port zero.
    pub(crate) frame: [u64; FRAME_WORDS],
    /// Frames sent so far; also what the flow of the next one is made from.
    pub(crate) sent: u64,
    /// Sum of the IPv4 header of `frame`, not folded.
    pub(crate) ip_sum: u32,
    /// Sum of the TCP header of `frame` and its pseudo header, not folded.
    pub(crate) tcp_sum: u32,
    /// Flow number: `sent * stride & mask`. An odd stride goes through all flows, in an order of its own.
    pub(crate) stride: u32,
    /// One less than the number of flows, a power of two.
    pub(crate) mask: u32,
    /// Interface the frames leave through.
    pub(crate) ifindex: u32,
    /// Zero.
    pub(crate) padding: u32,
}

/// What frames are to look like where they arrive. One of them, in the map `EXPECTED`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Destination address, as in the frame, where `mask` has ones.
    pub(crate) address: u32,
    /// Bits of the destination address that matter.
    pub(crate) mask: u32,
    /// IP protocol of the (outer) header.
    pub(crate) protocol: u32,
    /// Destination port, as in the frame; 0 where there is none to look at.
    pub(crate) port: u32,
}

/// What arrived. One of them per processor, in the map `ARRIVED`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrived {
    /// IPv4 frames as expected.
    pub(crate) right: u64,
    /// Other IPv4 frames.
    pub(crate) wrong: u64,
    /// Those as expected, by the low bits of their hardware destination address.
    pub(crate) servers: [u64; SERVERS],
}
