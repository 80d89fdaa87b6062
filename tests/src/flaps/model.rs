//! Model of the chaos test: the state of each server over time, and what flows may do in it.
//!
//! The driver records each change before it begins and after it is done. Reports of flows are checked afterwards, so
//! the model then knows every change that had begun. What flows may do then is the rule of [`crate::eligible_servers`].

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::{
    client::{FlowEvent, FlowReport, Interval, ListenerView},
    eligible_servers::{FlowKind, ServerState, may_be_eligible, may_move, must_be_eligible, must_stay},
};

mod draining;
mod sides;
mod states;

pub use sides::Sides;

/// Reports of flows arrive within this time; older records are removed.
const RETENTION: Duration = Duration::from_secs(60);

/// Upper bounds of health-check delays.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// From a server's failure until it receives no new flows.
    pub detection: Duration,
    /// From a server's recovery until it is known to be healthy.
    pub recovery: Duration,
}

/// A time span; open while `to` is `None`.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: Instant,
    to: Option<Instant>,
}

impl Span {
    fn since(from: Instant) -> Self {
        Self { from, to: None }
    }

    fn meets(self, during: Interval) -> bool {
        self.from <= during.to && self.to.is_none_or(|to| to >= during.from)
    }

    fn covers(self, during: Interval) -> bool {
        self.from <= during.from && self.to.is_none_or(|to| to >= during.to)
    }

    fn is_retained(self, now: Instant) -> bool {
        self.to.is_none_or(|to| to + RETENTION > now)
    }
}

/// A time span in which a server does not answer.
#[derive(Debug, Clone, Copy)]
struct ServerFailure {
    span: Span,
    /// When the daemon must know of the failure; `None` while the daemon is down.
    known: Option<Instant>,
    /// When its repair began.
    repaired_since: Option<Instant>,
    /// When the daemon must know of the recovery; `None` before it, and while the daemon is down.
    recovery_known: Option<Instant>,
}

impl ServerFailure {
    /// The time in which flows may still go to the server.
    fn undetected(self) -> Span {
        let ends = [self.span.to, self.known].into_iter().flatten().min();
        Span { from: self.span.from, to: ends }
    }

    /// The time in which the daemon may remove the server from its tables, even if the server has already recovered.
    /// Packets to it may then find no server.
    fn detection_window(&self) -> Span {
        Span { from: self.span.from, to: self.known.or(self.recovery_known) }
    }

    /// The time in which no new flow may go to the server; `None` while the daemon need not know.
    fn detected(self) -> Option<Span> {
        self.known.map(|known| Span { from: known, to: self.repaired_since })
    }
}

/// Records of a server.
#[derive(Debug, Default)]
struct ServerHistory {
    failures: Vec<ServerFailure>,
    /// When it was not configured, from the start of its removal to the end of its addition.
    removed: Vec<Span>,
    /// The reloads that removed it: requests in progress were lost then.
    lossy_reloads: Vec<Span>,
    /// Per pool, when it certainly takes no new flows.
    barred: BTreeMap<&'static str, Vec<Span>>,
    /// Per pool, when it possibly takes no new flows: also during the changes before and after.
    maybe_barred: BTreeMap<&'static str, Vec<Span>>,
}

/// Counts of flows and of broken rules.
#[derive(Debug, Default, Clone, Copy)]
pub struct FlowTotals {
    /// Flows that have begun.
    pub began: u64,
    /// Flows that began while every failure was known to the daemon.
    pub began_undisturbed: u64,
    /// Flows that failed, broke or moved because of a failure: of their server or, for flows without one yet, of any
    /// server.
    pub excused: u64,
    /// Established flows of working servers that went to another server.
    pub moved: u64,
    /// Established flows of working servers that broke.
    pub broken: u64,
    /// New flows that failed or were retried while every failure was known.
    pub failed: u64,
    /// New flows to servers that were known to have failed.
    pub to_failed: u64,
    /// New flows to servers that take none.
    pub to_barred: u64,
    /// New flows to a side without the traffic.
    pub to_other_side: u64,
    /// New flows that did not go to the server of the client's affinity entry, although it took new flows.
    pub strayed: u64,
    /// Packets without a server while every failure was known.
    pub unserved: u64,
}

