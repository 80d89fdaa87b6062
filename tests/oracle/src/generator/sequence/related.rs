//! ICMP errors about packets of flows, and messages that look like them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{SequenceDraft, between, martians, payload};
use crate::{
    choices::Choices,
    generator::{
        configuration::{CLIENT_MACS, CLIENTS, VIPS},
        frame::{Content, Draft},
        mutation::mutated,
    },
    packet::number,
    world::{GUE_PORT, Mac, Protocol, Server},
};

/// Path MTUs around the least one of each family, and others.
const MTUS: [u32; 20] = [
    1308,
    1307,
    1328,
    1327,
    1400,
    1500,
    1280,
    1279,
    576,
    575,
    1300,
    1299,
    1320,
    1319,
    0,
    68,
    0xffff,
    0x1_0000,
    0x1_0240,
    u32::MAX,
];

/// The packet that an error is about, and who receives the error.
struct About {
    protocol: Protocol,
    from: SocketAddr,
    to: SocketAddr,
    /// What `from` and `to` become where the embedded packet is translated.
    translated: [SocketAddr; 2],
    receiver: IpAddr,
    /// Hardware address of who sends the error.
    mac: Mac,
}

impl SequenceDraft<'_> {
    /// An ICMP error to a VIP about a server's packet, or to a client about its own.
    pub(super) fn related(&mut self, choices: &mut impl Choices, client: SocketAddr) -> Draft {
        let Some(about) = self.about(choices, client) else { return Self::unknown(choices, client) };
        let is_v4 = about.receiver.is_ipv4();
        let head = head(choices, is_v4);
        let embedded = self.embedded(choices, &about);
        let source = self.reporter(choices, &about);
        let content = Content::Icmp([head[0], head[1]], [&head[2..], &embedded].concat());
        // Errors about tunnel packets.
        let ((v4, v6), (by_flow_v4, by_flow_v6)) = (self.world.tunnel, self.world.tunnel_by_flow);
        let flow = choices.below(1 << 16);
        let tunnel: IpAddr = if is_v4 {
            Ipv4Addr::from_bits(v4.to_bits() | flow & by_flow_v4).into()
        } else {
            Ipv6Addr::from_bits(v6.to_bits() | u128::from(flow & by_flow_v6)).into()
        };
        let receiver = if choices.rarely(24) { tunnel } else { about.receiver };
        between(source, receiver, about.mac, content)
    }

    fn about(&self, choices: &mut impl Choices, client: SocketAddr) -> Option<About> {
        let (client, number) = if self.asked.is_empty() || choices.rarely(6) {
            (client, self.listener(choices, client)?)
        } else {
            choices.pick(&self.asked)
        };
        let listener = self.world.listening(number);
        let members = listener.table.map_or(&[][..], |table| &self.world.tables[table].members);
        let server = (!members.is_empty()).then(|| choices.pick(members));
        let server = server
            .map(|chosen| Server { at: self.world.endpoint(chosen, number), ..self.world.servers[chosen] });
        let of_family = server.filter(|server| server.at.is_ipv4() == client.is_ipv4());
        let mac = server.and_then(|server| server.hop).map_or(CLIENT_MACS[1], |hop| hop.peer);
        let (protocol, vip) = (listener.protocol, listener.at);
        match of_family {
            Some(server) if choices.below(2) == 0 => {
                let from = self.source_of(choices, client, listener.mode).unwrap_or(client);
                let (to, receiver) = (server.at, from.ip());
                Some(About { protocol, from, to, translated: [client, vip], receiver, mac })
            }
            _ => Some(About {
                protocol,
                from: vip,
                to: client,
                translated: [of_family.map_or(vip, |server| server.at), client],
                receiver: vip.ip(),
                // A server sends it back rarely.
                mac: if choices.rarely(16) { mac } else { CLIENT_MACS[0] },
            }),
        }
    }

    /// The first bytes of the packet that the error is about.
    fn embedded(&mut self, choices: &mut impl Choices, about: &About) -> Vec<u8> {
        let (mut from, mut to) = (about.from, about.to);
        let others: Vec<IpAddr> = VIPS
            .iter()
            .chain(&CLIENTS)
            .copied()
            .chain(martians(from.is_ipv4()))
            .filter(|ip| ip.is_ipv4() == from.is_ipv4())
            .collect();
        match choices.below(32) {
            0 | 1 => from.set_ip(choices.pick(&others)),
            2 => to.set_ip(choices.pick(&others)),
            3 => from.set_port(from.port() ^ 1),
            4 => to.set_port(to.port() ^ 1),
            5 => (from, to) = (to, from),
            6..=8 => to.set_port(GUE_PORT),
            _ => {}
        }
        let content = match choices.below(16) {
            0 => Content::Icmp([choices.pick(&[0, 8, 3, 128]), 0], vec![7; 20]),
            1 => Content::Other(choices.pick(&[47, number::HOP_BY_HOP, number::FRAGMENT]), vec![7; 20]),
            2 => Content::Udp([from.port(), to.port()], vec![0x61; payload(choices)], false),
            _ => self.transport(choices, about.protocol, [from.port(), to.port()], false),
        };
        let draft = between(from.ip(), to.ip(), [0; 6], content);
        let draft =
            if choices.rarely(16) { draft.zeroed(about.translated[0], about.translated[1]) } else { draft };
        let mut frame = self.shaped(choices, Draft { tags: Vec::new(), ..draft }).build();
        if from.is_ipv4() && choices.rarely(8) {
            // First fragments, and later ones.
            let fragment = choices.pick(&[0x2000_u16, 0x6000, 0x2001, 1, 0x1fff]);
            frame.bytes[frame.network + 6..frame.network + 8].copy_from_slice(&fragment.to_be_bytes());
        }
        if from.is_ipv6() && choices.rarely(8) {
            let at = choices.pick(&[0, 0, 0, 8, 64]).min(frame.content() / 8 * 8);
            frame = frame.fragment(7, at, frame.content() - at, choices.below(2) == 0);
        }
        let (network, transport) = (frame.network, frame.transport);
        let bytes = mutated(choices, frame, network);
        let end = match choices.below(8) {
            0..=2 => transport + 8,
            3 => transport + choices.pick(&[0, 4, 7, 9, 12, 16, 17, 18, 19, 20, 21]),
            4 => network + choices.below(60) as usize,
            5 => network + 528,
            _ => usize::MAX,
        };
        bytes[network..end.clamp(network, bytes.len())].to_vec()
    }

    /// The source of the error: a router, one of the ends, or who cannot send any.
    fn reporter(&self, choices: &mut impl Choices, about: &About) -> IpAddr {
        let is_v4 = about.receiver.is_ipv4();
        let router = if is_v4 { "192.0.2.77" } else { "2001:db8:77::1" }.parse().expect("an address");
        match choices.below(32) {
            0 => choices.pick(&martians(is_v4)),
            1 => about.receiver,
            2 => choices.pick(&VIPS.map(|vip| if vip.is_ipv4() == is_v4 { vip } else { router })),
            3..=8 => about.to.ip(),
            _ => router,
        }
    }
}

