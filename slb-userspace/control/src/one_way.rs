//! Servers of mode `nat` whose answers do not return through SLB: SLB forwards connections to them and sees no answer.
//! Pure.
//!
//! Probes come from SLB's own address. If a check of the server's port passes, the server's route to its clients
//! usually bypasses SLB. Without such a check the server may also be down, or its accept queue full.
//!
//! Only TCP counts, because a server answers every SYN, with a RST if the port is closed. It answers SYNs with forged
//! sources too, so these count like others.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    time::Duration,
};

use slb_common::{
    abi::{
        Address, Handle,
        backend::Backend,
        service::{IndexEntry, mode},
    },
    net::headers::protocol,
};

use crate::dataplane::state::{FlowRecord, Handshake, HandshakeOutcome, State, backend_address};
use crate::outlier_detection::SILENCE;

/// Unanswered new connections at which a server counts as one-way, if none is answered.
const LEAST_CONNECTIONS: u32 = 5;
/// The same if all come from one client and the server has answered before. Its firewall may drop that client only.
const LEAST_OF_ONE_CLIENT: u32 = 20;
/// Seconds for which a new connection counts. Older ones may predate a repair of the route.
pub const WINDOW: u32 = 30;
/// Time between two GC passes, so that a pass sees each connection while it counts.
pub(super) const LOOK: Duration = Duration::from_secs(WINDOW as u64 / 2);

/// What health checks say about a server's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// A check of its port passes.
    CheckPasses,
    /// No check probes its port.
    Unchecked,
}

impl Evidence {
    /// The detail that the status shows for a server that answers no connections.
    pub const fn detail(self) -> &'static str {
        match self {
            Self::CheckPasses => {
                "answers do not come back through SLB: make SLB's address the server's gateway (default route, or a policy route), let \
                 its firewall answer the clients, or use mode \"dsr\" or \"ipip\""
            }
            Self::Unchecked => {
                "no answer to new connections passes through SLB: the server is down, its accept queue is full, a firewall drops them, or \
                 its route to the clients leads past SLB; a health check of its port tells more"
            }
        }
    }
}

/// New connections of a server, by answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answers {
    /// Connections with an answer of any kind.
    pub answered: u32,
    /// Connections without an answer for [`SILENCE`] seconds.
    pub silent: u32,
    /// The clients of the unanswered connections.
    pub silent_clients: Clients,
    /// Whether older connections have been answered.
    pub older_answered: bool,
}

/// Whether there are no, one or several clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Clients {
    /// No client.
    #[default]
    None,
    /// One client.
    One(Address),
    /// Several clients.
    Several,
}

impl Clients {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, clients) | (clients, Self::None) => clients,
            (Self::One(one), Self::One(two)) if one == two => self,
            _ => Self::Several,
        }
    }
}

impl Answers {
    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.silent += other.silent;
        self.silent_clients = self.silent_clients.and(other.silent_clients);
        self.older_answered |= other.older_answered;
    }

    /// Whether the server answers none of its new connections. `has_answered` says whether it answered earlier ones.
    fn are_lost(self, has_answered: bool) -> bool {
        let is_one_client = matches!(self.silent_clients, Clients::One(_));
        let least = if has_answered && is_one_client { LEAST_OF_ONE_CLIENT } else { LEAST_CONNECTIONS };
        self.answered == 0 && self.silent >= least
    }
}

/// Whether SLB sees the answers of a listener's servers, and each SYN has one.
pub(super) const fn is_watched(mode: u8, protocol: u8) -> bool {
    mode == mode::NAT && protocol == protocol::TCP
}

/// Answers counted in one GC pass, by server.
#[derive(Debug, Default)]
pub(super) struct Counts(HashMap<Handle, Answers>);

impl Counts {
    /// Counts a flow.
    pub(super) fn note(&mut self, flow: &FlowRecord, entry: &IndexEntry) {
        let Some(Handshake { age, stage }) = flow.opening else { return };
        if !is_watched(entry.mode, entry.protocol) {
            return;
        }
        let answers = match stage {
            HandshakeOutcome::Answered if age > WINDOW => {
                Answers { older_answered: true, ..Answers::default() }
            }
            _ if age > WINDOW => return,
            HandshakeOutcome::Answered | HandshakeOutcome::Refused => {
                Answers { answered: 1, ..Answers::default() }
            }
            HandshakeOutcome::Asked if age >= SILENCE => {
                Answers { silent: 1, silent_clients: Clients::One(flow.client), ..Answers::default() }
            }
            HandshakeOutcome::Asked | HandshakeOutcome::GivenUp => return,
        };
        self.0.entry(flow.backend).or_default().add(answers);
    }

