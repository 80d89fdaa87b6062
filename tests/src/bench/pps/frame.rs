//! The frame that the source sends, without the fields that it varies.

use std::net::Ipv4Addr;

use slb_bench_common::pps::FRAME_WORDS;

/// Length of a frame; the last ten bytes are padding, as in every short frame.
const LENGTH: usize = FRAME_WORDS * 8;

/// Kind of a TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bench) enum BenchSegment {
    /// A SYN.
    Syn,
    /// An ACK of an established connection.
    Ack,
}

/// A TCP segment without data; source address, source port and checksums are zero.
#[derive(Debug, Clone, Copy)]
pub(in crate::bench) struct BenchFrame([u8; LENGTH]);

impl BenchFrame {
    /// Builds a frame.
    pub(in crate::bench) fn new(
        from: [u8; 6],
        to: [u8; 6],
        address: Ipv4Addr,
        port: u16,
        segment: BenchSegment,
    ) -> Self {
        let mut bytes = [0; LENGTH];
        let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
        put(0, &to);
        put(6, &from);
        put(12, &[0x08, 0x00]);
        // Version and header length, total length, DF, TTL, protocol.
        put(14, &[0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6]);
        put(30, &address.octets());
        put(36, &port.to_be_bytes());
        let (acknowledged, flags) = match segment {
            BenchSegment::Syn => (0, 0x02),
            BenchSegment::Ack => (1, 0x10),
        };
        // Sequence and acknowledgement numbers, data offset, flags, window.
        put(38, &[0, 0, 0, 1, 0, 0, 0, acknowledged, 0x50, flags, 0xff, 0xff]);
        Self(bytes)
    }

    /// The frame as 64-bit words, as the source writes it.
    pub(in crate::bench) fn words(&self) -> [u64; FRAME_WORDS] {
        let (words, _) = self.0.as_chunks();
        std::array::from_fn(|n| u64::from_ne_bytes(words[n]))
    }

    /// Sums of the IPv4 header, and of the TCP header with its pseudo-header, in host byte order.
    pub(in crate::bench) fn sums(&self) -> (u32, u32) {
        let sum = |range| {
            let (words, _) = <[u8]>::as_chunks(&self.0[range]);
            words.iter().map(|word| u32::from(u16::from_ne_bytes(*word))).sum::<u32>()
        };
        let pseudo = sum(30..34) + u32::from(6_u16.to_be()) + u32::from(20_u16.to_be());
        (sum(14..34), sum(34..54) + pseudo)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use etherparse::{NetHeaders, PacketHeaders, TransportHeader};

    use super::{BenchFrame, BenchSegment};

    /// Folds a sum into a checksum, as the source does.
    fn checksum(mut sum: u32) -> [u8; 2] {
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_ne_bytes()
    }

    #[test]
    fn partial_sums_complete_to_valid_checksums() {
        for segment in [BenchSegment::Syn, BenchSegment::Ack] {
            let frame = BenchFrame::new(
                [2, 0, 0, 0, 0, 1],
                [2, 0, 0, 0, 0, 2],
                [198, 51, 100, 10].into(),
                80,
                segment,
            );
            let mut bytes: Vec<u8> = frame.words().iter().flat_map(|word| word.to_ne_bytes()).collect();
            let (source, port) = (Ipv4Addr::new(198, 18, 3, 4), 4321_u16);
            bytes[26..30].copy_from_slice(&source.octets());
            bytes[34..36].copy_from_slice(&port.to_be_bytes());
            let [a, b, c, d] = source.octets();
            let varying = u32::from(u16::from_ne_bytes([a, b])) + u32::from(u16::from_ne_bytes([c, d]));
            let (ip, tcp) = frame.sums();
            let headers = PacketHeaders::from_ethernet_slice(&bytes).unwrap();
            let Some(NetHeaders::Ipv4(header, _)) = headers.net else {
                panic!("not IPv4");
            };
            let Some(TransportHeader::Tcp(tcp_header)) = headers.transport else { panic!("not TCP") };
            assert_eq!(checksum(ip + varying), header.calc_header_checksum().to_be_bytes());
            let expected = tcp_header.calc_checksum_ipv4(&header, &[]).unwrap();
            assert_eq!(checksum(tcp + varying + u32::from(port.to_be())), expected.to_be_bytes());
            assert_eq!(tcp_header.syn, segment == BenchSegment::Syn);
        }
    }
}
