//! Tunnel packets of the modes `ipip` and `gue`.

use std::net::IpAddr;

use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header};

use crate::{
    bytes::{put, word},
    checksum::sum,
    packet::{Packet, number},
    rewrite::HOP_LIMIT,
    world::{GUE_PORT, Hop, Mode, World},
};

const UDP_HEADER: usize = 8;
/// First port of the range for source ports of tunnels (RFC 6335, 6).
const FIRST_EPHEMERAL: u16 = 49_152;

/// By what routers tell the flows in tunnels apart: SLB chooses it, and must keep it for a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TunnelFlow {
    /// Flow label of an outer IPv6 header; 0 over IPv4.
    label: u32,
    /// Outer UDP source port in mode `gue`; 0 in mode `ipip`.
    port: u16,
    /// The last four bytes of the outer source address.
    source: u32,
}

impl TunnelFlow {
    /// Reads it from a frame with up to two VLAN tags. A port out of its range is replaced.
    pub(crate) fn read(frame: &[u8], mode: Mode) -> Self {
        let is_tag = |at: usize| matches!(frame.get(at..at + 2), Some([0x81, 0] | [0x88, 0xa8]));
        let tags = [12, 16].into_iter().take_while(|at| is_tag(*at)).count();
        let network = 14 + 4 * tags;
        let (label, source, transport) = match frame.get(network..network + 4) {
            Some([first, a, b, c]) if first >> 4 == 6 => {
                (u32::from_be_bytes([0, a & 0x0f, *b, *c]), network + 20, network + 40)
            }
            _ => (0, network + 12, network + 20),
        };
        let source =
            frame.get(source..source + 4).map_or(0, |at| u32::from_be_bytes([at[0], at[1], at[2], at[3]]));
        let port =
            if mode == Mode::Gue { word(frame, transport).unwrap_or(0).max(FIRST_EPHEMERAL) } else { 0 };
        Self { label, port, source }
    }
}

impl Packet {
    /// The frame inside a tunnel packet of this mode to the server.
    pub(crate) fn encapsulated(
        &self,
        world: &World,
        mode: Mode,
        server: IpAddr,
        hop: &Hop,
        flow: TunnelFlow,
    ) -> Vec<u8> {
        let mut inner = self.frame.clone();
        inner[self.hop_limit_at()] -= 1;
        self.refresh_header(&mut inner, self.network);
        let ip = &inner[self.network..];
        let (class, mut protocol, mut len) = if self.is_v4() {
            (ip[1], number::IPV4, u16::from_be_bytes([ip[2], ip[3]]))
        } else {
            let len = u16::from_be_bytes([ip[4], ip[5]]);
            (ip[0] << 4 | ip[1] >> 4, number::IPV6, len + 40)
        };
        if mode == Mode::Gue {
            (protocol, len) = (number::UDP, len + UDP_HEADER as u16);
        }
        let mut out = self.readdressed(hop.peer, hop.own);
        out.truncate(self.network - 2);
        let source_v4 = world.tunnel.0.to_bits() | flow.source & world.tunnel_by_flow.0;
        let source_v6 = world.tunnel.1.to_bits() | u128::from(flow.source & world.tunnel_by_flow.1);
        match server {
            IpAddr::V4(to) => {
                let from = source_v4.to_be_bytes();
                let mut header = Ipv4Header::new(len, HOP_LIMIT, IpNumber(protocol), from, to.octets())
                    .expect("the packet was below the MTU");
                header.dscp = (class >> 2).try_into().expect("six bits");
                header.ecn = (class & 3).try_into().expect("two bits");
                header.header_checksum = header.calc_header_checksum();
                out.extend([8, 0]);
                out.extend(header.to_bytes());
            }
            IpAddr::V6(to) => {
                let header = Ipv6Header {
                    traffic_class: class,
                    flow_label: Ipv6FlowLabel::try_new(flow.label).expect("20 bits"),
                    payload_length: len,
                    next_header: IpNumber(protocol),
                    hop_limit: HOP_LIMIT,
                    source: source_v6.to_be_bytes(),
                    destination: to.octets(),
                };
                out.extend([0x86, 0xdd]);
                out.extend(header.to_bytes());
            }
        }
        if mode == Mode::Gue {
            let mut header = [flow.port, GUE_PORT, len, 0].map(u16::to_be_bytes).concat();
            if let IpAddr::V6(to) = server
                && let Some(right) = self.with_right_checksums(&inner)
            {
                let ends = [source_v6.to_be_bytes(), to.octets()].concat();
                let ip = &right[self.network..self.network + usize::from(len) - UDP_HEADER];
                let covered = [&ends[..], &len.to_be_bytes(), &[0, number::UDP], &header, ip].concat();
                let check = !sum(&covered);
                // RFC 768: 0 would mean no checksum.
                put(&mut header, 6, if check == 0 { 0xffff } else { check });
            }
            out.extend(header);
        }
        out.extend(ip);
        out
    }

    /// `inner`, which is this packet with another TTL, with right checksums; `None` if they do not cover all of it, so
    /// that SLB does not know the sum of its bytes.
    fn with_right_checksums(&self, inner: &[u8]) -> Option<Vec<u8>> {
        let end = self.network + self.len;
        let covered = end - self.transport;
        let is_extended = !self.is_v4() && !self.is_plain();
        let is_unchecked = self.number == number::UDP
            && (word(inner, self.transport + 6) == Some(0)
                || word(inner, self.transport + 4).map(usize::from) != Some(covered));
        if self.fragment.is_some() || is_extended || is_unchecked {
            return None;
        }
        let mut right = inner.to_vec();
        if self.is_v4() {
            put(&mut right, self.network + 10, 0);
            let check = !sum(&right[self.network..self.transport]);
            put(&mut right, self.network + 10, check);
        }
        let at = self.transport
            + match self.number {
                number::TCP => 16,
                number::UDP => 6,
                _ => 2,
            };
        put(&mut right, at, 0);
        let pseudo_header = match (self.is_v4(), self.number) {
            (true, number::ICMP) => Vec::new(),
            (is_v4, number) => {
                let ends = if is_v4 { 12..20 } else { 8..40 };
                let ends = &right[self.network + ends.start..self.network + ends.end];
                [ends, &(covered as u16).to_be_bytes(), &[0, number]].concat()
            }
        };
        let check = !sum(&[&pseudo_header, &right[self.transport..end]].concat());
        put(&mut right, at, check);
        Some(right)
    }
}
