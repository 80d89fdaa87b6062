//! A random play of clients, servers and daemons, and what must hold of every packet.
//!
//! 1. A TCP flow whose server is configured stays with it, whatever the server's health and weight; a datagram flow does
//!    while its server is alive, where the listener does not let datagrams follow the table. Silence ends a flow after
//!    the idle time; in mode `nat` sooner, until both sides have shown that they hear each other.
//!    Where servers drain, a TCP flow stays until the time is over since its server began to leave, even one that is not
//!    configured any more.
//! 2. What asks for a connection goes to servers that take new flows, but for that of an established connection, whose own server
//!    decides.
//! 3. Once nothing has changed for the idle time, nothing is remembered (see [`super::settle`]).
//! 4. Nothing is dropped while a server takes new flows.
//!
//! 5. In mode `nat`, a flow whose server is gone or cut off goes to no other: it is ended, and remembered until that must
//!    have been heard.
//! 6. A new TCP flow of a client that is kept to a server goes to that one, if it takes new flows.
//!
//! While a change is being put in force, a packet finds what was, or what will be: 1 asks for what holds of both, 2 for
//! either. A packet may be lost then, as one is whose slot still names a server that has just died; moved it may not be.

mod steps;

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::Duration,
};

use super::{
    control::Control,
    plane::HostPlane,
    rng::Rng,
    servers::{SERVERS, Scheduling, Server, Servers, Setting, takes_new},
    wire::{self, Kind, Went},
};
use crate::packets::frames::flag;

/// Idle times, less the second to which an entry knows when its flow was last seen, and one more.
const TCP_IDLE: Duration = Duration::from_secs(900 - 2);
const UDP_IDLE: Duration = Duration::from_secs(90 - 2);
/// The same of flows of mode `nat` that are not assured.
const UNASSURED: Duration = Duration::from_secs(60 - 2);
/// Time after which answered datagrams are a stream, and the second to which that is known.
const STREAM: Duration = Duration::from_secs(2 + 1);
/// Silence after which nothing is known of a TCP client endpoint.
const FORGOTTEN: Duration = Duration::from_secs(1000);
/// Client endpoints: few, so that they are used again.
const STREAMS: u64 = 200;
const DATAGRAMS: u64 = 100;
/// Live TCP flows.
const LIVE: usize = 120;
/// Slots for flows: so many that none is ever lost.
const SLOTS: u32 = 2048;
/// Time for which a flow that has been ended stays in the table.
const TOLD: Duration = Duration::from_secs(240 - 2);
/// Deadlines are in whole seconds.
const SLACK: Duration = Duration::from_secs(2);
/// Lines of the play that a failure shows.
const SHOWN: usize = 60;

/// Since when each server has been leaving.
type Leaving = [Option<Duration>; SERVERS];

/// What the model knows of a flow.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    /// Its server.
    pub server: usize,
    life: u32,
    last: Duration,
    /// Whether it was remembered for good then.
    is_remembered: bool,
    begun: Duration,
    /// Whether its server has answered.
    pub is_answered: bool,
    /// Whether the client has gone on since.
    is_assured: bool,
}

/// How much has happened.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    /// Flows begun.
    pub flows: u64,
    /// Packets of clients.
    pub packets: u64,
    /// Of these, the ones that had to reach one certain server.
    pub bound: u64,
    /// Packets of established TCP flows that were lost while a change was being put in force.
    pub lost: u64,
    /// New flows of clients that were kept to a server.
    pub kept: u64,
    /// Answers of servers.
    pub answers: u64,
    /// Packets of flows that were ended.
    pub ended: u64,
    /// Changes put in force.
    pub changes: u64,
    /// Daemons started.
    pub starts: u64,
}

/// A play.
pub struct ModelTest {
    /// What is configured besides the servers.
    pub setting: Setting,
    /// Chance.
    pub rng: Rng,
    /// The tables.
    pub plane: HostPlane,
    /// How much has happened.
    pub counts: Counts,
    /// TCP flows by the number of the client endpoint.
    pub streams: BTreeMap<u32, Flow>,
    datagrams: BTreeMap<u32, Flow>,
    /// Where the last TCP flow of each client address went, while clients are kept to servers.
    kept: BTreeMap<IpAddr, Flow>,
    /// When each TCP client endpoint was heard last.
    heard: BTreeMap<u32, Duration>,
    /// What decides about new TCP flows, and about datagrams, as far as it is in force.
    scheduling: [Scheduling; 2],
    /// Whether that changes.
    reschedules: bool,
    /// The servers as they are to be.
    pub wanted: Servers,
    in_force: Servers,
    /// Since when servers have been leaving, as far as is in force, and as it is to be.
    leaving: [Leaving; 2],
    /// When each server came back last after its connections had been cut: what it had before is over, though nobody may have
    /// been told.
    cut: [Duration; SERVERS],
    is_changing: bool,
    control: Control,
    now: Duration,
    log: VecDeque<String>,
}

