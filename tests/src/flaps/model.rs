//! Which server is what at each moment, and what flows may do then.
//!
//! Whoever changes something says so before it begins and after it is done; what is told of flows is judged afterwards, so
//! that everything that had begun by then is known.

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::client::{Door, During, Told, What};

mod leaving;
mod sides;

pub use sides::Sides;

/// What is told of flows is told within this time: what ended longer ago is forgotten.
const MEMORY: Duration = Duration::from_secs(60);

/// How long it takes to find out.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Until a server that fails gets no new flows any more.
    pub detection: Duration,
    /// Until a server that is well again is known to be.
    pub recovery: Duration,
}

/// A time that may not be over.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: Instant,
    to: Option<Instant>,
}

impl Span {
    fn since(from: Instant) -> Self {
        Self { from, to: None }
    }

    fn meets(self, during: During) -> bool {
        self.from <= during.to && self.to.is_none_or(|to| to >= during.from)
    }

    fn covers(self, during: During) -> bool {
        self.from <= during.from && self.to.is_none_or(|to| to >= during.to)
    }

    fn is_remembered(self, now: Instant) -> bool {
        self.to.is_none_or(|to| to + MEMORY > now)
    }
}

/// A time in which a server does not answer.
#[derive(Debug, Clone, Copy)]
struct Failure {
    span: Span,
    /// When the daemon must have found out, unless it does not run.
    known: Option<Instant>,
    /// When it must have found out that it is over, likewise.
    over: Option<Instant>,
}

impl Failure {
    /// In which flows may go there.
    fn unknown(self) -> Span {
        let ends = [self.span.to, self.known].into_iter().flatten().min();
        Span { from: self.span.from, to: ends }
    }

    /// In which its name may be taken out of tables, even where it is well again by then: what is on its way to it just then
    /// finds no server.
    fn is_being_found_out(&self) -> Span {
        Span { from: self.span.from, to: self.known.or(self.over) }
    }

    /// In which none may.
    fn found_out(self) -> Option<Span> {
        self.known.map(|known| Span { from: known, to: self.span.to })
    }
}

/// What there is to know of a server.
#[derive(Debug, Default)]
struct Server {
    failures: Vec<Failure>,
    /// When it was not configured, with the changes before and after.
    removed: Vec<Span>,
    /// The changes that removed it: what it was answering then was not answered to the end.
    cuts: Vec<Span>,
    /// When it was to get no new flows in a pool.
    barred: BTreeMap<&'static str, Vec<Span>>,
    /// The same with the changes before and after.
    aside: BTreeMap<&'static str, Vec<Span>>,
}

/// What has been counted.
#[derive(Debug, Default, Clone, Copy)]
pub struct Totals {
    /// Flows that have begun.
    pub began: u64,
    /// Flows that have begun while every server that failed was known to.
    pub began_undisturbed: u64,
    /// Flows that failed, broke or moved while their server, or with flows that had none yet some server, was not well.
    pub excused: u64,
    /// Established flows of living servers that went to another server.
    pub moved: u64,
    /// Established flows of living servers that broke.
    pub broken: u64,
    /// New flows that failed, or had to be begun again, although no failed server was unknown.
    pub failed: u64,
    /// New flows to servers known to have failed.
    pub to_failed: u64,
    /// New flows to servers that were to get none.
    pub to_barred: u64,
    /// New flows to a side that did not have the traffic.
    pub to_other_side: u64,
    /// New flows that did not go where the client's last one had gone, although that server took new flows.
    pub strayed: u64,
    /// Packets that found no server although no failed server was unknown.
    pub unserved: u64,
}

impl Totals {
    /// What must not be.
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
}

