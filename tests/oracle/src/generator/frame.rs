//! Builds frames. Their checksums are right, as `etherparse` computes them.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, TcpHeader, UdpHeader};

use crate::{checksum::sum, packet::number, world::Mac};

/// A frame to build.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) receiver: Mac,
    pub(super) sender: Mac,
    /// Type and control of each VLAN tag.
    pub(super) tags: Vec<(u16, u16)>,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) hop_limit: u8,
    /// Words of IPv4 options.
    pub(super) options: usize,
    /// Kind and units of eight bytes of each IPv6 extension header.
    pub(super) extensions: Vec<(u8, u8)>,
    pub(super) may_fragment: bool,
    pub(super) traffic_class: u8,
    pub(super) content: Content,
    pub(super) padding: usize,
}

/// What a frame carries.
#[derive(Debug, Clone)]
pub(super) enum Content {
    Tcp(Box<TcpHeader>, Vec<u8>),
    /// Ports, payload, and whether there is a checksum.
    Udp([u16; 2], Vec<u8>, bool),
    /// Type, code, and the bytes after the checksum.
    Icmp([u8; 2], Vec<u8>),
    /// Another protocol.
    Other(u8, Vec<u8>),
}

/// A built frame. Offsets are for mutations.
#[derive(Debug, Clone)]
pub(super) struct Built {
    pub(super) bytes: Vec<u8>,
    pub(super) network: usize,
    pub(super) transport: usize,
    /// Offset of the field that names what is behind the IP headers.
    next: usize,
    /// Offset behind the IP packet.
    end: usize,
}

impl Built {
    pub(super) fn is_v4(&self) -> bool {
        self.bytes[self.network] >> 4 == 4
    }

    /// Length behind the IP headers, in bytes.
    pub(super) fn content(&self) -> usize {
        self.end - self.transport
    }

    /// The fragment of `len` bytes from `at` on, a multiple of eight (RFC 791, 3.2; RFC 8200, 4.5).
    pub(super) fn fragment(&self, id: u32, at: usize, len: usize, more: bool) -> Self {
        let (network, mut bytes) = (self.network, self.bytes[..self.transport].to_vec());
        let put = |bytes: &mut Vec<u8>, at: usize, word: u16| {
            bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
        };
        let headers = self.transport - network;
        if self.is_v4() {
            put(&mut bytes, network + 2, (headers + len) as u16);
            put(&mut bytes, network + 4, id as u16);
            put(&mut bytes, network + 6, (at / 8) as u16 | u16::from(more) << 13);
            put(&mut bytes, network + 10, 0);
            let check = !sum(&bytes[network..]);
            put(&mut bytes, network + 10, check);
        } else {
            put(&mut bytes, network + 4, (headers - 40 + 8 + len) as u16);
            let number = std::mem::replace(&mut bytes[self.next], number::FRAGMENT);
            bytes.extend([number, 0]);
            bytes.extend((at as u16 | u16::from(more)).to_be_bytes());
            bytes.extend(id.to_be_bytes());
        }
        let transport = bytes.len();
        bytes.extend(&self.bytes[self.transport + at..self.transport + at + len]);
        let end = bytes.len();
        bytes.extend(&self.bytes[self.end..]);
        Self { bytes, transport, end, ..*self }
    }
}

