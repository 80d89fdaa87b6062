//! Random sequences of clients, servers and daemons, and the rules that every packet must follow.
//!
//! 1. A flow stays with its server as [`crate::eligible_servers`] says. It ends after the idle timeout; in mode `nat`
//!    sooner, until it is assured.
//! 2. A SYN goes to an eligible server. A SYN for an established connection goes to that connection's server.
//! 3. When nothing has changed for the idle timeout, no flow is tracked (see [`super::run_until_idle`]).
//! 4. No packet is dropped while a server is eligible.
//! 5. In mode `nat`, a flow of a removed or terminating server goes to no other server. It is terminated, and its entry
//!    stays until both ends must have received their RSTs.
//! 6. A new TCP flow of a client with an affinity entry goes to that entry's server, if that is eligible.
//!
//! While a change is carried out, a packet may meet the state before or after it. A packet may be lost meanwhile, such
//! as one whose slot still names a dead server. A flow may never move.

mod steps;

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::Duration,
};

use super::{
    control::ControlPlane,
    plane::HostPlane,
    rng::Rng,
    servers::{ModelServer, ModelServers, SERVERS, Scheduling, Setting, takes_new},
    wire::{self, Outcome, PacketKind},
};
use crate::{
    eligible_servers::{FlowKind, ServerState, must_stay},
    packets::frames::flag,
};

/// Idle timeouts, less two seconds: an entry stores its last packet to the second, and one more is tolerance.
const TCP_IDLE: Duration = Duration::from_secs(900 - 2);
const UDP_IDLE: Duration = Duration::from_secs(90 - 2);
/// Idle timeout of flows in mode `nat` that are not assured, less the same two seconds.
const UNASSURED: Duration = Duration::from_secs(60 - 2);
/// Time after which answered datagrams are assured, plus one second, the precision of the clock in the entry.
const ASSURED_AFTER: Duration = Duration::from_secs(2 + 1);
/// Silence after which no state of a TCP client endpoint remains.
const ENDPOINT_TIMEOUT: Duration = Duration::from_secs(1000);
/// Number of TCP client endpoints; few, so that they are reused.
const STREAMS: u64 = 200;
const DATAGRAMS: u64 = 100;
/// Live TCP flows at a time.
const MAX_LIVE: usize = 120;
/// Slots of the flow table; enough that no entry is evicted.
const SLOTS: u32 = 2048;
/// Time for which a terminated flow keeps its entry, less two seconds.
const RESET_ENTRY_TIMEOUT: Duration = Duration::from_secs(240 - 2);
/// Tolerance for deadlines, which are in whole seconds.
const SLACK: Duration = Duration::from_secs(2);
/// Lines of the log that a failure shows.
const SHOWN: usize = 60;

/// For each server, since when it takes no new flows.
type DrainStarts = [Option<Duration>; SERVERS];

/// The model's record of a flow.
#[derive(Debug, Clone, Copy)]
pub struct ModelFlow {
    /// Number of its server.
    pub server: usize,
    incarnation: u32,
    last: Duration,
    /// Whether the flow was tracked in steady state at its last packet.
    is_tracked: bool,
    begun: Duration,
    /// Whether its server has answered.
    pub is_answered: bool,
    /// Whether the client has sent a segment after the server's answer.
    is_assured: bool,
}

/// Counts of what has happened.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    /// Flows begun.
    pub flows: u64,
    /// Packets sent by clients.
    pub packets: u64,
    /// Of these, packets that had to reach one particular server.
    pub bound: u64,
    /// Packets of established TCP flows lost while a change was carried out.
    pub lost: u64,
    /// New flows of clients with an affinity entry.
    pub kept: u64,
    /// Answers of servers.
    pub answers: u64,
    /// Packets of terminated flows.
    pub ended: u64,
    /// Changes carried out.
    pub changes: u64,
    /// Daemons started.
    pub starts: u64,
}

