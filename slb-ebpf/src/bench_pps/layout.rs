//! Map layouts that the programs of `slb-bench pps` and the benchmark share. Both include this file.

/// Length of the source's frames in eight-byte words: the shortest Ethernet frame, rounded up.
pub(crate) const FRAME_WORDS: usize = 8;

/// Servers with counters of their own, by the low bits of their hardware address.
pub(crate) const SERVERS: usize = 16;

/// The frames to send. The value of the map `SOURCE`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    /// The frame; both checksums, source address and source port are zero.
    pub(crate) frame: [u64; FRAME_WORDS],
    /// Frames sent so far. The number of the next flow follows from it.
    pub(crate) sent: u64,
    /// Sum of the IPv4 header of `frame`, not folded.
    pub(crate) ip_sum: u32,
    /// Sum of the TCP header of `frame` and its pseudo-header, not folded.
    pub(crate) tcp_sum: u32,
    /// Factor of the flow number `sent * stride & mask`. An odd stride visits all flows, in an order of its own.
    pub(crate) stride: u32,
    /// Number of flows less one; the number is a power of two.
    pub(crate) mask: u32,
    /// Index of the interface that the frames leave through.
    pub(crate) ifindex: u32,
    /// Padding; zero.
    pub(crate) padding: u32,
}

/// The frames that should arrive. The value of the map `EXPECTED`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExpectedFrames {
    /// Destination address under `mask`, in network byte order.
    pub(crate) address: u32,
    /// Bits of the destination address that are compared.
    pub(crate) mask: u32,
    /// IP protocol of the outermost header.
    pub(crate) protocol: u32,
    /// Destination port, in network byte order; 0 compares no port.
    pub(crate) port: u32,
}

/// The frames that have arrived, per processor. The value of the map `ARRIVED`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct SinkCounters {
    /// IPv4 frames as expected.
    pub(crate) expected: u64,
    /// Other IPv4 frames.
    pub(crate) unexpected: u64,
    /// Frames as expected, by the low bits of their destination hardware address.
    pub(crate) servers: [u64; SERVERS],
}