impl ModelTest {
    /// A play with so many slots for flows, and at first so many servers.
    pub fn new(setting: Setting, seed: u64, slots: u32, servers: usize) -> Self {
        let plane = HostPlane::new(slots);
        let none = Server { exists: false, life: 0, weight: 100, healthy: Some(true) };
        let mut wanted = [none; SERVERS];
        wanted[..servers].iter_mut().for_each(|server| server.exists = true);
        let mut play = Self {
            setting,
            rng: Rng::new(seed),
            control: Control::start(&plane),
            plane,
            counts: Counts::default(),
            streams: BTreeMap::new(),
            datagrams: BTreeMap::new(),
            kept: BTreeMap::new(),
            heard: BTreeMap::new(),
            scheduling: [setting.scheduling, setting.datagrams],
            reschedules: false,
            wanted,
            in_force: [none; SERVERS],
            leaving: [[None; SERVERS]; 2],
            cut: [Duration::ZERO; SERVERS],
            is_changing: false,
            now: Duration::from_secs(1000),
            log: VecDeque::from([format!("seed {seed}, {setting:?}")]),
        };
        play.pass(Duration::ZERO);
        play.put_in_force();
        play
    }

    /// What is in force, and what comes into force just now.
    fn views(&self) -> [&Servers; 2] {
        [&self.in_force, if self.is_changing { &self.wanted } else { &self.in_force }]
    }

    fn is_there(&self, flow: &Flow) -> bool {
        let is_there = |server: &Server| server.exists && server.life == flow.life;
        self.views().iter().all(|servers| is_there(&servers[flow.server]))
    }

    /// Whether a flow must not be moved or ended, but for silence.
    fn must_stay(&self, flow: &Flow) -> bool {
        let views = self.views();
        let leaving = [&self.leaving[0], &self.leaving[usize::from(self.is_changing)]];
        views.iter().zip(leaving).all(|(servers, leaving)| {
            let server = &servers[flow.server];
            let has_time = match (self.setting.drain, leaving[flow.server]) {
                (Some(drain), Some(since)) => self.now < since + Duration::from_secs(drain) - SLACK,
                _ => server.exists,
            };
            server.life == flow.life && has_time && flow.last >= self.cut[flow.server]
        })
    }

    fn may_drop(&self) -> bool {
        self.is_changing || !(0..SERVERS).any(|n| takes_new(&self.in_force, n))
    }

    /// The flow as it is after a packet to `server`.
    fn flow(&self, server: usize) -> Flow {
        let [scheduling, datagrams] = self.scheduling;
        let in_force = Setting { scheduling, datagrams, ..self.setting };
        let is_remembered = ![in_force, self.setting].iter().any(Setting::forgets_datagrams);
        Flow {
            server,
            life: self.wanted[server].life,
            last: self.now,
            is_remembered,
            begun: self.now,
            is_answered: false,
            is_assured: false,
        }
    }

    /// The flow as it is after one more packet to its server.
    fn gone_on(&self, was: &Flow, is_assured: bool) -> Flow {
        let Flow { begun, is_answered, .. } = *was;
        Flow { begun, is_answered, is_assured: was.is_assured || is_assured, ..self.flow(was.server) }
    }

    /// Silence after which the flow is over.
    fn idle(&self, flow: &Flow, idle: Duration) -> Duration {
        if self.setting.mode == "nat" && !flow.is_assured { UNASSURED } else { idle }
    }

    /// A client asks for a connection.
    pub fn open(&mut self, number: u32) {
        // Another one's SYN may be taken for one that is sent again, of a flow that is remembered.
        let is_fresh = self.heard.get(&number).is_none_or(|heard| self.now - *heard > FORGOTTEN);
        let kept = self.affinity_server(number).filter(|_| is_fresh);
        let to = self.send(number, Kind::Tcp(flag::SYN));
        let was = self.streams.remove(&number);
        match to {
            Went::To(server)
                if let Some(was) = was
                    && was.server == server
                    && (was.is_assured || self.setting.mode != "nat")
                    && !self.views().iter().any(|servers| takes_new(servers, server)) =>
            {
                // Its server says that the connection is still there.
                let flow = self.gone_on(&was, false);
                self.streams.insert(number, flow);
            }
            Went::To(server) if kept.is_some_and(|kept| kept != server) => {
                self.fail(&format!("6: the client is kept to {kept:?}"));
            }
            Went::Nowhere if self.may_drop() => {}
            Went::Nowhere => self.fail("4: a SYN was dropped"),
            Went::Ended => self.fail("a SYN was answered"),
            Went::To(server) if self.views().iter().any(|servers| takes_new(servers, server)) => {
                self.counts.flows += 1;
                let mut flow = self.flow(server);
                let address = wire::client(number).ip();
                if is_fresh && !self.is_changing && self.scheduling[0].persistence > 0 {
                    self.counts.kept += u64::from(kept.is_some());
                    self.kept.insert(address, flow);
                } else {
                    self.kept.remove(&address);
                }
                flow.is_answered = self.answer(number, &flow, Kind::Tcp(flag::SYN));
                self.streams.insert(number, flow);
            }
            // One of before may have ended without a word.
            Went::To(_) if !is_fresh => {}
            Went::To(_) => self.fail("2: a SYN went to a server that takes no new flows"),
        }
    }