/// A random sequence over the packet path and the control side, with the model's state.
pub struct ModelTest {
    /// Configuration apart from the servers.
    pub setting: Setting,
    /// Source of random numbers.
    pub rng: Rng,
    /// The data plane.
    pub plane: HostPlane,
    /// How much has happened.
    pub counts: Counts,
    /// TCP flows, by number of the client endpoint.
    pub streams: BTreeMap<u32, ModelFlow>,
    datagrams: BTreeMap<u32, ModelFlow>,
    /// Server of the last TCP flow of each client address, with session persistence.
    kept: BTreeMap<IpAddr, ModelFlow>,
    /// Last packet of each TCP client endpoint.
    last_packets: BTreeMap<u32, Duration>,
    /// Active scheduling of TCP flows and of datagrams.
    scheduling: [Scheduling; 2],
    /// Whether scheduling changes at random.
    reschedules: bool,
    /// Desired state of the servers.
    pub desired: ModelServers,
    active: ModelServers,
    /// Since when servers take no new flows: in the active state, and in the desired one.
    drain_starts: [DrainStarts; 2],
    /// When each server last returned after its drain deadline. Its earlier flows are terminated, although no RST may
    /// have been delivered.
    cut: [Duration; SERVERS],
    is_changing: bool,
    /// Whether TCP flows are opened while a change is carried out.
    opens_during_changes: bool,
    control: ControlPlane,
    now: Duration,
    log: VecDeque<String>,
}

/// Time since boot at which a model test begins.
const START: Duration = Duration::from_secs(1000);

impl ModelTest {
    /// A model test with `slots` slots in the flow table and `servers` servers.
    pub fn new(setting: Setting, seed: u64, slots: u32, servers: usize) -> Self {
        let plane = HostPlane::new(slots);
        let none = ModelServer { exists: false, incarnation: 0, weight: 100, healthy: Some(true) };
        let mut desired = [none; SERVERS];
        desired[..servers].iter_mut().for_each(|server| server.exists = true);
        let mut model = Self {
            setting,
            rng: Rng::new(seed),
            control: ControlPlane::start(&plane, START),
            plane,
            counts: Counts::default(),
            streams: BTreeMap::new(),
            datagrams: BTreeMap::new(),
            kept: BTreeMap::new(),
            last_packets: BTreeMap::new(),
            scheduling: [setting.scheduling, setting.datagrams],
            reschedules: false,
            desired,
            active: [none; SERVERS],
            drain_starts: [[None; SERVERS]; 2],
            cut: [Duration::ZERO; SERVERS],
            is_changing: false,
            opens_during_changes: true,
            now: START,
            log: VecDeque::from([format!("seed {seed}, {setting:?}")]),
        };
        model.pass(Duration::ZERO);
        model.activate();
        model
    }

    /// The active state, and the one that is being carried out.
    fn views(&self) -> [&ModelServers; 2] {
        [&self.active, if self.is_changing { &self.desired } else { &self.active }]
    }

    /// The states of a flow's server: the active one, and the one that is being carried out. A server that was removed
    /// and added again is another one.
    fn states(&self, flow: &ModelFlow) -> [ServerState; 2] {
        let [active, desired] = self.views();
        let [since_active, since_desired] = &self.drain_starts;
        let since_desired = if self.is_changing { since_desired } else { since_active };
        [(active, since_active), (desired, since_desired)].map(|(servers, drain_starts)| {
            let server = &servers[flow.server];
            let is_same = server.incarnation == flow.incarnation;
            let has_time = match (self.setting.drain, drain_starts[flow.server]) {
                (Some(drain), Some(since)) => self.now < since + Duration::from_secs(drain) - SLACK,
                _ => server.exists,
            };
            ServerState {
                is_configured: server.exists && is_same,
                is_terminating: !is_same || !has_time || flow.last < self.cut[flow.server],
                ..server.state()
            }
        })
    }

    /// Whether a TCP flow must keep its server, unless it is idle.
    fn must_stay(&self, flow: &ModelFlow) -> bool {
        must_stay(&self.states(flow), FlowKind::Tcp)
    }

    fn may_drop(&self) -> bool {
        self.is_changing || !(0..SERVERS).any(|n| takes_new(&self.active, n))
    }

    /// The record of a flow whose packet has gone to `server`.
    fn flow(&self, server: usize) -> ModelFlow {
        let [scheduling, datagrams] = self.scheduling;
        let active = Setting { scheduling, datagrams, ..self.setting };
        let is_tracked = ![active, self.setting].iter().any(Setting::forgets_datagrams);
        ModelFlow {
            server,
            incarnation: self.desired[server].incarnation,
            last: self.now,
            is_tracked,
            begun: self.now,
            is_answered: false,
            is_assured: false,
        }
    }

