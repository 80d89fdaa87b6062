//! Handshakes with SYN cookies, and connections that begin with one. The kernel's cookies are secret, so each step
//! reads the frame before it; host and kernel take the same steps.

mod losses;

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use etherparse::{SlicedPacket, TransportSlice};
use slb_common::abi::{
    service::{Service, mode, policy},
    stats::{Action, LimitDrops, Reason},
};
use slb_control::dataplane::FlowTableAccess as _;

use super::{
    check,
    frames::{self, Builder, Segment, flag},
    host::{self, Host},
    kernel::{Kernel, action},
    scenario::{same, xdp_action},
    table::{
        full_nat,
        related::{self, Ends, TCP4, TCP6},
    },
    world::{self, PacketWorld},
};

/// The packet path on the host or in the kernel.
pub trait Plane {
    /// Runs it over a frame that arrives on the loopback interface. Returns the XDP action and the frame.
    ///
    /// # Errors
    /// The program cannot run.
    fn run(&mut self, frame: &[u8]) -> Result<(u32, Vec<u8>)>;
    /// Packets of a service over its limits, and its cookies.
    ///
    /// # Errors
    /// The counters cannot be read.
    fn drops(&self, service: u32) -> Result<LimitDrops>;
    /// Flows of a service that have begun.
    ///
    /// # Errors
    /// The counters cannot be read.
    fn flows(&self, service: u32) -> Result<u64>;
    /// Packets by action and reason.
    ///
    /// # Errors
    /// The counters cannot be read.
    fn packets(&self, action: Action, reason: Reason) -> Result<u64>;
    /// Changes the state.
    ///
    /// # Errors
    /// The maps cannot be written.
    fn become_world(&mut self, world: &PacketWorld) -> Result<()>;
    /// Forgets all sequence offsets.
    ///
    /// # Errors
    /// The map cannot be written.
    fn forget_offsets(&mut self) -> Result<()>;
    /// Erases all entries of the flow table.
    ///
    /// # Errors
    /// The table cannot be written.
    fn flush(&mut self) -> Result<()>;
}

/// The packet path on the host, with the state that its maps hold.
pub struct OnHost {
    host: Host,
    held: slb_control::dataplane::state::MapState,
}

impl Default for OnHost {
    fn default() -> Self {
        Self { host: host::host(), held: Default::default() }
    }
}

impl Plane for OnHost {
    fn run(&mut self, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
        let mut bytes = frame.to_vec();
        let verdict = self.host.process(&mut bytes, world::LO);
        Ok((xdp_action(verdict), bytes))
    }

    fn drops(&self, service: u32) -> Result<LimitDrops> {
        Ok(self.host.limit_drops(service))
    }

    fn flows(&self, service: u32) -> Result<u64> {
        Ok(self.host.service_counters(service).new_flows)
    }

    fn packets(&self, action: Action, reason: Reason) -> Result<u64> {
        Ok(self.host.totals().get(&(action as u8, reason as u32)).copied().unwrap_or(0))
    }

    fn become_world(&mut self, world: &PacketWorld) -> Result<()> {
        for operation in slb_control::diff::diff(&self.held, &world.state) {
            self.host.apply(&operation);
        }
        self.held = world.state.clone();
        Ok(())
    }

    fn forget_offsets(&mut self) -> Result<()> {
        self.host.forget_offsets();
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let slots = 0..self.host.flow_slots();
        self.host.flow_table().flush(slots, true, &mut |_| true);
        Ok(())
    }
}

impl Plane for Kernel {
    fn run(&mut self, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
        self.process(frame)
    }

    fn drops(&self, service: u32) -> Result<LimitDrops> {
        self.limit_drops(service)
    }

    fn flows(&self, service: u32) -> Result<u64> {
        Ok(self.service_counters(service)?.new_flows)
    }

    fn packets(&self, action: Action, reason: Reason) -> Result<u64> {
        Ok(self.totals()?.get(&(action as u8, reason as u32)).copied().unwrap_or(0))
    }

    fn become_world(&mut self, world: &PacketWorld) -> Result<()> {
        self.become_state(&world.state)
    }

    fn forget_offsets(&mut self) -> Result<()> {
        self.forget_sequence_offsets()
    }

    fn flush(&mut self) -> Result<()> {
        self.flow_table()?.flush(true, world::HZ, &mut |_| true)?;
        Ok(())
    }
}

