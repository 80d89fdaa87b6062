//! Servers of the modes `nat` and `full-nat` whose answers do not return through SLB: SLB forwards connections to them and sees no answer.
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

use slb_common::abi::{
    Address, Handle, backend::Backend, ids::BackendId, mode::Mode, protocol::IpProtocol, service::IndexEntry,
};

use crate::dataplane::state::{FlowRecord, Handshake, HandshakeOutcome, MapState, backend_address};
use crate::handshakes::has_reached_server;
use crate::outlier_detection::SILENCE;

/// Unanswered new connections at which a server counts as one-way, if none is answered.
const MIN_SILENT: u32 = 5;
/// The same if all come from one client and the server has answered before. Its firewall may drop that client only.
const MIN_SILENT_OF_ONE_CLIENT: u32 = 20;
/// Seconds for which a new connection counts. Older ones may predate a repair of the route.
pub const WINDOW: u32 = 30;
/// Time between two GC passes, so that a pass sees each connection while it counts.
pub(super) const ANSWER_GC_INTERVAL: Duration = Duration::from_secs(WINDOW as u64 / 2);

/// What health checks say about a server's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckEvidence {
    /// A check of its port passes.
    CheckPasses,
    /// No check probes its port.
    Unchecked,
}

impl CheckEvidence {
    /// The detail that the status shows for a server that answers no connections.
    pub const fn detail(self) -> &'static str {
        match self {
            Self::CheckPasses => {
                "answers do not return through SLB: make SLB's address the server's gateway (default route, or a policy route; in mode \
                 \"full-nat\" for the local addresses only), let its firewall answer the clients, or use mode \"full-nat\", \"dsr\", \"ipip\" or \"gue\""
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
pub struct AnswerCounts {
    /// Connections with an answer of any kind.
    pub answered: u32,
    /// Connections without an answer for [`SILENCE`] seconds.
    pub silent: u32,
    /// The clients of the unanswered connections.
    pub silent_clients: DistinctClients,
    /// Whether older connections have been answered.
    pub older_answered: bool,
}

/// Whether there are no, one or several clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DistinctClients {
    /// No client.
    #[default]
    None,
    /// One client.
    One(Address),
    /// Several clients.
    Several,
}

impl DistinctClients {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, clients) | (clients, Self::None) => clients,
            (Self::One(one), Self::One(two)) if one == two => self,
            _ => Self::Several,
        }
    }
}

impl AnswerCounts {
    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.silent += other.silent;
        self.silent_clients = self.silent_clients.and(other.silent_clients);
        self.older_answered |= other.older_answered;
    }

    /// Whether the server answers none of its new connections. `has_answered` says whether it answered earlier ones.
    fn are_missing(self, has_answered: bool) -> bool {
        let is_one_client = matches!(self.silent_clients, DistinctClients::One(_));
        let least = if has_answered && is_one_client { MIN_SILENT_OF_ONE_CLIENT } else { MIN_SILENT };
        self.answered == 0 && self.silent >= least
    }
}

/// Whether SLB sees the answers of a listener's servers, and each SYN has one.
pub(super) const fn sees_answers(mode: Option<Mode>, protocol: Option<IpProtocol>) -> bool {
    matches!(mode, Some(mode) if mode.sees_replies()) && matches!(protocol, Some(IpProtocol::Tcp))
}

/// Answers counted in one GC pass, by server.
#[derive(Debug, Default)]
pub(super) struct AnswerCounter(HashMap<Handle, AnswerCounts>);

impl AnswerCounter {
    /// Counts a flow.
    pub(super) fn note(&mut self, flow: &FlowRecord, entry: &IndexEntry) {
        let Some(Handshake { age, outcome }) = flow.handshake else { return };
        if !sees_answers(entry.mode(), entry.protocol()) || !has_reached_server(flow, entry) {
            return;
        }
        let answers = match outcome {
            HandshakeOutcome::Answered if age > WINDOW => {
                AnswerCounts { older_answered: true, ..AnswerCounts::default() }
            }
            _ if age > WINDOW => return,
            HandshakeOutcome::Answered | HandshakeOutcome::Reset => {
                AnswerCounts { answered: 1, ..AnswerCounts::default() }
            }
            HandshakeOutcome::Unanswered if age >= SILENCE => AnswerCounts {
                silent: 1,
                silent_clients: DistinctClients::One(flow.client),
                ..AnswerCounts::default()
            },
            HandshakeOutcome::Unanswered | HandshakeOutcome::Abandoned => return,
        };
        self.0.entry(flow.backend).or_default().add(answers);
    }