    /// The record of a flow after another packet to its server.
    fn continued(&self, was: &ModelFlow, is_assured: bool) -> ModelFlow {
        let ModelFlow { begun, is_answered, .. } = *was;
        ModelFlow { begun, is_answered, is_assured: was.is_assured || is_assured, ..self.flow(was.server) }
    }

    /// Idle timeout of a flow. `idle` applies to assured flows and outside mode `nat`.
    fn idle(&self, flow: &ModelFlow, idle: Duration) -> Duration {
        if self.setting.mode == "nat" && !flow.is_assured { UNASSURED } else { idle }
    }

    /// A client sends a SYN.
    pub fn open(&mut self, number: u32) {
        // The SYN of a reused endpoint may be taken for a retransmission of a tracked flow's.
        let is_fresh = self
            .last_packets
            .get(&number)
            .is_none_or(|last_packets| self.now - *last_packets > ENDPOINT_TIMEOUT);
        let kept = self.affinity_server(number).filter(|_| is_fresh);
        let to = self.send(number, PacketKind::Tcp(flag::SYN));
        let was = self.streams.remove(&number);
        match to {
            Outcome::Forwarded(server)
                if let Some(was) = was
                    && was.server == server
                    && (was.is_assured || self.setting.mode != "nat")
                    && !self.views().iter().any(|servers| takes_new(servers, server)) =>
            {
                // The server answers that the connection still exists.
                let flow = self.continued(&was, false);
                self.streams.insert(number, flow);
            }
            Outcome::Forwarded(server) if kept.is_some_and(|kept| kept != server) => {
                self.fail(&format!("6: the client is kept to {kept:?}"));
            }
            Outcome::Dropped if self.may_drop() => {}
            Outcome::Dropped => self.fail("4: a SYN was dropped"),
            Outcome::Reset => self.fail("a SYN was answered"),
            Outcome::Forwarded(server) if self.views().iter().any(|servers| takes_new(servers, server)) => {
                self.counts.flows += 1;
                let mut flow = self.flow(server);
                let address = wire::client(number).ip();
                if is_fresh && !self.is_changing && self.scheduling[0].persistence > 0 {
                    self.counts.kept += u64::from(kept.is_some());
                    self.kept.insert(address, flow);
                } else {
                    self.kept.remove(&address);
                }
                // The SYN-ACK of a server that takes no new flows any more is reset, if the endpoint was used before.
                if is_fresh || self.views().iter().all(|servers| takes_new(servers, server)) {
                    flow.is_answered = self.answer(number, &flow, PacketKind::Tcp(flag::SYN));
                }
                self.streams.insert(number, flow);
            }
            // An earlier flow of this endpoint may have ended silently.
            Outcome::Forwarded(_) if !is_fresh => {}
            Outcome::Forwarded(_) => self.fail("2: a SYN went to a server that takes no new flows"),
        }
    }

    /// The server of a client's affinity entry.
    fn affinity_server(&self, number: u32) -> Option<usize> {
        let kept = self.kept.get(&wire::client(number).ip())?;
        let server = &self.active[kept.server];
        let has_time = (self.now - kept.last).as_secs() + 2 < self.scheduling[0].persistence;
        let is_kept = has_time
            && !self.is_changing
            && server.incarnation == kept.incarnation
            && takes_new(&self.active, kept.server);
        is_kept.then_some(kept.server)
    }

    /// A client sends a segment of its TCP flow; `flags` says which.
    pub fn continue_flow(&mut self, number: u32, flags: u8) {
        let Some(flow) = self.streams.get(&number).copied() else { return };
        let to = self.send(number, PacketKind::Tcp(flags));
        let is_live = self.now - flow.last < self.idle(&flow, TCP_IDLE);
        if self.must_stay(&flow) && is_live {
            if to == Outcome::Dropped && self.is_changing {
                self.counts.lost += 1;
                return;
            }
            self.counts.bound += 1;
            if to != Outcome::Forwarded(flow.server) {
                self.fail(&format!("1: the flow was with {}", flow.server));
            }
            let flow = self.continued(&flow, flow.is_answered && flags & flag::RST == 0);
            self.streams.insert(number, flow);
            if flags == flag::ACK {
                self.answer(number, &flow, PacketKind::Tcp(flag::ACK));
            }
            return;
        }
        match to {
            // No end is left that needs a RST.
            Outcome::Dropped if self.setting.mode == "nat" && flags & flag::RST != 0 => {}
            Outcome::Dropped if !self.may_drop() => self.fail("4: a packet of an old flow was dropped"),
            Outcome::Forwarded(server)
                if self.now - flow.last < RESET_ENTRY_TIMEOUT
                    && flow.is_assured
                    && self.setting.mode == "nat"
                    && server != flow.server =>
            {
                self.fail(&format!("5: the flow was with {}", flow.server));
            }
            Outcome::Reset => self.counts.ended += 1,
            _ => {}
        }
        self.streams.remove(&number);
    }