impl Draft {
    pub(super) fn build(self) -> Built {
        let (number, content) = self.content();
        let mut bytes = [self.receiver, self.sender].concat();
        for (kind, control) in &self.tags {
            bytes.extend(kind.to_be_bytes());
            bytes.extend(control.to_be_bytes());
        }
        let network = bytes.len() + 2;
        let mut next_field = network + if self.source.is_ipv4() { 9 } else { 6 };
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                bytes.extend([8, 0]);
                let len = content.len() as u16;
                let mut ip = Ipv4Header::new(
                    len,
                    self.hop_limit,
                    IpNumber(number),
                    source.octets(),
                    destination.octets(),
                )
                .expect("packets are short");
                ip.options = [1; 40][..4 * self.options].try_into().expect("at most ten words");
                ip.total_len += 4 * self.options as u16;
                ip.identification = 0xabcd;
                ip.dont_fragment = !self.may_fragment;
                ip.dscp = (self.traffic_class >> 2).try_into().expect("six bits");
                ip.ecn = (self.traffic_class & 3).try_into().expect("two bits");
                ip.header_checksum = ip.calc_header_checksum();
                bytes.extend(ip.to_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                bytes.extend([0x86, 0xdd]);
                let extensions: usize =
                    self.extensions.iter().map(|(_, units)| 8 * usize::from(*units)).sum();
                let kinds: Vec<u8> = self.extensions.iter().map(|(kind, _)| *kind).chain([number]).collect();
                let ip = Ipv6Header {
                    traffic_class: self.traffic_class,
                    flow_label: 0x1_2345_u32.try_into().expect("20 bits"),
                    payload_length: (extensions + content.len()) as u16,
                    next_header: IpNumber(kinds[0]),
                    hop_limit: self.hop_limit,
                    source: source.octets(),
                    destination: destination.octets(),
                };
                bytes.extend(ip.to_bytes());
                for ((_, units), next) in self.extensions.iter().zip(&kinds[1..]) {
                    next_field = bytes.len();
                    bytes.extend([*next, units - 1]);
                    bytes.extend(std::iter::repeat_n(0, 8 * usize::from(*units) - 2));
                }
            }
            _ => unreachable!("a packet is of one family"),
        }
        let transport = bytes.len();
        bytes.extend(content);
        let end = bytes.len();
        bytes.extend(std::iter::repeat_n(0x5a, self.padding));
        Built { bytes, network, transport, next: next_field, end }
    }

    /// The same with a payload that makes the checksum 0 once the ends are translated to these. In UDP, 0 would say that
    /// there is no checksum.
    pub(super) fn zeroed(mut self, source: SocketAddr, destination: SocketAddr) -> Self {
        let mut translated = self.clone();
        (translated.source, translated.destination) = (source.ip(), destination.ip());
        let at = match &mut translated.content {
            Content::Tcp(header, payload) => {
                (header.source_port, header.destination_port) = (source.port(), destination.port());
                clear(payload);
                16
            }
            Content::Udp(ports, payload, has_checksum) => {
                (*ports, *has_checksum) = ([source.port(), destination.port()], true);
                clear(payload);
                6
            }
            Content::Icmp(..) | Content::Other(..) => return self,
        };
        let (_, bytes) = translated.content();
        match &mut self.content {
            Content::Udp(_, payload, has_checksum) => {
                *has_checksum = true;
                clear(payload);
                payload[..2].copy_from_slice(&bytes[at..at + 2]);
            }
            Content::Tcp(_, payload) => {
                clear(payload);
                payload[..2].copy_from_slice(&bytes[at..at + 2]);
            }
            Content::Icmp(..) | Content::Other(..) => {}
        }
        self
    }

    /// Protocol number and bytes behind the IP header.
    fn content(&self) -> (u8, Vec<u8>) {
        match &self.content {
            Content::Tcp(header, payload) => {
                let mut header = header.clone();
                header.checksum = match (self.source, self.destination) {
                    (IpAddr::V4(from), IpAddr::V4(to)) => {
                        header.calc_checksum_ipv4_raw(from.octets(), to.octets(), payload)
                    }
                    (IpAddr::V6(from), IpAddr::V6(to)) => {
                        header.calc_checksum_ipv6_raw(from.octets(), to.octets(), payload)
                    }
                    _ => Ok(0),
                }
                .expect("segments are short");
                (number::TCP, [&header.to_bytes()[..], payload].concat())
            }
            Content::Udp([from, to], payload, has_checksum) => {
                let mut header = UdpHeader {
                    source_port: *from,
                    destination_port: *to,
                    length: 8 + payload.len() as u16,
                    checksum: 0,
                };
                let checksum = match (self.source, self.destination) {
                    (IpAddr::V4(from), IpAddr::V4(to)) => {
                        header.calc_checksum_ipv4_raw(from.octets(), to.octets(), payload)
                    }
                    (IpAddr::V6(from), IpAddr::V6(to)) => {
                        header.calc_checksum_ipv6_raw(from.octets(), to.octets(), payload)
                    }
                    _ => Ok(0),
                };
                if *has_checksum {
                    header.checksum = checksum.expect("datagrams are short");
                }
                (number::UDP, [&header.to_bytes()[..], payload].concat())
            }
            Content::Icmp([kind, code], rest) => {
                let mut message = [&[*kind, *code, 0, 0][..], rest].concat();
                let (number, pseudo) = match (self.source, self.destination) {
                    (IpAddr::V6(from), IpAddr::V6(to)) => {
                        let len = (message.len() as u32).to_be_bytes();
                        let pseudo = [&from.octets()[..], &to.octets(), &len, &[0, 0, 0, number::ICMPV6]];
                        (number::ICMPV6, pseudo.concat())
                    }
                    _ => (number::ICMP, Vec::new()),
                };
                let check = !sum(&[&pseudo[..], &message].concat());
                message[2..4].copy_from_slice(&check.to_be_bytes());
                (number, message)
            }
            Content::Other(number, bytes) => (*number, bytes.clone()),
        }
    }
}

/// Sets the first word of a payload to 0.
fn clear(payload: &mut Vec<u8>) {
    payload.resize(payload.len().max(2), 0x61);
    payload[..2].fill(0);
}