impl fmt::Display for Totals {
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

/// All servers, by name.
#[derive(Debug)]
pub struct Model {
    bounds: Bounds,
    servers: BTreeMap<String, Server>,
    /// The pool that has two sides.
    sides: Option<Sides>,
    /// When the daemon does not run.
    down: bool,
    /// New flows as they were counted, and when the count was asked for.
    counted: BTreeMap<(Door, String), (Instant, u64)>,
    /// Where the last flow of a client address has gone, and since when it has.
    last: BTreeMap<(Door, IpAddr), (String, Instant)>,
    /// Packets without a server, likewise.
    unserved: Option<(Instant, u64)>,
    totals: Totals,
    wrong: Vec<String>,
}

impl Model {
    /// Servers that are well and get new flows.
    pub fn new<'a>(bounds: Bounds, names: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            bounds,
            servers: names.into_iter().map(|name| (name.to_owned(), Server::default())).collect(),
            sides: None,
            down: false,
            counted: BTreeMap::new(),
            last: BTreeMap::new(),
            unserved: None,
            totals: Totals::default(),
            wrong: Vec::new(),
        }
    }

    /// One pool has two sides.
    pub fn has_sides(&mut self, sides: Sides) {
        self.sides = Some(sides);
    }

    /// A server fails from now on.
    pub fn fails(&mut self, server: &str, now: Instant) {
        let known = (!self.down).then(|| now + self.bounds.detection);
        self.server(server).failures.push(Failure { span: Span::since(now), known, over: None });
    }

    /// A server is well again.
    pub fn is_well(&mut self, server: &str, now: Instant) {
        let over = (!self.down).then(|| now + self.bounds.recovery);
        if let Some(failure) = self.server(server).failures.last_mut()
            && failure.span.to.is_none()
        {
            failure.span.to = Some(now);
            failure.over = over;
        }
    }

    /// The daemon is about to end.
    pub fn goes_down(&mut self, now: Instant) {
        self.down = true;
        for failure in self.open_failures().filter(|failure| failure.known.is_some_and(|known| known > now)) {
            failure.known = None;
        }
        for failure in self.failures().filter(|failure| failure.over.is_some_and(|over| over > now)) {
            failure.over = None;
        }
    }

    /// The daemon is ready.
    pub fn is_up(&mut self, now: Instant) {
        self.down = false;
        let known = now + self.bounds.detection;
        for failure in self.open_failures().filter(|failure| failure.known.is_none()) {
            failure.known = Some(known);
        }
        let over = now + self.bounds.recovery;
        for failure in self.failures().filter(|f| f.span.to.is_some() && f.over.is_none()) {
            failure.over = Some(over);
        }
    }

    /// A server has been removed from the configuration, by a change that was asked for and answered.
    pub fn is_removed(&mut self, server: &str, change: During) {
        let record = self.server(server);
        record.removed.push(Span::since(change.from));
        record.cuts.push(Span { from: change.from, to: Some(change.to) });
    }

    /// A server has been added to it again.
    pub fn is_back(&mut self, server: &str, now: Instant) {
        if let Some(span) = self.server(server).removed.last_mut() {
            span.to = Some(now);
        }
    }

    /// A server is to get new flows in a pool, or none, since a change that was asked for and answered.
    pub fn bar(&mut self, server: &str, pool: &'static str, barred: bool, change: During) {
        let note = |spans: &mut Vec<Span>, from, to| match spans.last_mut().filter(|span| span.to.is_none()) {
            Some(open) if !barred => open.to = Some(to),
            None if barred => spans.push(Span::since(from)),
            _ => {}
        };
        let record = self.server(server);
        note(record.barred.entry(pool).or_default(), change.to, change.from);
        note(record.aside.entry(pool).or_default(), change.from, change.to);
    }

    /// Forgets what nothing can be told of any more.
    pub fn forget(&mut self, now: Instant) {
        for server in self.servers.values_mut() {
            server.failures.retain(|failure| failure.span.is_remembered(now) || failure.over.is_none());
            server.removed.retain(|span| span.is_remembered(now));
            server.cuts.retain(|span| span.is_remembered(now));
            let orders = server.barred.values_mut().chain(server.aside.values_mut());
            orders.for_each(|spans| spans.retain(|span| span.is_remembered(now)));
        }
    }

    /// Judges what has become of a flow.
    pub fn judge(&mut self, told: &Told) {
        let Told { door, source, during, what } = told;
        match what {
            What::Began { server, retries } => {
                self.began(*door, *during, server, *retries);
                if let Some(source) = source.filter(|_| door.terms.persists) {
                    self.goes_on(*door, source, *during, server);
                }
            }
            What::Failed { error } => {
                if self.some_is_unknown(*during) {
                    self.totals.excused += 1;
                } else {
                    self.totals.failed += 1;
                    self.is_wrong(told, &format!("failed: {error}"));
                }
            }
            What::Broke { server, error } => {
                if self.is_unwell(server, *during, *door) {
                    self.totals.excused += 1;
                } else {
                    self.totals.broken += 1;
                    self.is_wrong(told, &format!("of {server} broke: {error}"));
                }
            }
            What::Moved { from, to } => {
                // A connection is the business of one server, whatever becomes of it.
                if door.service.protocol() == "udp" && self.is_unwell(from, *during, *door) {
                    self.totals.excused += 1;
                } else {
                    self.totals.moved += 1;
                    self.is_wrong(told, &format!("moved from {from} to {to}"));
                }
            }
        }
    }

    /// New flows of a server as the data plane has counted them, between two moments.
    pub fn count(&mut self, door: Door, server: &str, flows: u64, during: During) {
        let before = self.counted.insert((door, server.to_owned()), (during.from, flows));
        let Some((asked, before)) = before.filter(|(_, before)| *before < flows) else { return };
        let during = During { from: asked, to: during.to };
        let record = self.server(server);
        let new = flows - before;
        let barred = record.barred.get(door.terms.pool).into_iter().flatten();
        if barred.into_iter().any(|span| span.covers(during)) {
            self.totals.to_barred += new;
            self.wrong.push(format!(
                "{} {}: {new} new flows were sent to {server}, which was to get none",
                door.service.name(),
                door.target
            ));
        } else if record
            .failures
            .iter()
            .filter_map(|failure| failure.found_out())
            .any(|span| span.covers(during))
        {
            self.totals.to_failed += new;
            self.wrong.push(format!(
                "{} {}: {new} new flows were sent to {server}, which was known to have failed",
                door.service.name(),
                door.target
            ));
        }
    }

    /// Packets that found no server, as the data plane has counted them between two moments.
    pub fn count_unserved(&mut self, packets: u64, during: During) {
        let (asked, before) = self.unserved.replace((during.from, packets)).unwrap_or((during.from, 0));
        let during = During { from: asked, to: during.to };
        if before < packets && !self.some_is_unknown(during) && !self.some_is_being_found_out(during) {
            self.totals.unserved += packets - before;
            self.wrong.push(format!("{} packets found no server", packets - before));
        }
    }

    /// What has been counted.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// What was wrong, in words.
    pub fn wrong(&self) -> &[String] {
        &self.wrong
    }

    fn began(&mut self, door: Door, during: During, server: &str, retries: u32) {
        self.totals.began += 1;
        let undisturbed = !self.some_is_unknown(during);
        self.totals.began_undisturbed += u64::from(undisturbed);
        let sent = during.prompt();
        if retries > 0 && !self.some_is_unknown(sent) && !self.some_is_being_found_out(sent) {
            self.totals.failed += 1;
            self.wrong.push(format!(
                "{} {}: {retries} datagrams to {server} were sent again",
                door.service.name(),
                door.target
            ));
        }
        if self.is_other_side(server, door, during) {
            self.totals.to_other_side += 1;
            self.wrong.push(format!(
                "{} {}: a new flow was answered by {server}, whose side did not have the traffic",
                door.service.name(),
                door.target
            ));
        }
        let barred = self.server(server).barred.get(door.terms.pool).into_iter().flatten();
        if barred.into_iter().any(|span| span.covers(during)) {
            self.totals.to_barred += 1;
            self.wrong.push(format!(
                "{} {}: a new flow was answered by {server}, which was to get none",
                door.service.name(),
                door.target
            ));
        }
    }

    /// A client address that is kept to a server has begun its next flow.
    fn goes_on(&mut self, door: Door, source: IpAddr, during: During, server: &str) {
        let Some((before, since)) = self.last.insert((door, source), (server.to_owned(), during.from)) else {
            return;
        };
        if before != server && !self.is_leaving(&before, door, During { from: since, to: during.to }) {
            self.totals.strayed += 1;
            self.wrong.push(format!(
                "{} {}: a flow of {source}, which is kept to {before}, was answered by {server}",
                door.service.name(),
                door.target
            ));
        }
    }

    fn is_wrong(&mut self, told: &Told, what: &str) {
        let Told { door, during, .. } = told;
        let took = during.to.saturating_duration_since(during.from);
        self.wrong.push(format!(
            "{} {}: a flow {what} ({took:?} after it was well)",
            door.service.name(),
            door.target
        ));
    }

    /// Whether new flows may have met a server that had failed, or was being removed.
    fn some_is_unknown(&self, during: During) -> bool {
        self.servers.values().any(|server| {
            server.failures.iter().any(|failure| failure.unknown().meets(during))
                || server.cuts.iter().any(|span| span.meets(during))
        })
    }

    /// Whether packets may have met a table that a server was being taken out of.
    fn some_is_being_found_out(&self, during: During) -> bool {
        let mut failures = self.servers.values().flat_map(|server| &server.failures);
        failures.any(|failure| failure.is_being_found_out().meets(during))
    }

    /// Whether a server's flows may end.
    fn is_unwell(&self, server: &str, during: During, door: Door) -> bool {
        let Some(record) = self.servers.get(server) else { return false };
        // Connections wait for their server; datagrams go to another one until it is known to be well again.
        let more = if door.service.protocol() == "udp" { self.bounds.recovery } else { Duration::ZERO };
        let failed = |failure: &Failure| {
            Span { to: failure.span.to.map(|to| to + more), ..failure.span }.meets(during)
        };
        let is_over = match door.terms.drain {
            Some(drain) => self.has_drained(server, door, during, drain),
            None => record.removed.iter().any(|span| span.meets(during)),
        };
        record.failures.iter().any(failed) || is_over
    }

    fn failures(&mut self) -> impl Iterator<Item = &mut Failure> {
        self.servers.values_mut().flat_map(|server| &mut server.failures)
    }

    fn open_failures(&mut self) -> impl Iterator<Item = &mut Failure> {
        self.failures().filter(|failure| failure.span.to.is_none())
    }

    fn server(&mut self, name: &str) -> &mut Server {
        self.servers.entry(name.to_owned()).or_default()
    }
}

#[cfg(test)]
mod tests;