    fn datagram(&mut self, number: u32) {
        let was = self.datagrams.get(&number).copied();
        let to = self.send(number, PacketKind::Udp);
        if let Some(flow) = was
            && must_stay(&self.states(&flow), self.datagram_kind(&flow))
            && self.now - flow.last < self.idle(&flow, UDP_IDLE)
        {
            self.counts.bound += 1;
            if to != Outcome::Forwarded(flow.server) && !(to == Outcome::Dropped && self.is_changing) {
                self.fail(&format!("1: the datagrams went to {}", flow.server));
            }
        } else {
            self.counts.flows += 1;
        }
        match to {
            Outcome::Dropped if self.may_drop() => drop(self.datagrams.remove(&number)),
            Outcome::Dropped => self.fail("4: a datagram was dropped"),
            Outcome::Reset => self.fail("a datagram was answered"),
            Outcome::Forwarded(server) => {
                let same =
                    was.filter(|was| was.server == server && self.now - was.last < self.idle(was, UDP_IDLE));
                let mut flow = match same {
                    Some(was) => {
                        self.continued(&was, was.is_answered && self.now - was.begun > ASSURED_AFTER)
                    }
                    None => self.flow(server),
                };
                flow.is_answered |= self.answer(number, &flow, PacketKind::Udp);
                self.datagrams.insert(number, flow);
            }
        }
    }

    /// Kind of a UDP flow.
    fn datagram_kind(&self, flow: &ModelFlow) -> FlowKind {
        let follows = self.setting.follows_current && !flow.is_tracked;
        if follows { FlowKind::FollowingUdp } else { FlowKind::Udp }
    }

    /// Sends datagrams from new client endpoints. Returns their number.
    pub fn new_datagrams(&mut self) -> u32 {
        (2000..2100).for_each(|number| self.datagram(number));
        100
    }

    /// From now on, changes are carried out without new TCP flows in between.
    pub fn open_no_more(&mut self) {
        self.opens_during_changes = false;
    }

    /// Removes all UDP flows from the model.
    pub fn no_datagrams(&mut self) {
        self.datagrams.clear();
    }

    fn send(&mut self, number: u32, kind: PacketKind) -> Outcome {
        self.counts.packets += 1;
        if kind != PacketKind::Udp {
            self.last_packets.insert(number, self.now);
        }
        let to = wire::to_server(&self.plane, number, kind);
        self.note(format!("{number} {kind:?} -> {to:?}"));
        to
    }

    /// Sends a packet of a server. Returns whether it reaches the client.
    fn send_to_client(&mut self, number: u32, server: usize, kind: PacketKind) -> bool {
        if kind != PacketKind::Udp {
            self.last_packets.insert(number, self.now);
        }
        wire::to_client(&self.plane, server, number, kind)
    }

    /// In mode `nat` the server answers in most cases; returns whether it did.
    fn answer(&mut self, number: u32, flow: &ModelFlow, kind: PacketKind) -> bool {
        if self.setting.mode != "nat" || !self.must_stay(flow) || self.rng.once_in(4) {
            return false;
        }
        self.counts.answers += 1;
        if !self.send_to_client(number, flow.server, kind) {
            self.fail(&format!("an answer of {} to {number} did not arrive", flow.server));
        }
        true
    }

    fn note(&mut self, line: String) {
        if self.log.len() > SHOWN {
            // The first line names the seed and the setting.
            self.log.remove(1);
        }
        self.log.push_back(line);
    }

    /// Fails the test, with the log.
    ///
    /// # Panics
    /// Always.
    pub fn fail(&self, what: &str) -> ! {
        let log: Vec<_> = self.log.iter().map(String::as_str).collect();
        panic!("{what}\n{}\n{what}; counted {:?}", log.join("\n"), self.plane.host().totals());
    }
}
