//! Random sequences of packets: connections of few client endpoints, in pieces and in any order.

mod fragments;
mod related;

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
};

use etherparse::TcpHeader;

use super::{
    Arrival, Extent, Step,
    configuration::{CLIENT_MACS, CLIENTS, FAR_MACS, NEAR_MACS, VIPS},
    frame::{Built, Content, Draft},
    mutation::mutated,
    quic,
};
use crate::{
    choices::Choices,
    packet::number,
    world::{FAR, Listener, Mac, Mode, NEAR, Protocol, Server, ServerState, Tag, World},
};

/// First sequence number of clients, and of servers.
const CLIENT: u32 = 0xffff_f000;
const SERVER: u32 = 0x0102_0304;

/// A sequence of about `len` steps.
pub fn sequence(choices: &mut impl Choices, world: &World, extent: Extent, len: usize) -> Vec<Step> {
    // Few client endpoints, so that flows are long; or one, which uses all listeners at once.
    let (clients, listeners) = match choices.below(8) {
        0 => (1, 16),
        _ => (2 + choices.below(3), 1 + choices.below(4)),
    };
    let all = world.listeners.len().max(1) as u32;
    let mut draft = SequenceDraft {
        world,
        extent,
        clients: (0..clients).map(|_| client(choices)).collect(),
        listeners: (0..listeners).map(|_| choices.below(all) as usize).collect(),
        asked: Vec::new(),
        numbers: [CLIENT, SERVER],
        pending: VecDeque::new(),
    };
    (0..len).map(|_| draft.step(choices)).collect()
}

fn client(choices: &mut impl Choices) -> SocketAddr {
    // Servers are clients rarely.
    let host = if choices.rarely(8) { choices.below(4) } else { choices.below(2) };
    let family = if choices.below(2) == 0 { 0 } else { 4 };
    SocketAddr::new(CLIENTS[(family + host) as usize], choices.pick(&[40_000, 40_001, 8080, 80]))
}

struct SequenceDraft<'w> {
    world: &'w World,
    extent: Extent,
    clients: Vec<SocketAddr>,
    listeners: Vec<usize>,
    /// Client endpoints and the listeners to which they have sent something.
    asked: Vec<(SocketAddr, usize)>,
    /// Next numbers of clients and servers.
    numbers: [u32; 2],
    /// Fragments that are still to arrive.
    pending: VecDeque<Arrival>,
}