impl FlowTotals {
    /// Sum of all broken rules.
    pub fn wrong(&self) -> u64 {
        self.moved
            + self.broken
            + self.failed
            + self.to_failed
            + self.to_barred
            + self.to_other_side
            + self.strayed
            + self.unserved
    }

    /// The count of new flows to a server in these states, and what is wrong with them. `None` if it may get new flows.
    fn of_ineligible(&mut self, states: &[ServerState]) -> Option<(&mut u64, &'static str)> {
        if may_be_eligible(states) {
            None
        } else if states.iter().all(|state| state.is_standby) {
            Some((&mut self.to_other_side, "was of the side without the traffic"))
        } else if states.iter().all(|state| !state.is_in_service) {
            Some((&mut self.to_barred, "was to get none"))
        } else {
            Some((&mut self.to_failed, "was known to have failed"))
        }
    }
}

impl fmt::Display for FlowTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            began,
            began_undisturbed,
            excused,
            moved,
            broken,
            failed,
            to_failed,
            to_barred,
            to_other_side,
            strayed,
            unserved,
        } = self;
        write!(
            f,
            "{began} flows began, {began_undisturbed} of them while every failed server was known; established flows of \
             living servers: {moved} moved, {broken} broken; new flows: {to_failed} to servers known to have failed, \
             {to_barred} to servers that were to get none, {to_other_side} to the side without the traffic, {strayed} not to \
             the server of their client, {failed} failed; packets without a server: {unserved}; {excused} flows ended or \
             had to begin anew because their server had failed or been removed"
        )
    }
}

/// The model: all servers by name, and the counts.
#[derive(Debug)]
pub struct Model {
    bounds: Bounds,
    servers: BTreeMap<String, ServerHistory>,
    /// The pool with two sides.
    sides: Option<Sides>,
    /// Whether the daemon is down.
    down: bool,
    /// Last counts of new flows, and when they were requested.
    counted: BTreeMap<(ListenerView, String), (Instant, u64)>,
    /// Server of the last flow of each client address, and the start of that flow.
    last: BTreeMap<(ListenerView, IpAddr), (String, Instant)>,
    /// Last count of packets without a server, and when it was requested.
    unserved: Option<(Instant, u64)>,
    totals: FlowTotals,
    wrong: Vec<String>,
}