/// What a frame says, as far as handshakes need it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    from: SocketAddr,
    to: SocketAddr,
    flags: u8,
    sequence: u32,
    acknowledged: u32,
    window: u16,
    options: Vec<u8>,
    payload: Vec<u8>,
    /// Receiver and sender.
    macs: [u8; 12],
}

impl Seen {
    fn read(bytes: &[u8]) -> Result<Self> {
        check::verify(bytes).map_err(anyhow::Error::msg)?;
        let sliced = SlicedPacket::from_ethernet(bytes)?;
        let ip = sliced.net.context("an IP packet")?;
        let (source, destination) = match &ip {
            etherparse::NetSlice::Ipv4(ip) => {
                (ip.header().source_addr().into(), std::net::IpAddr::from(ip.header().destination_addr()))
            }
            etherparse::NetSlice::Ipv6(ip) => {
                (ip.header().source_addr().into(), ip.header().destination_addr().into())
            }
            etherparse::NetSlice::Arp(_) => anyhow::bail!("ARP"),
        };
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { anyhow::bail!("no TCP segment") };
        let words = tcp.slice();
        Ok(Self {
            from: SocketAddr::new(source, tcp.source_port()),
            to: SocketAddr::new(destination, tcp.destination_port()),
            flags: words[13],
            sequence: tcp.sequence_number(),
            acknowledged: tcp.acknowledgment_number(),
            window: tcp.window_size(),
            options: tcp.options().to_vec(),
            payload: tcp.payload().to_vec(),
            macs: bytes[..12].try_into()?,
        })
    }
}

const WINDOW: u16 = 0xfaf0;
/// Rate of the limit, the smallest: a bucket holds 200 ms.
const RATE: u16 = 1;
/// More SYNs than a bucket of that rate holds.
const FLOOD: u16 = 60;
/// Initial sequence number of the client.
const CLIENT: u32 = 0xffff_fff0;
/// Initial sequence number of the server.
const SERVER: u32 = 0x1234_5678;
const DATA: &[u8] = b"three";

/// One listener in a flood, with a client that is real.
struct Case<'p, P> {
    plane: &'p mut P,
    ends: Ends,
    /// What the server sees as the client.
    source: SocketAddr,
    mode: u8,
    tags: &'static [u16],
}

/// All cases, on one plane.
///
/// # Errors
/// A frame differs from what it should be.
pub fn run<P: Plane>(plane: &mut P, mut begin: impl FnMut(&mut P, &PacketWorld) -> Result<()>) -> Result<()> {
    for (ends, mode, mss, tags) in [
        (TCP4, mode::NAT, true, &[][..]),
        (TCP6, mode::NAT, true, &[]),
        (TCP4, mode::FULL_NAT, false, &[]),
        (TCP6, mode::FULL_NAT, false, &[0]),
        (TCP4, mode::NAT, false, &[0]),
    ] {
        let world = world_of(ends, mode, true);
        begin(plane, &world)?;
        let source = if mode == mode::NAT { ends.client } else { full_nat::local(ends, ends.client.port()) };
        let mut case = Case { plane, ends, source, mode, tags };
        case.flood().context("flood")?;
        case.connection(mss)
            .with_context(|| format!("mode {mode}, {}, MSS option {mss}, tags {tags:?}", ends.client))?;
        // Flows go on where cookies are no longer used.
        case.plane.become_world(&world_of(ends, mode, false))?;
        case.ends_and_errors()?;
        case.plane.become_world(&world)?;
        case.refusals()?;
        case.losses().with_context(|| format!("mode {mode}, {}", ends.client))?;
    }
    Ok(())
}

fn world_of(ends: Ends, mode: u8, has_cookies: bool) -> PacketWorld {
    let world =
        if mode == mode::NAT { PacketWorld::standard() } else { full_nat::world(ends, full_nat::PORTS) };
    world.with(ends.listener, |service: &mut Service| {
        if has_cookies {
            service.policy |= policy::SYN_COOKIES;
            service.syn_cookies = RATE;
            service.token_buckets = service.handle.id() as u16;
        }
    })
}