impl SequenceDraft<'_> {
    fn step(&mut self, choices: &mut impl Choices) -> Step {
        let hz = self.world.hz;
        match choices.below(64) {
            0 | 1 if self.extent == Extent::Host => {
                let seconds = choices.pick(&[0, 1, 1, 2, 3, 21, 29, 30, 61, 66, 101, 1001]);
                Step::Wait(seconds * hz + choices.below(hz))
            }
            2 => {
                let server = choices.below(self.world.servers.len() as u32) as usize;
                Step::Server(server, choices.pick(&ServerState::ALL))
            }
            // More than a rate limit allows in a second.
            3 if choices.rarely(64) => {
                let client = choices.pick(&self.clients);
                let draft =
                    if choices.below(2) == 0 { self.ping(choices, client) } else { self.draft(choices) };
                Step::Flood(self.arrival(choices, draft), 1010)
            }
            // The first one arrives now.
            4..=9 if self.pending.is_empty() => {
                self.fragmented(choices);
                self.fragment(choices)
            }
            10.. if !self.pending.is_empty() && choices.below(3) != 0 => self.fragment(choices),
            _ => {
                let draft = self.draft(choices);
                Step::Frame(self.arrival(choices, draft))
            }
        }
    }

    fn fragment(&mut self, choices: &mut impl Choices) -> Step {
        match self.pending.pop_front() {
            Some(arrival) => Step::Frame(arrival),
            None => {
                let draft = self.draft(choices);
                Step::Frame(self.arrival(choices, draft))
            }
        }
    }

    fn arrival(&self, choices: &mut impl Choices, draft: Draft) -> Arrival {
        let (frame, interface) = self.framed(choices, draft);
        let least = if self.extent == Extent::Host { 0 } else { 14 };
        Arrival { bytes: mutated(choices, frame, least), interface }
    }

    /// The frame, and the interface on which it arrives.
    fn framed(&self, choices: &mut impl Choices, draft: Draft) -> (Built, u32) {
        let interface = if self.extent == Extent::Host && choices.rarely(8) { FAR } else { NEAR };
        let macs: &[Mac] = if interface == NEAR { &NEAR_MACS } else { &FAR_MACS };
        let receiver = match choices.below(32) {
            0 => choices.pick(&[[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [2, 9, 9, 9, 9, 9], FAR_MACS[1]]),
            _ => choices.pick(macs),
        };
        (self.shaped(choices, Draft { receiver, ..draft }).build(), interface)
    }

    /// The tag of frames from the server that has sent this one: that of its next hop.
    fn tag_of(&self, draft: &Draft) -> Option<Tag> {
        let is_sender = |server: &&Server| {
            server.at.ip() == draft.source && server.hop.is_some_and(|hop| hop.peer == draft.sender)
        };
        self.world.servers.iter().find(is_sender)?.hop?.tag
    }

    /// Tags, options, extension headers, hop limits and sizes.
    fn shaped(&self, choices: &mut impl Choices, draft: Draft) -> Draft {
        let tags = if choices.rarely(6) { 1 + choices.below(3) } else { 0 };
        let mut tags: Vec<_> =
            (0..tags).map(|_| (choices.pick(&[0x8100, 0x88a8]), choices.pick(&[7, 8, 0xa000, 0]))).collect();
        if let Some(tag) = self.tag_of(&draft).filter(|_| !choices.rarely(6)) {
            tags = vec![(tag.kind, tag.id | choices.pick(&[0, 0xa000]))];
        }
        let extensions = if choices.rarely(6) { 1 + choices.below(8) } else { 0 };
        Draft {
            tags,
            options: if choices.rarely(6) { choices.below(11) as usize } else { 0 },
            extensions: (0..extensions)
                .map(|_| {
                    const KINDS: [u8; 4] =
                        [number::HOP_BY_HOP, number::ROUTING, number::DESTINATION_OPTIONS, number::FRAGMENT];
                    (choices.pick(&KINDS), 1 + choices.below(8) as u8)
                })
                .collect(),
            hop_limit: if choices.rarely(12) { choices.pick(&[0, 1, 2, 255]) } else { 64 },
            may_fragment: choices.rarely(4),
            traffic_class: choices.pick(&[0, 0x2e, 0xff]),
            padding: if choices.rarely(6) { choices.below(64) as usize } else { 0 },
            ..draft
        }
    }

    fn draft(&mut self, choices: &mut impl Choices) -> Draft {
        let client = choices.pick(&self.clients);
        match choices.below(28) {
            0 | 1 => self.ping(choices, client),
            24..=27 => self.related(choices, client),
            2 => self.odd(choices),
            3 => Self::unknown(choices, client),
            4..=12 => self.answer(choices, client),
            _ => self.question(choices, client),
        }
    }

    /// A listener for this client: mostly one of the sequence's.
    fn listener(&self, choices: &mut impl Choices, client: SocketAddr) -> Option<usize> {
        let of_family = |number: &usize| {
            self.world.listeners.get(*number).is_some_and(|l| l.at.is_ipv4() == client.is_ipv4())
        };
        let own: Vec<_> = self.listeners.iter().copied().filter(of_family).collect();
        if own.is_empty() || choices.rarely(6) {
            let all: Vec<_> = (0..self.world.listeners.len()).filter(of_family).collect();
            return (!all.is_empty())
                .then(|| choices.pick(&all))
                .map(|number| self.at_a_port(choices, number));
        }
        let number = choices.pick(&own);
        Some(self.at_a_port(choices, number))
    }

    /// A listener for a port: of a range mostly one of the first six.
    fn at_a_port(&self, choices: &mut impl Choices, number: usize) -> usize {
        let Listener { at, last, .. } = self.world.listeners[number];
        let last = last.unwrap_or(at.port());
        let few = if at.port() == 1 { 8078 } else { at.port() };
        let port = (few + choices.below(6) as u16).min(last);
        self.world.at_port(number, if choices.rarely(32) { last } else { port })
    }

    fn question(&mut self, choices: &mut impl Choices, client: SocketAddr) -> Draft {
        let sender = match choices.below(64) {
            // Of a server that does not hold the VIP.
            0 | 1 => choices.pick(&self.world.servers).hop.map_or([0; 6], |hop| hop.peer),
            2 => [0; 6],
            3..=10 => choices.pick(&CLIENT_MACS),
            _ => CLIENT_MACS[0],
        };
        let Some(number) = self.listener(choices, client) else { return Self::unknown(choices, client) };
        self.asked.push((client, number));
        let listener = self.world.listening(number);
        let content = self.transport(choices, listener.protocol, [client.port(), listener.at.port()], true);
        let content = match listener.quic {
            Some(quic) => quic::datagram(choices, self.world, quic, content),
            None => content,
        };
        let draft = between(client.ip(), listener.at.ip(), sender, content);
        let server = listener.table.and_then(|table| self.world.tables[table].members.first());
        match server.map(|server| self.world.endpoint(*server, number)) {
            Some(at) if at.is_ipv4() == client.is_ipv4() && choices.rarely(16) => draft.zeroed(client, at),
            _ => draft,
        }
    }

    fn answer(&mut self, choices: &mut impl Choices, client: SocketAddr) -> Draft {
        let asked = if self.asked.is_empty() || choices.rarely(8) {
            self.listener(choices, client).map(|number| (client, number))
        } else {
            Some(choices.pick(&self.asked))
        };
        let Some((client, number)) = asked else { return Self::unknown(choices, client) };
        let listener = self.world.listening(number);
        let members = listener.table.map_or(&[][..], |table| &self.world.tables[table].members);
        let previous = listener.table.and_then(|table| self.world.tables[table].previous);
        let servers: Vec<_> = members.iter().copied().chain(previous).collect();
        if servers.is_empty() {
            return self.odd(choices);
        }
        let chosen = choices.pick(&servers);
        let server = Server { at: self.world.endpoint(chosen, number), ..self.world.servers[chosen] };
        if server.at.is_ipv4() != client.is_ipv4() {
            return self.odd(choices);
        }
        let sender = server.hop.map_or(CLIENT_MACS[1], |hop| hop.peer);
        let content = self.transport(choices, listener.protocol, [server.at.port(), client.port()], false);
        let source = self.source_of(choices, client, listener.mode);
        let content = match source {
            Some(source) => {
                self.transport(choices, listener.protocol, [server.at.port(), source.port()], false)
            }
            None => content,
        };
        let to = source.unwrap_or(client).ip();
        let draft = between(server.at.ip(), to, sender, content);
        if choices.rarely(16) { draft.zeroed(listener.at, client) } else { draft }
    }

    /// A source that a flow of the client may have: mostly with the client's port.
    fn source_of(&self, choices: &mut impl Choices, client: SocketAddr, mode: Mode) -> Option<SocketAddr> {
        let locals: Vec<_> =
            self.world.locals.iter().filter(|local| local.is_ipv4() == client.is_ipv4()).collect();
        let often = if mode == Mode::FullNat { 15 } else { 1 };
        if locals.is_empty() || choices.below(16) >= often {
            return None;
        }
        let (first, last) = self.world.local_ports;
        let is_own = (first..=last).contains(&client.port()) && choices.below(4) > 0;
        let port =
            if is_own { client.port() } else { first + choices.below(4).min(u32::from(last - first)) as u16 };
        Some(SocketAddr::new(*choices.pick(&locals), port))
    }

    fn ping(&self, choices: &mut impl Choices, client: SocketAddr) -> Draft {
        let vip = vip(choices, client.is_ipv4());
        // Echo requests, errors, neighbour discovery.
        let kind = choices.pick(&[8, 128, 8, 128, 8, 128, 0, 3, 1, 133, 137]);
        let payload = vec![0; choices.below(24) as usize + 4];
        // With the second number, the checksum of an IPv4 reply is 0.
        let mut content = choices.pick(&[[0x12, 0x34, 0, 1], [0xff, 0xfe, 0, 1]]).to_vec();
        content.extend(payload);
        between(client.ip(), vip, CLIENT_MACS[0], Content::Icmp([kind, u8::from(choices.rarely(8))], content))
    }

    /// Between any two endpoints of the world, martian ones among them.
    fn odd(&mut self, choices: &mut impl Choices) -> Draft {
        let is_v4 = choices.below(2) == 0;
        let mut ends = martians(is_v4).to_vec();
        ends.extend(VIPS.iter().chain(&CLIENTS).filter(|ip| ip.is_ipv4() == is_v4));
        let mapped: IpAddr = "::ffff:198.51.100.10".parse().expect("an address");
        let (from, mut to) = (choices.pick(&ends), choices.pick(&ends));
        if !is_v4 && choices.rarely(8) {
            to = mapped;
        }
        let ports = [choices.pick(&[40_000, 80, 8080]), 80 + choices.below(18) as u16];
        let protocol = choices.pick(&[Protocol::Tcp, Protocol::Udp]);
        let content = self.transport(choices, protocol, ports, true);
        between(from, to, CLIENT_MACS[0], content)
    }

    /// To a closed port of a VIP, or of another protocol.
    fn unknown(choices: &mut impl Choices, client: SocketAddr) -> Draft {
        let protocol = choices.pick(&[47, 50, 59, 132, number::ICMP, number::ICMPV6]);
        let content = vec![7; choices.below(600) as usize];
        let vip = vip(choices, client.is_ipv4());
        between(client.ip(), vip, CLIENT_MACS[0], Content::Other(protocol, content))
    }

    fn transport(
        &mut self,
        choices: &mut impl Choices,
        protocol: Protocol,
        [from, to]: [u16; 2],
        is_client: bool,
    ) -> Content {
        let payload = vec![0x61; payload(choices)];
        if protocol == Protocol::Udp {
            return Content::Udp([from, to], payload, !choices.rarely(4));
        }
        let mut header = TcpHeader::new(from, to, 0, 0xfaf0);
        let flags = choices.below(if is_client { 13 } else { 12 });
        (header.syn, header.ack, header.fin, header.rst) = match flags {
            0..=4 => (false, true, false, false),
            5 => (false, true, true, false),
            6 => (false, false, false, true),
            7 => (false, true, false, true),
            8 => (true, !is_client, false, false),
            9 => (true, is_client, choices.rarely(2), choices.rarely(2)),
            10 => (false, false, choices.rarely(2), false),
            _ => (true, !is_client, false, false),
        };
        header.psh = choices.rarely(4);
        if choices.rarely(3) {
            header.set_options_raw(&tcp_options(choices)).expect("at most ten words");
        }
        header.ece = choices.rarely(8);
        let (own, other) = if is_client { (0, 1) } else { (1, 0) };
        header.sequence_number = self.numbers[own].wrapping_add(distance(choices));
        header.acknowledgment_number = self.numbers[other].wrapping_add(distance(choices));
        if choices.rarely(16) {
            self.numbers[own] = header.sequence_number.wrapping_add(payload.len() as u32);
        }
        if choices.rarely(6) {
            header.set_options_raw(&[1; 40][..4 * choices.below(11) as usize]).expect("at most ten words");
        }
        Content::Tcp(Box::new(header), payload)
    }
}