    /// The server that a client is kept to.
    fn affinity_server(&self, number: u32) -> Option<usize> {
        let kept = self.kept.get(&wire::client(number).ip())?;
        let server = &self.in_force[kept.server];
        let has_time = (self.now - kept.last).as_secs() + 2 < self.scheduling[0].persistence;
        let is_kept = has_time
            && !self.is_changing
            && server.life == kept.life
            && takes_new(&self.in_force, kept.server);
        is_kept.then_some(kept.server)
    }

    /// A TCP flow goes on.
    pub fn go_on(&mut self, number: u32, flags: u8) {
        let Some(flow) = self.streams.get(&number).copied() else { return };
        let to = self.send(number, Kind::Tcp(flags));
        let goes_on = self.now - flow.last < self.idle(&flow, TCP_IDLE);
        if self.must_stay(&flow) && goes_on {
            if to == Went::Nowhere && self.is_changing {
                self.counts.lost += 1;
                return;
            }
            self.counts.bound += 1;
            if to != Went::To(flow.server) {
                self.fail(&format!("1: the flow was with {}", flow.server));
            }
            let flow = self.gone_on(&flow, flow.is_answered && flags & flag::RST == 0);
            self.streams.insert(number, flow);
            if flags == flag::ACK {
                self.answer(number, &flow, Kind::Tcp(flag::ACK));
            }
            return;
        }
        match to {
            // Nobody is left to be told.
            Went::Nowhere if self.setting.mode == "nat" && flags & flag::RST != 0 => {}
            Went::Nowhere if !self.may_drop() => self.fail("4: a packet of an old flow was dropped"),
            Went::To(server)
                if self.now - flow.last < TOLD
                    && flow.is_assured
                    && self.setting.mode == "nat"
                    && server != flow.server =>
            {
                self.fail(&format!("5: the flow was with {}", flow.server));
            }
            Went::Ended => self.counts.ended += 1,
            _ => {}
        }
        self.streams.remove(&number);
    }

    fn datagram(&mut self, number: u32) {
        let was = self.datagrams.get(&number).copied();
        let to = self.send(number, Kind::Udp);
        if let Some(flow) = was
            && (flow.is_remembered || !self.setting.follow)
            && self.is_there(&flow)
            && self.must_stay(&flow)
            && self.views().iter().all(|servers| servers[flow.server].is_alive())
            && self.now - flow.last < self.idle(&flow, UDP_IDLE)
        {
            self.counts.bound += 1;
            if to != Went::To(flow.server) && !(to == Went::Nowhere && self.is_changing) {
                self.fail(&format!("1: the datagrams went to {}", flow.server));
            }
        } else {
            self.counts.flows += 1;
        }
        match to {
            Went::Nowhere if self.may_drop() => drop(self.datagrams.remove(&number)),
            Went::Nowhere => self.fail("4: a datagram was dropped"),
            Went::Ended => self.fail("a datagram was answered"),
            Went::To(server) => {
                let same =
                    was.filter(|was| was.server == server && self.now - was.last < self.idle(was, UDP_IDLE));
                let mut flow = match same {
                    Some(was) => self.gone_on(&was, was.is_answered && self.now - was.begun > STREAM),
                    None => self.flow(server),
                };
                flow.is_answered |= self.answer(number, &flow, Kind::Udp);
                self.datagrams.insert(number, flow);
            }
        }
    }

    /// Sends datagrams of clients never seen before. Returns how many.
    pub fn new_datagrams(&mut self) -> u32 {
        (2000..2100).for_each(|number| self.datagram(number));
        100
    }

    /// Forgets datagram flows.
    pub fn no_datagrams(&mut self) {
        self.datagrams.clear();
    }

    fn send(&mut self, number: u32, kind: Kind) -> Went {
        self.counts.packets += 1;
        if kind != Kind::Udp {
            self.heard.insert(number, self.now);
        }
        let to = wire::to_server(&self.plane, number, kind);
        self.note(format!("{number} {kind:?} -> {to:?}"));
        to
    }

    /// In mode `nat` the server answers, as a rule; returns whether it did.
    fn answer(&mut self, number: u32, flow: &Flow, kind: Kind) -> bool {
        if self.setting.mode != "nat" || !self.must_stay(flow) || self.rng.once_in(4) {
            return false;
        }
        self.counts.answers += 1;
        if !wire::to_client(&self.plane, flow.server, number, kind) {
            self.fail(&format!("an answer of {} to {number} did not arrive", flow.server));
        }
        true
    }

    fn note(&mut self, line: String) {
        if self.log.len() > SHOWN {
            // The first line says which play it is.
            self.log.remove(1);
        }
        self.log.push_back(line);
    }

    /// Ends the play.
    ///
    /// # Panics
    /// Always.
    pub fn fail(&self, what: &str) -> ! {
        let log: Vec<_> = self.log.iter().map(String::as_str).collect();
        panic!("{what}\n{}\n{what}; counted {:?}", log.join("\n"), self.plane.host().totals());
    }
}