impl<P: Plane> Case<'_, P> {
    fn of_client(&mut self, client: SocketAddr, flags: u8, numbers: (u32, u32), data: &[u8]) -> Builder {
        let (sequence, acknowledgement) = numbers;
        let segment = Segment { flags, sequence, acknowledgement, payload: data };
        let builder = frames::segment(client, self.ends.listener.at, segment);
        self.tags.iter().fold(builder, |builder, tag| builder.tag(0x8100, *tag))
    }

    /// Another port of the client, which it keeps towards the server.
    fn move_to(&mut self, port: u16) {
        self.ends.client.set_port(port);
        self.source.set_port(port);
    }

    fn send(&mut self, frame: Builder) -> Result<Seen> {
        let (verdict, bytes) = self.plane.run(&frame.build().bytes)?;
        ensure!(matches!(verdict, action::TX | action::REDIRECT), "XDP action {verdict}");
        Seen::read(&bytes)
    }

    fn client(&mut self, flags: u8, sequence: u32, acknowledged: u32, data: &[u8]) -> Result<Seen> {
        let client = self.ends.client;
        let frame = self.of_client(client, flags, (CLIENT.wrapping_add(sequence), acknowledged), data);
        self.send(frame)
    }

    fn server(&mut self, flags: u8, sequence: u32, acknowledged: u32, data: &[u8]) -> Result<Seen> {
        let (sequence, acknowledgement) = (SERVER.wrapping_add(sequence), CLIENT.wrapping_add(acknowledged));
        let segment = Segment { flags, sequence, acknowledgement, payload: data };
        let frame = frames::segment(self.ends.server.at, self.source, segment);
        self.send(frame.macs(world::SERVER_MAC, world::SERVER_SIDE_MAC))
    }

    /// SYNs of many clients: the first ones make entries, the others do not.
    fn flood(&mut self) -> Result<()> {
        let id = self.ends.listener.id;
        for n in 1..=FLOOD {
            let client = SocketAddr::new(self.ends.client.ip(), self.ends.client.port() + n);
            let frame = self.of_client(client, flag::SYN, (n.into(), 0), &[]);
            self.send(frame)?;
        }
        let (flows, sent) = (self.plane.flows(id)?, self.plane.drops(id)?.cookies_sent);
        ensure!((20..40).contains(&flows), "{flows} flows");
        ensure!(flows + sent == u64::from(FLOOD), "{flows} flows, {sent} cookies");
        ensure!(self.plane.packets(Action::Answer, Reason::SynCookie)? >= sent, "not counted");
        Ok(())
    }

    /// The handshake, with retransmissions, and data of both sides.
    fn connection(&mut self, has_mss: bool) -> Result<()> {
        let Ends { client, listener, server } = self.ends;
        let is_v4 = client.is_ipv4();
        let before = self.plane.drops(listener.id)?;
        let syn = if has_mss {
            let syn = frames::tcp_at(client, listener.at, flag::SYN, CLIENT, 0);
            self.tags.iter().fold(syn, |builder, tag| builder.tag(0x8100, *tag))
        } else {
            self.of_client(client, flag::SYN, (CLIENT, 0), &[])
        };
        let flows = self.plane.flows(listener.id)?;
        let answer = self.send(syn.clone())?;
        let cookie = answer.sequence;
        let own_mss = if is_v4 { 1460_u16 } else { 1440 };
        let [mss_high, mss_low] = own_mss.to_be_bytes();
        let expected = Seen {
            from: listener.at,
            to: client,
            flags: flag::SYN | flag::ACK,
            sequence: cookie,
            acknowledged: CLIENT.wrapping_add(1),
            window: 0,
            options: vec![2, 4, mss_high, mss_low],
            payload: Vec::new(),
            macs: [world::CLIENT_MAC, world::OWN_MAC].concat().try_into().expect("twelve bytes"),
        };
        ensure!(answer == expected, "{answer:?} in place of {expected:?}");
        self.forged(cookie)?;
        ensure!(self.plane.flows(listener.id)? == flows, "a SYN has begun a flow");

        let mss: u16 = if has_mss {
            own_mss.min(if is_v4 { 1460 } else { 1440 })
        } else if is_v4 {
            536
        } else {
            1220
        };
        let [mss_high, mss_low] = mss.to_be_bytes();
        let opened = Seen {
            from: self.source,
            to: server.at,
            flags: flag::SYN,
            sequence: CLIENT,
            acknowledged: 0,
            window: WINDOW,
            options: vec![2, 4, mss_high, mss_low],
            payload: Vec::new(),
            macs: [server.hop.peer, server.hop.own].concat().try_into().expect("twelve bytes"),
        };
        let ack = |case: &mut Self| case.client(flag::ACK, 1, cookie.wrapping_add(1), &[]);
        // A segment with data, a probe of the window, the first segment again, and the SYN again.
        let first = self.client(flag::ACK, 1, cookie.wrapping_add(1), DATA)?;
        ensure!(first == opened, "{first:?} in place of {opened:?}");
        let again = [self.client(flag::ACK, 0, cookie.wrapping_add(1), &[])?, ack(self)?, self.send(syn)?];
        for again in again {
            ensure!(again == opened, "{again:?} in place of {opened:?}");
        }
        let after = self.plane.drops(listener.id)?;
        ensure!(after.cookies_accepted == before.cookies_accepted + 1, "{after:?} after {before:?}");
        ensure!(self.plane.flows(listener.id)? == flows + 1, "not one flow");

        // Of another connection of the tuple.
        let challenge = self.server(flag::ACK, 99, 77, &[])?;
        ensure!(
            (challenge.flags, challenge.sequence) == (flag::RST, CLIENT.wrapping_add(77)),
            "{challenge:?}"
        );
        ensure!(challenge.to == server.at, "{challenge:?}");
        for _ in 0..2 {
            let keep_alive = self.server(flag::SYN | flag::ACK, 0, 1, &[])?;
            ensure!(keep_alive.from == listener.at && keep_alive.to == client, "{keep_alive:?}");
            let shown = (keep_alive.flags, keep_alive.sequence, keep_alive.acknowledged, keep_alive.window);
            ensure!(shown == (flag::ACK, cookie, CLIENT.wrapping_add(1), WINDOW), "{keep_alive:?}");
            ensure!(keep_alive.payload.len() == 1 && keep_alive.options.is_empty(), "{keep_alive:?}");
        }
        let established = ack(self)?;
        let shown = (established.flags, established.sequence, established.acknowledged);
        ensure!(shown == (flag::ACK, CLIENT.wrapping_add(1), SERVER.wrapping_add(1)), "{established:?}");
        self.data(cookie)
    }

    /// Data of both sides, more than once around the lag of the entry's numbers.
    fn data(&mut self, cookie: u32) -> Result<()> {
        let data = [7; 1000];
        let mut offset = 1;
        for _ in 0..40 {
            let there = self.client(flag::ACK | flag::PSH, offset, cookie.wrapping_add(offset), &data)?;
            let shown = (there.sequence, there.acknowledged, there.payload.len());
            let expected = (CLIENT.wrapping_add(offset), SERVER.wrapping_add(offset), data.len());
            ensure!(shown == expected, "{there:?}");
            ensure!(there.from == self.source && there.to == self.ends.server.at, "{there:?}");
            let back = self.server(flag::ACK, offset, offset + 1000, &data)?;
            let shown = (back.sequence, back.acknowledged, back.payload.len());
            let expected = (cookie.wrapping_add(offset), CLIENT.wrapping_add(offset + 1000), data.len());
            ensure!(shown == expected, "{back:?}");
            ensure!(back.from == self.ends.listener.at && back.to == self.ends.client, "{back:?}");
            offset += 1000;
        }
        Ok(())
    }

    /// An ACK without a valid cookie is no connection of a cookie: it is picked up as without cookies.
    fn forged(&mut self, cookie: u32) -> Result<()> {
        let refused = self.plane.drops(self.ends.listener.id)?.cookies_refused;
        let client = SocketAddr::new(self.ends.client.ip(), 50_000);
        let frame = self.of_client(client, flag::ACK, (CLIENT.wrapping_add(1), cookie.wrapping_add(1)), &[]);
        let seen = self.send(frame)?;
        let acknowledged = cookie.wrapping_add(1);
        ensure!((seen.flags, seen.acknowledged) == (flag::ACK, acknowledged), "{seen:?}");
        let now = self.plane.drops(self.ends.listener.id)?.cookies_refused;
        ensure!(now == refused + 1, "{now} refused after {refused}");
        Ok(())
    }

    /// The connection of [`Self::connection`] goes on, and ends.
    fn ends_and_errors(&mut self) -> Result<()> {
        const AT: u32 = 40_001;
        let server = self.server(flag::ACK, AT, AT, DATA)?;
        let cookie = server.sequence.wrapping_sub(AT);
        self.icmp_errors(cookie.wrapping_add(AT), SERVER.wrapping_add(AT))?;
        let fin = self.server(flag::FIN | flag::ACK, AT + 5, AT, &[])?;
        ensure!(fin.sequence == cookie.wrapping_add(AT + 5) && fin.flags & flag::FIN != 0, "{fin:?}");
        let reset = self.client(flag::RST | flag::ACK, AT, cookie.wrapping_add(AT), &[])?;
        ensure!(reset.acknowledged == SERVER.wrapping_add(AT) && reset.flags & flag::RST != 0, "{reset:?}");
        let reset = self.server(flag::RST, AT + 6, 0, &[])?;
        ensure!((reset.sequence, reset.flags) == (cookie.wrapping_add(AT + 6), flag::RST), "{reset:?}");
        Ok(())
    }

    /// Errors about a segment from the VIP, whose number the client knows as `seen` and the server as `sent`.
    fn icmp_errors(&mut self, seen: u32, sent: u32) -> Result<()> {
        const MTU: u32 = 1400;
        let Ends { client, listener, server } = self.ends;
        let router = self.ends.router();
        let head = if client.is_ipv4() { [3, 4, 0, 0] } else { [2, 0, 0, 0] };
        let segment = |from, to, sequence| {
            let segment = Segment { flags: flag::ACK, sequence, acknowledgement: 7, payload: DATA };
            frames::segment(from, to, segment)
        };
        // In mode `full-nat` the server believes its peer alone.
        let sender = if self.source == client { router } else { self.source.ip() };
        for bytes in [related::ALL, related::SHORT] {
            let about = related::embedded(segment(listener.at, client, seen), bytes);
            let error = related::error(router, listener.at.ip(), head, MTU, &about).build();
            let about = related::embedded(segment(server.at, self.source, sent), bytes);
            let expected = related::error(sender, server.at.ip(), head, MTU, &about);
            let (verdict, bytes) = self.plane.run(&error.bytes)?;
            ensure!(verdict == action::TX, "XDP action {verdict}");
            same("ICMP error", &bytes, related::sent(expected, server.hop))?;
        }
        Ok(())
    }

    /// A server that refuses the connection, and a connection whose offset is lost.
    fn refusals(&mut self) -> Result<()> {
        let listener = self.ends.listener;
        let port = self.ends.client.port();
        for (n, is_refused) in [(1000, true), (1001, false)] {
            self.move_to(port + n);
            let cookie = self.client(flag::SYN, 0, 0, &[])?.sequence;
            let acknowledged = cookie.wrapping_add(1);
            let opened = self.client(flag::ACK, 1, acknowledged, &[])?;
            ensure!(opened.flags == flag::SYN, "{opened:?}");
            if is_refused {
                let segment = Segment {
                    flags: flag::RST | flag::ACK,
                    sequence: 0,
                    acknowledgement: CLIENT.wrapping_add(1),
                    payload: &[],
                };
                let frame = frames::segment(self.ends.server.at, self.source, segment);
                let reset = self.send(frame.macs(world::SERVER_MAC, world::SERVER_SIDE_MAC))?;
                ensure!((reset.sequence, reset.from) == (acknowledged, listener.at), "{reset:?}");
                continue;
            }
            self.server(flag::SYN | flag::ACK, 0, 1, &[])?;
            self.client(flag::ACK, 1, acknowledged, &[])?;
            self.plane.forget_offsets()?;
            let before = self.plane.packets(Action::Answer, Reason::LostOffset)?;
            let reset = self.client(flag::ACK, 1, acknowledged, DATA)?;
            ensure!((reset.flags, reset.sequence) == (flag::RST, acknowledged), "{reset:?}");
            ensure!(reset.to == self.ends.client && reset.from == listener.at, "{reset:?}");
            let reset = self.server(flag::ACK, 1, 1, DATA)?;
            ensure!((reset.flags, reset.sequence) == (flag::RST, CLIENT.wrapping_add(1)), "{reset:?}");
            ensure!(reset.to == self.ends.server.at, "{reset:?}");
            let now = self.plane.packets(Action::Answer, Reason::LostOffset)?;
            ensure!(now == before + 2, "{now} after {before}");
        }
        Ok(())
    }
}