    /// Answers by server endpoint, over all its tables. Removed servers are left out.
    pub(super) fn by_server(&self, held: &State) -> BTreeMap<SocketAddr, Answers> {
        let mut all: BTreeMap<SocketAddr, Answers> = BTreeMap::new();
        for (handle, answers) in &self.0 {
            let backend = held
                .backends
                .get(&handle.id())
                .filter(|backend| backend.handle == *handle && backend.flags & Backend::REMOVED == 0);
            if let Some(backend) = backend {
                all.entry(backend_address(backend)).or_default().add(*answers);
            }
        }
        all
    }
}

/// The answers of a server no longer return, or return again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// None of this many new connections has an answer.
    Lost(SocketAddr, Evidence, u32),
    /// A new connection has an answer.
    Back(SocketAddr),
}

/// The servers whose answers do not return through SLB.
#[derive(Debug, Default)]
pub struct OneWay {
    lost: BTreeMap<SocketAddr, Evidence>,
    /// Servers that have answered, and have failed no check since.
    answered: BTreeSet<SocketAddr>,
}

impl OneWay {
    /// Updates the servers with the counts of one GC pass, and returns the changes. `evidence` says what health checks
    /// say about a server's port; `None` if no answers are expected, for example while a check fails.
    pub fn judge(
        &mut self,
        counted: &BTreeMap<SocketAddr, Answers>,
        evidence: impl Fn(&SocketAddr) -> Option<Evidence>,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        self.lost.retain(|server, before| evidence(server) == Some(*before));
        self.answered.retain(|server| evidence(server).is_some());
        for (server, answers) in counted {
            let Some(evidence) = evidence(server) else { continue };
            if answers.answered > 0 || answers.older_answered {
                self.answered.insert(*server);
            }
            if answers.answered > 0 {
                changes.extend(self.lost.remove(server).map(|_| Change::Back(*server)));
            } else if answers.are_lost(self.answered.contains(server)) && !self.lost.contains_key(server) {
                self.lost.insert(*server, evidence);
                changes.push(Change::Lost(*server, evidence, answers.silent));
            }
        }
        changes
    }