impl Model {
    /// A model in which all servers are healthy and take new flows.
    pub fn new<'a>(bounds: Bounds, names: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            bounds,
            servers: names.into_iter().map(|name| (name.to_owned(), ServerHistory::default())).collect(),
            sides: None,
            down: false,
            counted: BTreeMap::new(),
            last: BTreeMap::new(),
            unserved: None,
            totals: FlowTotals::default(),
            wrong: Vec::new(),
        }
    }

    /// Declares the pool with two sides.
    pub fn set_sides(&mut self, sides: Sides) {
        self.sides = Some(sides);
    }

    /// Records that a server fails now.
    pub fn on_failure(&mut self, server: &str, now: Instant) {
        let known = (!self.down).then(|| now + self.bounds.detection);
        self.server(server).failures.push(ServerFailure {
            span: Span::since(now),
            known,
            repaired_since: None,
            recovery_known: None,
        });
    }

    /// Records that a server has been repaired; `repair` is the time in which it began to answer.
    pub fn on_recovery(&mut self, server: &str, repair: Interval) {
        let recovery_known = (!self.down).then(|| repair.to + self.bounds.recovery);
        if let Some(failure) = self.server(server).failures.last_mut()
            && failure.span.to.is_none()
        {
            failure.span.to = Some(repair.to);
            failure.repaired_since = Some(repair.from);
            failure.recovery_known = recovery_known;
        }
    }

    /// Records that the daemon is about to be killed.
    pub fn on_daemon_down(&mut self, now: Instant) {
        self.down = true;
        for failure in self.open_failures().filter(|failure| failure.known.is_some_and(|known| known > now)) {
            failure.known = None;
        }
        for failure in self
            .failures()
            .filter(|failure| failure.recovery_known.is_some_and(|recovery_known| recovery_known > now))
        {
            failure.recovery_known = None;
        }
    }

    /// Records that the daemon is ready.
    pub fn on_daemon_up(&mut self, now: Instant) {
        self.down = false;
        let known = now + self.bounds.detection;
        for failure in self.open_failures().filter(|failure| failure.known.is_none()) {
            failure.known = Some(known);
        }
        let recovery_known = now + self.bounds.recovery;
        for failure in self.failures().filter(|f| f.span.to.is_some() && f.recovery_known.is_none()) {
            failure.recovery_known = Some(recovery_known);
        }
    }

    /// Records that a reload has removed a server from the configuration.
    pub fn on_removed(&mut self, server: &str, change: Interval) {
        let record = self.server(server);
        record.removed.push(Span::since(change.from));
        record.lossy_reloads.push(Span { from: change.from, to: Some(change.to) });
    }

    /// Records that a reload has added the server again.
    pub fn on_added(&mut self, server: &str, now: Instant) {
        if let Some(span) = self.server(server).removed.last_mut() {
            span.to = Some(now);
        }
    }

    /// Records whether a server takes new flows in a pool; `change` is the time of the request that set it.
    pub fn bar(&mut self, server: &str, pool: &'static str, barred: bool, change: Interval) {
        let note = |spans: &mut Vec<Span>, from, to| match spans.last_mut().filter(|span| span.to.is_none()) {
            Some(open) if !barred => open.to = Some(to),
            None if barred => spans.push(Span::since(from)),
            _ => {}
        };
        let record = self.server(server);
        note(record.barred.entry(pool).or_default(), change.to, change.from);
        note(record.maybe_barred.entry(pool).or_default(), change.from, change.to);
    }

    /// Removes records to which no report can refer any more.
    pub fn forget(&mut self, now: Instant) {
        for server in self.servers.values_mut() {
            server
                .failures
                .retain(|failure| failure.span.is_retained(now) || failure.recovery_known.is_none());
            server.removed.retain(|span| span.is_retained(now));
            server.lossy_reloads.retain(|span| span.is_retained(now));
            let orders = server.barred.values_mut().chain(server.maybe_barred.values_mut());
            orders.for_each(|spans| spans.retain(|span| span.is_retained(now)));
        }
    }

    /// Checks the report of a flow.
    pub fn judge(&mut self, report: &FlowReport) {
        let FlowReport { view, source, during, what } = report;
        match what {
            FlowEvent::Began { server, retries } => {
                self.began(*view, *during, server, *retries);
                if let Some(source) = source.filter(|_| view.terms.persists) {
                    self.on_continued(*view, source, *during, server);
                }
            }
            FlowEvent::Failed { error } => {
                if self.any_undetected(*during) {
                    self.totals.excused += 1;
                } else {
                    self.totals.failed += 1;
                    self.record_violation(report, &format!("failed: {error}"));
                }
            }
            FlowEvent::Broke { server, error } => {
                if self.may_end(server, *during, *view) {
                    self.totals.excused += 1;
                } else {
                    self.totals.broken += 1;
                    self.record_violation(report, &format!("of {server} broke: {error}"));
                }
            }
            FlowEvent::Moved { from, to } => {
                if may_move(&self.states(from, *view, *during), kind(*view)) {
                    self.totals.excused += 1;
                } else {
                    self.totals.moved += 1;
                    self.record_violation(report, &format!("moved from {from} to {to}"));
                }
            }
        }
    }

    /// Checks the data plane's count of new flows of a server; `during` is the time of the request.
    pub fn count(&mut self, view: ListenerView, server: &str, flows: u64, during: Interval) {
        let before = self.counted.insert((view, server.to_owned()), (during.from, flows));
        let Some((asked, before)) = before.filter(|(_, before)| *before < flows) else { return };
        let during = Interval { from: asked, to: during.to };
        let states = self.states(server, view, during);
        let Some((count, reason)) = self.totals.of_ineligible(&states) else { return };
        let new = flows - before;
        *count += new;
        self.wrong.push(format!(
            "{} {}: {new} new flows were sent to {server}, which {reason}",
            view.service.name(),
            view.target
        ));
    }

    /// Checks the data plane's count of packets without a server; `during` is the time of the request.
    pub fn count_unserved(&mut self, packets: u64, during: Interval) {
        let (asked, before) = self.unserved.replace((during.from, packets)).unwrap_or((during.from, 0));
        let during = Interval { from: asked, to: during.to };
        if before < packets && !self.any_undetected(during) && !self.any_in_detection_window(during) {
            self.totals.unserved += packets - before;
            self.wrong.push(format!("{} packets found no server", packets - before));
        }
    }

    /// Counts so far.
    pub fn totals(&self) -> FlowTotals {
        self.totals
    }

    /// Broken rules so far, as messages.
    pub fn wrong(&self) -> &[String] {
        &self.wrong
    }

    fn began(&mut self, view: ListenerView, during: Interval, server: &str, retries: u32) {
        self.totals.began += 1;
        let undisturbed = !self.any_undetected(during);
        self.totals.began_undisturbed += u64::from(undisturbed);
        let sent = during.prompt();
        if retries > 0 && !self.any_undetected(sent) && !self.any_in_detection_window(sent) {
            self.totals.failed += 1;
            self.wrong.push(format!(
                "{} {}: {retries} datagrams to {server} were sent again",
                view.service.name(),
                view.target
            ));
        }
        let states = self.states(server, view, during);
        let Some((count, reason)) = self.totals.of_ineligible(&states) else { return };
        *count += 1;
        self.wrong.push(format!(
            "{} {}: a new flow was answered by {server}, which {reason}",
            view.service.name(),
            view.target
        ));
    }

    /// Checks the server of a client's next flow, with session persistence.
    fn on_continued(&mut self, view: ListenerView, source: IpAddr, during: Interval, server: &str) {
        let Some((before, since)) = self.last.insert((view, source), (server.to_owned(), during.from)) else {
            return;
        };
        let during = Interval { from: since, to: during.to };
        if before != server && must_be_eligible(&self.states(&before, view, during)) {
            self.totals.strayed += 1;
            self.wrong.push(format!(
                "{} {}: a flow of {source}, which is kept to {before}, was answered by {server}",
                view.service.name(),
                view.target
            ));
        }
    }

    fn record_violation(&mut self, report: &FlowReport, what: &str) {
        let FlowReport { view, during, .. } = report;
        let took = during.to.saturating_duration_since(during.from);
        self.wrong.push(format!(
            "{} {}: a flow {what} ({took:?} after it was well)",
            view.service.name(),
            view.target
        ));
    }

    /// Whether new flows may have met a server that had failed, or one that was being removed.
    fn any_undetected(&self, during: Interval) -> bool {
        self.servers.values().any(|server| {
            server.failures.iter().any(|failure| failure.undetected().meets(during))
                || server.lossy_reloads.iter().any(|span| span.meets(during))
        })
    }

    /// Whether packets may have met a table from which a server was being removed.
    fn any_in_detection_window(&self, during: Interval) -> bool {
        let mut failures = self.servers.values().flat_map(|server| &server.failures);
        failures.any(|failure| failure.detection_window().meets(during))
    }

    /// Whether flows of a server may end: it failed, or they need not stay with it.
    fn may_end(&self, server: &str, during: Interval, view: ListenerView) -> bool {
        let Some(record) = self.servers.get(server) else { return false };
        record.failures.iter().any(|failure| failure.span.meets(during))
            || !must_stay(&self.states(server, view, during), kind(view))
    }

    fn failures(&mut self) -> impl Iterator<Item = &mut ServerFailure> {
        self.servers.values_mut().flat_map(|server| &mut server.failures)
    }

    fn open_failures(&mut self) -> impl Iterator<Item = &mut ServerFailure> {
        self.failures().filter(|failure| failure.span.to.is_none())
    }

    fn server(&mut self, name: &str) -> &mut ServerHistory {
        self.servers.entry(name.to_owned()).or_default()
    }
}

/// Kind of a listener's flows.
fn kind(view: ListenerView) -> FlowKind {
    if view.service.protocol() == "udp" { FlowKind::Udp } else { FlowKind::Tcp }
}

#[cfg(test)]
mod tests;