/// Up to ten words of TCP options, also malformed ones.
fn tcp_options(choices: &mut impl Choices) -> Vec<u8> {
    // Among them the kinds 253 and 254, and the lengths of an option with a client endpoint.
    let bytes = (0..4 * choices.below(11)).map(|_| choices.pick(&[1, 1, 1, 0, 2, 4, 8, 20, 253, 254]));
    bytes.collect()
}

/// Distance of a number from the expected one: mostly none or little, now and then at a bound.
fn distance(choices: &mut impl Choices) -> u32 {
    const LAG: i32 = 1 << 14;
    const WINDOW: i32 = 1 << 20;
    const BOUNDS: [i32; 16] = [
        1,
        -1,
        100,
        LAG - 1,
        LAG,
        LAG + 1,
        -LAG,
        -LAG - 1,
        -LAG + 1,
        WINDOW - 1,
        WINDOW,
        WINDOW + 1,
        -WINDOW,
        -WINDOW - 1,
        -WINDOW + 1,
        1 << 30,
    ];
    match choices.below(8) {
        0..=4 => 0,
        5 => choices.below(1000),
        _ => choices.pick(&BOUNDS).cast_unsigned(),
    }
}

fn payload(choices: &mut impl Choices) -> usize {
    match choices.below(16) {
        0..=9 => choices.below(40) as usize,
        10..=13 => 0,
        14 => 520 + choices.below(80) as usize,
        _ => 1200 + choices.below(400) as usize,
    }
}

/// Addresses of no single host.
fn martians(is_v4: bool) -> [IpAddr; 4] {
    let martians = if is_v4 {
        ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"]
    } else {
        ["::1", "::", "ff02::1", "::ffff:10.0.0.1"]
    };
    martians.map(|ip| ip.parse().expect("an address"))
}

fn vip(choices: &mut impl Choices, is_v4: bool) -> IpAddr {
    let vips: Vec<_> = VIPS.into_iter().filter(|vip| vip.is_ipv4() == is_v4).collect();
    choices.pick(&vips)
}

fn between(source: IpAddr, destination: IpAddr, sender: Mac, content: Content) -> Draft {
    Draft {
        receiver: NEAR_MACS[0],
        sender,
        tags: Vec::new(),
        source,
        destination,
        hop_limit: 64,
        options: 0,
        extensions: Vec::new(),
        may_fragment: false,
        traffic_class: 0,
        content,
        padding: 0,
    }
}