    /// Answers by server endpoint, over all its tables. Removed servers are left out.
    pub(super) fn by_server(&self, actual: &MapState) -> BTreeMap<SocketAddr, AnswerCounts> {
        let mut all: BTreeMap<SocketAddr, AnswerCounts> = BTreeMap::new();
        for (handle, answers) in &self.0 {
            let backend = actual
                .backends
                .get(&BackendId::of(*handle))
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
pub enum OneWayChange {
    /// None of this many new connections has an answer.
    AnswersLost(SocketAddr, CheckEvidence, u32),
    /// A new connection has an answer.
    AnswersReturned(SocketAddr),
}

/// The servers whose answers do not return through SLB.
#[derive(Debug, Default)]
pub struct OneWayServers {
    lost: BTreeMap<SocketAddr, CheckEvidence>,
    /// Servers that have answered, and have failed no check since.
    answered: BTreeSet<SocketAddr>,
}

impl OneWayServers {
    /// Updates the servers with the counts of one GC pass, and returns the changes. `evidence` says what health checks
    /// say about a server's port; `None` if no answers are expected, for example while a check fails.
    pub fn update(
        &mut self,
        counted: &BTreeMap<SocketAddr, AnswerCounts>,
        evidence: impl Fn(&SocketAddr) -> Option<CheckEvidence>,
    ) -> Vec<OneWayChange> {
        let mut changes = Vec::new();
        self.lost.retain(|server, before| evidence(server) == Some(*before));
        self.answered.retain(|server| evidence(server).is_some());
        for (server, answers) in counted {
            let Some(evidence) = evidence(server) else { continue };
            if answers.answered > 0 || answers.older_answered {
                self.answered.insert(*server);
            }
            if answers.answered > 0 {
                changes.extend(self.lost.remove(server).map(|_| OneWayChange::AnswersReturned(*server)));
            } else if answers.are_missing(self.answered.contains(server)) && !self.lost.contains_key(server) {
                self.lost.insert(*server, evidence);
                changes.push(OneWayChange::AnswersLost(*server, evidence, answers.silent));
            }
        }
        changes
    }

    /// The servers, with what health checks say about them.
    pub const fn servers(&self) -> &BTreeMap<SocketAddr, CheckEvidence> {
        &self.lost
    }
}

#[cfg(test)]
mod tests {
    use slb_common::abi::ids::ServiceTag;

    use super::*;
    use crate::dataplane::state::to_address;

    fn server() -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], 8080))
    }

    const THIS: Handle = Handle::new(3, 7);

    fn actual(flags: u8) -> MapState {
        let mut state = MapState::default();
        let (address, port) = (to_address(server().ip()), server().port().to_be());
        state.backends.insert(
            BackendId::of(THIS),
            Backend { address, port, handle: THIS, flags, ..Backend::default() },
        );
        state
    }

    fn tcp() -> IndexEntry {
        IndexEntry { mode: Mode::Nat.number(), protocol: IpProtocol::Tcp.number(), ..IndexEntry::default() }
    }

    fn flow(age: u32, outcome: HandshakeOutcome) -> FlowRecord {
        FlowRecord {
            handshake: Some(Handshake { age, outcome }),
            ..FlowRecord::sample(ServiceTag::new(1), THIS)
        }
    }

    fn counted(actual: &MapState, entry: &IndexEntry, flows: &[FlowRecord]) -> Option<AnswerCounts> {
        let mut counts = AnswerCounter::default();
        flows.iter().for_each(|flow| counts.note(flow, entry));
        counts.by_server(actual).get(&server()).copied()
    }

    #[test]
    fn only_new_answered_or_unanswered_connections_count() {
        let all = [
            flow(0, HandshakeOutcome::Answered),
            // A closed port answers with a RST.
            flow(0, HandshakeOutcome::Reset),
            flow(2, HandshakeOutcome::Unanswered),
            flow(3, HandshakeOutcome::Unanswered),
            flow(30, HandshakeOutcome::Unanswered),
            flow(31, HandshakeOutcome::Unanswered),
            flow(31, HandshakeOutcome::Answered),
            flow(9, HandshakeOutcome::Abandoned),
            FlowRecord { handshake: None, ..flow(9, HandshakeOutcome::Unanswered) },
            FlowRecord { backend: Handle::new(3, 6), ..flow(9, HandshakeOutcome::Unanswered) },
        ];
        let held_now = actual(Backend::ALIVE | Backend::ACCEPTS_NEW);
        let silent_clients = DistinctClients::One(flow(0, HandshakeOutcome::Unanswered).client);
        let expected = AnswerCounts { answered: 2, silent: 2, silent_clients, older_answered: true };
        assert_eq!(counted(&held_now, &tcp(), &all), Some(expected));
        assert_eq!(counted(&actual(Backend::REMOVED), &tcp(), &all), None, "it leaves");
        for other in [
            IndexEntry { mode: Mode::Dsr.number(), ..tcp() },
            IndexEntry { mode: Mode::Ipip.number(), ..tcp() },
            IndexEntry { protocol: IpProtocol::Udp.number(), ..tcp() },
        ] {
            assert_eq!(counted(&held_now, &other, &all), None, "no answers are to be seen");
        }
    }

    use CheckEvidence::{CheckPasses, Unchecked};

    fn update(
        one_way: &mut OneWayServers,
        answered: u32,
        silent: u32,
        evidence: Option<CheckEvidence>,
    ) -> Vec<OneWayChange> {
        let answers = AnswerCounts { answered, silent, ..AnswerCounts::default() };
        one_way.update(&[(server(), answers)].into(), |_| evidence)
    }

    /// For example, a server's firewall drops a scanner.
    #[test]
    fn unanswered_client_needs_20_attempts_at_a_server_that_answered() {
        let client = |last: u8| DistinctClients::One(to_address([192, 0, 2, last].into()));
        let (one, two) = (client(1).and(client(1)), client(1).and(client(2)).and(client(1)));
        for (has_answered, silent, silent_clients, is_lost) in [
            (true, 5, two, true),
            (true, 19, one, false),
            (true, 20, one, true),
            (false, 5, one, true),
            (false, 4, two, false),
        ] {
            for older_answered in [true, false] {
                let mut one_way = OneWayServers::default();
                let before = AnswerCounts {
                    answered: u32::from(!older_answered && has_answered),
                    older_answered: older_answered && has_answered,
                    ..AnswerCounts::default()
                };
                one_way.update(&[(server(), before)].into(), |_| Some(CheckPasses));
                let answers = AnswerCounts { silent, silent_clients, ..AnswerCounts::default() };
                let changes = one_way.update(&[(server(), answers)].into(), |_| Some(CheckPasses));
                assert_eq!(!changes.is_empty(), is_lost, "{has_answered} {answers:?}");
            }
        }
    }

    #[test]
    fn one_way_traffic_needs_five_unanswered_and_no_answered_connection() {
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
            let mut one_way = OneWayServers::default();
            let changes = update(&mut one_way, answered, silent, evidence);
            let lost = evidence.filter(|_| is_lost);
            let expected: Vec<_> = lost
                .into_iter()
                .map(|evidence| OneWayChange::AnswersLost(server(), evidence, silent))
                .collect();
            assert_eq!(changes, expected, "{answered} {silent} {evidence:?}");
            assert_eq!(one_way.servers().get(&server()).copied(), lost);
        }
    }

    #[test]
    fn one_way_traffic_is_reported_once_until_an_answer() {
        for evidence in [CheckPasses, Unchecked] {
            let mut one_way = OneWayServers::default();
            assert_eq!(update(&mut one_way, 0, 5, Some(evidence)).len(), 1);
            assert_eq!(update(&mut one_way, 0, 9, Some(evidence)), []);
            assert_eq!(
                one_way.update(&BTreeMap::new(), |_| Some(evidence)),
                [],
                "no connection tells nothing"
            );
            assert!(one_way.servers().contains_key(&server()));
            assert_eq!(update(&mut one_way, 1, 9, Some(evidence)), [OneWayChange::AnswersReturned(server())]);
            assert!(one_way.servers().is_empty());
        }
    }

    #[test]
    fn unhealthy_server_ends_a_one_way_traffic_report() {
        let mut one_way = OneWayServers::default();
        update(&mut one_way, 0, 5, Some(CheckPasses));
        assert_eq!(update(&mut one_way, 0, 5, None), []);
        assert!(one_way.servers().is_empty());
    }

    #[test]
    fn passing_check_causes_another_one_way_traffic_report() {
        let mut one_way = OneWayServers::default();
        update(&mut one_way, 0, 5, Some(Unchecked));
        let changes = update(&mut one_way, 0, 6, Some(CheckPasses));
        assert_eq!(changes, [OneWayChange::AnswersLost(server(), CheckPasses, 6)]);
    }
}