/// Type, code and the four bytes behind the checksum.
fn head(choices: &mut impl Choices, is_v4: bool) -> [u8; 6] {
    let mtu = if choices.below(3) == 0 { choices.pick(&MTUS) } else { 1400 };
    let [a, b, c, d] = mtu.to_be_bytes();
    let too_big = if is_v4 { [3, 4, 0, 0, c, d] } else { [2, 0, a, b, c, d] };
    let unreachable = if is_v4 { 3 } else { 1 };
    match choices.below(16) {
        0..=6 => too_big,
        7..=9 => [unreachable, choices.below(16) as u8, 0, 0, 0, 0],
        // Time exceeded.
        10 | 11 => [if is_v4 { 11 } else { 3 }, choices.below(2) as u8, 0, 0, 0, 0],
        // Parameter problem, with a pointer.
        12 | 13 if is_v4 => [12, choices.below(3) as u8, choices.below(40) as u8, 0, 0, 0],
        12 | 13 => [4, choices.below(3) as u8, 0, 0, 0, 40],
        // Redirects (RFC 792; RFC 4861), source quench, and others.
        14 => [if is_v4 { 5 } else { 137 }, 1, 192, 0, 2, 1],
        _ => [choices.pick(&[0, 1, 2, 4, 5, 10, 13, 100, 101, 127, 129, 143]), 0, 0, 0, c, d],
    }
}