    /// The servers, with what health checks say about them.
    pub const fn servers(&self) -> &BTreeMap<SocketAddr, Evidence> {
        &self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::state::to_address;

    fn server() -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], 8080))
    }

    const THIS: Handle = Handle::new(3, 7);

    fn held(flags: u8) -> State {
        let mut state = State::default();
        let (address, port) = (to_address(server().ip()), server().port().to_be());
        state.backends.insert(3, Backend { address, port, handle: THIS, flags, ..Backend::default() });
        state
    }

    fn tcp() -> IndexEntry {
        IndexEntry { mode: mode::NAT, protocol: protocol::TCP, ..IndexEntry::default() }
    }

    fn flow(age: u32, stage: HandshakeOutcome) -> FlowRecord {
        FlowRecord { opening: Some(Handshake { age, stage }), ..FlowRecord::sample(1, THIS) }
    }

    fn counted(held: &State, entry: &IndexEntry, flows: &[FlowRecord]) -> Option<Answers> {
        let mut counts = Counts::default();
        flows.iter().for_each(|flow| counts.note(flow, entry));
        counts.by_server(held).get(&server()).copied()
    }

    #[test]
    fn a_connection_counts_once_it_is_answered_or_silent_and_while_it_is_new() {
        let all = [
            flow(0, HandshakeOutcome::Answered),
            // A closed port answers with a RST.
            flow(0, HandshakeOutcome::Refused),
            flow(2, HandshakeOutcome::Asked),
            flow(3, HandshakeOutcome::Asked),
            flow(30, HandshakeOutcome::Asked),
            flow(31, HandshakeOutcome::Asked),
            flow(31, HandshakeOutcome::Answered),
            flow(9, HandshakeOutcome::GivenUp),
            FlowRecord { opening: None, ..flow(9, HandshakeOutcome::Asked) },
            FlowRecord { backend: Handle::new(3, 6), ..flow(9, HandshakeOutcome::Asked) },
        ];
        let held_now = held(Backend::ALIVE | Backend::NEW);
        let silent_clients = Clients::One(flow(0, HandshakeOutcome::Asked).client);
        let expected = Answers { answered: 2, silent: 2, silent_clients, older_answered: true };
        assert_eq!(counted(&held_now, &tcp(), &all), Some(expected));
        assert_eq!(counted(&held(Backend::REMOVED), &tcp(), &all), None, "it leaves");
        for other in [
            IndexEntry { mode: mode::DSR, ..tcp() },
            IndexEntry { mode: mode::IPIP, ..tcp() },
            IndexEntry { protocol: protocol::UDP, ..tcp() },
        ] {
            assert_eq!(counted(&held_now, &other, &all), None, "no answers are to be seen");
        }
    }

    use Evidence::{CheckPasses, Unchecked};

    fn judge(one_way: &mut OneWay, answered: u32, silent: u32, evidence: Option<Evidence>) -> Vec<Change> {
        let answers = Answers { answered, silent, ..Answers::default() };
        one_way.judge(&[(server(), answers)].into(), |_| evidence)
    }

    /// For example, a server's firewall drops a scanner.
    #[test]
    fn one_client_without_answers_must_try_often_where_the_server_has_answered() {
        let client = |last: u8| Clients::One(to_address([192, 0, 2, last].into()));
        let (one, two) = (client(1).and(client(1)), client(1).and(client(2)).and(client(1)));
        for (has_answered, silent, silent_clients, is_lost) in [
            (true, 5, two, true),
            (true, 19, one, false),
            (true, 20, one, true),
            (false, 5, one, true),
            (false, 4, two, false),
        ] {
            for older_answered in [true, false] {
                let mut one_way = OneWay::default();
                let before = Answers {
                    answered: u32::from(!older_answered && has_answered),
                    older_answered: older_answered && has_answered,
                    ..Answers::default()
                };
                one_way.judge(&[(server(), before)].into(), |_| Some(CheckPasses));
                let answers = Answers { silent, silent_clients, ..Answers::default() };
                let changes = one_way.judge(&[(server(), answers)].into(), |_| Some(CheckPasses));
                assert_eq!(!changes.is_empty(), is_lost, "{has_answered} {answers:?}");
            }
        }
    }

    #[test]
    fn several_must_be_silent_none_answered_and_no_check_fail() {
        for (answered, silent, evidence, is_lost) in [
            (0, 4, Some(CheckPasses), false),
            (0, 5, Some(CheckPasses), true),
            (1, 500, Some(CheckPasses), false),
            (0, 500, None, false),
            (9, 0, Some(CheckPasses), false),
            (0, 4, Some(Unchecked), false),
            (0, 5, Some(Unchecked), true),
            (1, 500, Some(Unchecked), false),
        ] {
            let mut one_way = OneWay::default();
            let changes = judge(&mut one_way, answered, silent, evidence);
            let lost = evidence.filter(|_| is_lost);
            let expected: Vec<_> =
                lost.into_iter().map(|evidence| Change::Lost(server(), evidence, silent)).collect();
            assert_eq!(changes, expected, "{answered} {silent} {evidence:?}");
            assert_eq!(one_way.servers().get(&server()).copied(), lost);
        }
    }

    #[test]
    fn it_is_said_once_and_ends_with_an_answer() {
        for evidence in [CheckPasses, Unchecked] {
            let mut one_way = OneWay::default();
            assert_eq!(judge(&mut one_way, 0, 5, Some(evidence)).len(), 1);
            assert_eq!(judge(&mut one_way, 0, 9, Some(evidence)), []);
            assert_eq!(
                one_way.judge(&BTreeMap::new(), |_| Some(evidence)),
                [],
                "no connection tells nothing"
            );
            assert!(one_way.servers().contains_key(&server()));
            assert_eq!(judge(&mut one_way, 1, 9, Some(evidence)), [Change::Back(server())]);
            assert!(one_way.servers().is_empty());
        }
    }

    #[test]
    fn of_an_unhealthy_server_the_check_tells_more() {
        let mut one_way = OneWay::default();
        judge(&mut one_way, 0, 5, Some(CheckPasses));
        assert_eq!(judge(&mut one_way, 0, 5, None), []);
        assert!(one_way.servers().is_empty());
    }

    #[test]
    fn a_check_that_begins_to_pass_makes_it_another_finding() {
        let mut one_way = OneWay::default();
        judge(&mut one_way, 0, 5, Some(Unchecked));
        let changes = judge(&mut one_way, 0, 6, Some(CheckPasses));
        assert_eq!(changes, [Change::Lost(server(), CheckPasses, 6)]);
    }
}
