//! `slb-bench pps`: the maps of its XDP programs.

use core::net::Ipv4Addr;

use slb_common::net::headers::protocol;

/// Length of the source's frames in eight-byte words: the shortest Ethernet frame, rounded up.
pub const FRAME_WORDS: usize = 8;

/// Servers with counters of their own, by the low bits of their hardware address.
pub const SERVERS: usize = 16;

/// The frames to send. The value of the map `SOURCE`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// The frame; both checksums, source address and source port are zero.
    pub frame: [u64; FRAME_WORDS],
    /// Frames sent so far. The number of the next flow follows from it.
    pub sent: u64,
    /// Sum of the IPv4 header of `frame`, not folded.
    pub ip_sum: u32,
    /// Sum of the TCP header of `frame` and its pseudo-header, not folded.
    pub tcp_sum: u32,
    /// Factor of the flow number `sent * stride & mask`. An odd stride visits all flows, in an order of its own.
    pub stride: u32,
    /// Number of flows less one; the number is a power of two.
    pub mask: u32,
    /// Index of the interface that the frames leave through.
    pub ifindex: u32,
    /// Padding; zero.
    pub padding: u32,
}

/// The frames that should arrive. The value of the map `EXPECTED`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedFrames {
    /// Destination address under `mask`, in network byte order.
    pub address: u32,
    /// Bits of the destination address that are compared.
    pub mask: u32,
    /// IP protocol of the outermost header.
    pub protocol: u32,
    /// Destination port, in network byte order; 0 compares no port.
    pub port: u32,
}

/// The frames that have arrived, per processor. The value of the map `ARRIVED`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct SinkCounters {
    /// IPv4 frames as expected.
    pub expected: u64,
    /// Other IPv4 frames.
    pub unexpected: u64,
    /// Frames as expected, by the low bits of their destination hardware address.
    pub servers: [u64; SERVERS],
}

impl ExpectedFrames {
    /// Expects frames to a TCP port and to addresses within a prefix.
    #[must_use]
    pub fn tcp((address, prefix): (Ipv4Addr, u32), port: u16) -> Self {
        let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0).to_be();
        let address = u32::from(address).to_be() & mask;
        Self { address, mask, protocol: protocol::TCP.into(), port: port.to_be().into() }
    }

    /// Expects frames with an inner IPv4 packet, to addresses within a prefix.
    #[must_use]
    pub fn tunnel(to: (Ipv4Addr, u32)) -> Self {
        Self { protocol: protocol::IPV4.into(), ..Self::tcp(to, 0) }
    }
}

impl SinkCounters {
    /// The frames that have arrived since `before`.
    #[must_use]
    pub fn since(mut self, before: &Self) -> Self {
        self.expected -= before.expected;
        self.unexpected -= before.unexpected;
        self.servers.iter_mut().zip(before.servers).for_each(|(now, before)| *now -= before);
        self
    }
}

// SAFETY: `repr(C)` of integers and arrays of integers without implicit padding; any bytes are valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Source {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for ExpectedFrames {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for SinkCounters {}
