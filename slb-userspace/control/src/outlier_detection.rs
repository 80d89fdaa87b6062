//! Passive health checks: an outlier detector that ejects servers for the outcomes of clients' new connections. Pure.
//!
//! A check may pass where traffic fails: it uses another port, or asks for less. Mode `nat` sees both directions, so a
//! connection that a server resets at once, or does not answer, is a signal.
//!
//! Rules:
//! - A server is ejected when the configured number of new connections has failed within the configured time and none
//!   has succeeded. Any answer except a reset is a success. A flood of forged SYNs therefore ejects no server.
//! - At most half of the servers of a pool are ejected at once, and none unless another one can serve. Failures
//!   everywhere are not the servers' fault, and a doubtful server is better than none.
//! - A server of several pools with the same ejection policy is judged by its connections in all of them. It is ejected
//!   from all of them, or from none if one pool cannot spare it.
//! - It returns when its ejection time has passed and its health check passes. The ejection time is at least what the
//!   check takes to pass.
//! - The ejection time doubles with each ejection, up to [`LONGEST`]. Otherwise a server whose check passes and whose
//!   traffic fails would repeatedly take its share of connections.
//! - The ejection time is reset once the server has gone without failures for as long as it was ejected.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    time::Duration,
};

use slb_config::model::HealthCheck;

/// Seconds without an answer after which a connection has failed. Its client has sent at least two SYNs by then.
pub const SILENCE: u32 = 3;
/// Longest ejection time, unless the check alone takes longer.
pub const LONGEST: Duration = Duration::from_secs(300);

/// Ejection policy: when a server is ejected, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EjectionPolicy {
    /// Minimum number of failed connections while none succeeds.
    pub failures: u32,
    /// Time window in which they are opened.
    pub within: Duration,
    /// Duration of the first ejection.
    pub first: Duration,
}

impl EjectionPolicy {
    /// The policy of a health check; `None` without passive checks.
    pub fn of(check: &HealthCheck) -> Option<Self> {
        let passive = check.passive?;
        // By then no earlier connection counts any more, and the check has had time to decide.
        let first = passive.within.max(check.interval * u32::from(check.healthy_threshold));
        Some(Self { failures: passive.failures, within: passive.within, first })
    }
}

/// Outcomes of new connections to a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Signals {
    /// Connections that the server has answered.
    pub answered: u32,
    /// Connections that the server has reset at once.
    pub refused: u32,
    /// Connections that the server has not answered for [`SILENCE`].
    pub silent: u32,
}

impl Signals {
    fn failed(self) -> u32 {
        self.refused + self.silent
    }

    fn and(self, other: Self) -> Self {
        Self {
            answered: self.answered + other.answered,
            refused: self.refused + other.refused,
            silent: self.silent + other.silent,
        }
    }
}

impl fmt::Display for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (failed, all) = (self.failed(), self.failed() + self.answered);
        write!(f, "passive: {failed} of {all} new connections ")?;
        match (self.refused, self.silent) {
            (_, 0) => f.write_str("refused"),
            (0, _) => write!(f, "unanswered in {SILENCE} s"),
            (refused, silent) => write!(f, "failed: {refused} refused, {silent} unanswered in {SILENCE} s"),
        }
    }
}

/// The servers that share the traffic of some listeners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Their ejection policy.
    pub terms: EjectionPolicy,
    /// Servers by endpoint.
    pub servers: BTreeMap<SocketAddr, Watched>,
}

impl Pool {
    /// Servers whose outcomes count.
    fn judged(&self) -> impl Iterator<Item = SocketAddr> {
        self.servers.iter().filter(|(_, server)| server.is_judged).map(|(address, _)| *address)
    }
}

/// State of a server in a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Watched {
    /// Whether its outcomes count. They do not count without a health check. A server that this pool does not use can
    /// be ejected elsewhere, because this pool does not need it.
    pub is_judged: bool,
    /// Whether it takes new connections, or would if its side had the traffic.
    pub can_serve: bool,
    /// Outcomes of its new connections.
    pub signals: Signals,
}

/// An ejection, or the end of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The server's endpoint.
    pub server: SocketAddr,
    /// The ejection policy.
    pub terms: EjectionPolicy,
    /// Duration of the ejection; `None` if it has ended.
    pub held: Option<Duration>,
}

/// The outlier detector: ejected servers, and those whose ejection ended recently.
#[derive(Debug, Default)]
pub struct OutlierDetector(BTreeMap<(SocketAddr, EjectionPolicy), Record>);

#[derive(Debug)]
struct Record {
    /// Why it is ejected; `None` if the ejection has ended.
    reason: Option<String>,
    /// Duration of the current or last ejection.
    held: Duration,
    /// When the ejection ends or ended.
    until: Duration,
}

impl OutlierDetector {
    /// Judges outcomes of connections up to `now`, which must not decrease. Returns ejections and their ends.
    pub fn judge(&mut self, pools: &[Pool], now: Duration) -> Vec<Change> {
        let mut changes = Vec::new();
        pools.iter().for_each(|pool| self.release(pool, now, &mut changes));
        self.hold(pools, now, &mut changes);
        let goes = |pool: &Pool, server: &SocketAddr| {
            pool.servers.get(server).is_some_and(|server| server.is_judged && server.can_serve)
        };
        self.0.retain(|(server, terms), record| {
            if record.reason.is_none() && !pools.iter().any(|pool| pool.terms == *terms && goes(pool, server))
            {
                // Without connections a server proves nothing: the time does not count.
                record.until = now;
            }
            // After long enough without failures, the next ejection is as short as the first.
            record.reason.is_some() || now <= record.until + record.held
        });
        changes
    }

    /// Why a server is ejected; `None` if it is not.
    pub fn reason(&self, server: SocketAddr, terms: EjectionPolicy) -> Option<&str> {
        self.0.get(&(server, terms))?.reason.as_deref()
    }

    /// Drops all other servers.
    pub fn retain(&mut self, known: &BTreeSet<(SocketAddr, EjectionPolicy)>) {
        self.0.retain(|key, _| known.contains(key));
    }

    fn release(&mut self, pool: &Pool, now: Duration, changes: &mut Vec<Change>) {
        let is_empty = !pool.servers.values().any(|server| server.can_serve);
        for (server, watched) in &pool.servers {
            if let Some(record) = self.0.get_mut(&(*server, pool.terms))
                && record.reason.is_some()
                && (is_empty && watched.is_judged || record.until <= now)
            {
                record.reason = None;
                record.until = now;
                changes.push(Change { server: *server, terms: pool.terms, held: None });
            }
        }
    }

    /// Ejects failing servers from all pools with their policy.
    fn hold(&mut self, pools: &[Pool], now: Duration, changes: &mut Vec<Change>) {
        let mut of: BTreeMap<(SocketAddr, EjectionPolicy), Vec<&Pool>> = BTreeMap::new();
        for pool in pools {
            pool.judged().for_each(|server| of.entry((server, pool.terms)).or_default().push(pool));
        }
        for (key, pools) in of {
            let (server, terms) = key;
            let watched = || pools.iter().map(|pool| pool.servers[&server]);
            let signals = watched().fold(Signals::default(), |sum, of| sum.and(of.signals));
            let fails = signals.answered == 0 && signals.failed() >= terms.failures;
            if !fails || !watched().any(|of| of.can_serve) || self.reason(server, terms).is_some() {
                continue;
            }
            if !pools.iter().all(|pool| self.can_spare(pool, server)) {
                continue;
            }
            let longest = LONGEST.max(terms.first);
            let held = self.0.get(&key).map_or(terms.first, |record| (record.held * 2).min(longest));
            self.0.insert(key, Record { reason: Some(signals.to_string()), held, until: now + held });
            changes.push(Change { server, terms, held: Some(held) });
        }
    }

    /// Whether a pool has another server that can serve, and would have at most half of its servers ejected.
    fn can_spare(&self, pool: &Pool, server: SocketAddr) -> bool {
        let is_held =
            |address: SocketAddr, of: &Watched| of.is_judged && self.reason(address, pool.terms).is_some();
        let (held, free): (Vec<_>, Vec<_>) =
            pool.servers.iter().partition(|(address, of)| is_held(**address, of));
        let mut others = free.into_iter().filter(|(address, _)| **address != server);
        others.any(|(_, other)| other.can_serve) && (held.len() + 1) * 2 <= pool.servers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: EjectionPolicy =
        EjectionPolicy { failures: 5, within: Duration::from_secs(10), first: Duration::from_secs(10) };

    fn server(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 80))
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn silent(silent: u32) -> Signals {
        Signals { silent, ..Signals::default() }
    }

    /// Servers 1, 2, ... with these signals. All can serve unless they are ejected.
    fn pool(outlier_detector: &OutlierDetector, signals: &[Signals]) -> Pool {
        let servers = (1..).zip(signals).map(|(n, signals)| {
            let can_serve = outlier_detector.reason(server(n), TERMS).is_none();
            (server(n), Watched { is_judged: true, can_serve, signals: *signals })
        });
        Pool { terms: TERMS, servers: servers.collect() }
    }

    /// Judges, and returns the servers that are ejected afterwards.
    fn judge(outlier_detector: &mut OutlierDetector, signals: &[Signals], seconds: u64) -> Vec<u8> {
        let pool = pool(outlier_detector, signals);
        outlier_detector.judge(&[pool], at(seconds));
        (1..=signals.len() as u8).filter(|n| outlier_detector.reason(server(*n), TERMS).is_some()).collect()
    }

    #[test]
    fn so_many_must_fail_and_none_succeed() {
        let well = Signals { answered: 1, ..Signals::default() };
        for (signals, held) in [
            (silent(4), false),
            (silent(5), true),
            (Signals { refused: 5, ..Signals::default() }, true),
            (Signals { refused: 2, ..silent(3) }, true),
            (Signals { answered: 1, ..silent(1_000) }, false),
        ] {
            let expected: &[u8] = if held { &[1] } else { &[] };
            assert_eq!(judge(&mut OutlierDetector::default(), &[signals, well], 0), expected, "{signals}");
        }
    }

    #[test]
    fn the_reason_says_how_they_failed() {
        assert_eq!(silent(5).to_string(), "passive: 5 of 5 new connections unanswered in 3 s");
        let refused = Signals { refused: 6, ..Signals::default() };
        assert_eq!(refused.to_string(), "passive: 6 of 6 new connections refused");
        let both = Signals { refused: 2, ..silent(4) };
        let text = "passive: 6 of 6 new connections failed: 2 refused, 4 unanswered in 3 s";
        assert_eq!(both.to_string(), text);
        let mut outlier_detector = OutlierDetector::default();
        judge(&mut outlier_detector, &[both, silent(0)], 0);
        assert_eq!(outlier_detector.reason(server(1), TERMS), Some(text));
        assert_eq!(
            outlier_detector.reason(server(1), EjectionPolicy { failures: 6, ..TERMS }),
            None,
            "on other terms"
        );
    }

    #[test]
    fn half_of_the_servers_stay_and_the_last_one_too() {
        let dead = silent(9);
        let judge = |signals: &[Signals]| judge(&mut OutlierDetector::default(), signals, 0);
        assert_eq!(judge(&[dead]), [0; 0]);
        assert_eq!(judge(&[dead, dead]), [1]);
        assert_eq!(judge(&[dead, dead, dead]), [1]);
        assert_eq!(judge(&[dead, dead, dead, dead]), [1, 2]);
        // The other one is out of service for another reason.
        let mut outlier_detector = OutlierDetector::default();
        let mut pool = pool(&outlier_detector, &[dead, silent(0)]);
        pool.servers.insert(server(2), Watched::default());
        assert_eq!(outlier_detector.judge(&[pool], at(0)), []);
    }

    #[test]
    fn ejected_server_serves_when_no_other_can() {
        let mut outlier_detector = OutlierDetector::default();
        assert_eq!(judge(&mut outlier_detector, &[silent(5), silent(0)], 0), [1]);
        let cannot = Watched { is_judged: true, ..Watched::default() };
        let nobody = [(server(1), cannot), (server(2), cannot)];
        let nobody = Pool { terms: TERMS, servers: nobody.into() };
        let back = Change { server: server(1), terms: TERMS, held: None };
        assert_eq!(outlier_detector.judge(&[nobody], at(1)), [back]);
    }

    #[test]
    fn its_time_ends_although_it_is_set_aside_meanwhile() {
        let mut outlier_detector = OutlierDetector::default();
        assert_eq!(judge(&mut outlier_detector, &[silent(5), silent(0)], 0), [1]);
        let other = Watched { is_judged: true, can_serve: true, signals: silent(0) };
        let pool =
            Pool { terms: TERMS, servers: [(server(1), Watched::default()), (server(2), other)].into() };
        assert_eq!(outlier_detector.judge(std::slice::from_ref(&pool), at(9)), []);
        let back = Change { server: server(1), terms: TERMS, held: None };
        assert_eq!(outlier_detector.judge(&[pool], at(10)), [back]);
    }

    #[test]
    fn who_is_set_aside_where_nobody_can_serve_is_held_to_the_end() {
        let mut outlier_detector = OutlierDetector::default();
        assert_eq!(judge(&mut outlier_detector, &[silent(5), silent(0)], 0), [1]);
        let aside = Watched { can_serve: true, ..Watched::default() };
        let pool = |of: Watched| Pool { terms: TERMS, servers: [(server(1), of)].into() };
        assert_eq!(outlier_detector.judge(&[pool(Watched { can_serve: false, ..aside })], at(1)), []);
        let judged = Watched { is_judged: true, can_serve: false, signals: silent(0) };
        assert_eq!(outlier_detector.judge(&[pool(judged)], at(2)).len(), 1, "nobody else can serve");
    }

    #[test]
    fn time_without_connections_is_no_time_of_going_well() {
        let mut outlier_detector = OutlierDetector::default();
        assert_eq!(judge(&mut outlier_detector, &[silent(5), silent(0)], 0), [1]);
        assert!(judge(&mut outlier_detector, &[silent(0), silent(0)], 10).is_empty());
        let other = Watched { is_judged: true, can_serve: true, signals: silent(0) };
        let aside = Watched::default();
        let fails_its_check = Watched { is_judged: true, ..aside };
        for (of, seconds) in [(aside, 100), (fails_its_check, 200)] {
            let servers = [(server(1), of), (server(2), other)].into();
            assert_eq!(outlier_detector.judge(&[Pool { terms: TERMS, servers }], at(seconds)), []);
        }
        assert_eq!(judge(&mut outlier_detector, &[silent(5), silent(0)], 201), [1]);
        assert_eq!(judge(&mut outlier_detector, &[silent(0), silent(0)], 211), [1], "for twice as long");
        assert!(judge(&mut outlier_detector, &[silent(0), silent(0)], 221).is_empty());
    }

    #[test]
    fn a_server_is_held_out_of_all_its_pools_or_none() {
        let well = Watched { is_judged: true, can_serve: true, signals: Signals::default() };
        let dead = Watched { signals: silent(9), ..well };
        let two = Pool { terms: TERMS, servers: [(server(1), dead), (server(2), well)].into() };
        let alone = Pool { terms: TERMS, servers: [(server(1), well)].into() };
        let held = Change { server: server(1), terms: TERMS, held: Some(TERMS.first) };
        // The other pool shows answers of the server, so the server is not at fault.
        let busy = Watched { signals: Signals { answered: 1, ..Signals::default() }, ..well };
        let answers = Pool { terms: TERMS, servers: [(server(1), busy), (server(2), well)].into() };
        for (other, expected) in [
            (alone.clone(), vec![]),
            (answers, vec![]),
            // Under another policy it is ejected from this pool only.
            (Pool { terms: EjectionPolicy { failures: 6, ..TERMS }, ..alone.clone() }, vec![held.clone()]),
            // Its outcomes do not count there.
            (
                Pool { servers: [(server(1), Watched { is_judged: false, ..well })].into(), ..alone.clone() },
                vec![held.clone()],
            ),
            (two.clone(), vec![held]),
        ] {
            for pools in [[two.clone(), other.clone()], [other.clone(), two.clone()]] {
                assert_eq!(OutlierDetector::default().judge(&pools, at(0)), expected, "{other:?}");
            }
        }
    }

    #[test]
    fn who_is_not_checked_is_not_held_out() {
        let judged = Watched { is_judged: true, can_serve: true, signals: silent(0) };
        let secondary = Watched { is_judged: false, signals: silent(9), ..judged };
        let pool = Pool { terms: TERMS, servers: [(server(1), judged), (server(2), secondary)].into() };
        assert_eq!(OutlierDetector::default().judge(&[pool], at(0)), []);
    }

    #[test]
    fn it_is_held_out_for_longer_each_time_unless_it_went_well_meanwhile() {
        let mut outlier_detector = OutlierDetector::default();
        let (dead, well) = ([silent(5), silent(0)], [silent(0); 2]);
        let mut now = 0;
        for held in [10, 20, 40, 80, 160, 300, 300] {
            assert_eq!(judge(&mut outlier_detector, &dead, now), [1], "{held}");
            assert_eq!(judge(&mut outlier_detector, &well, now + held - 1), [1], "{held}");
            now += held;
            assert_eq!(judge(&mut outlier_detector, &well, now), [0; 0], "{held}");
            // It fails again before it has been well for longer than it was ejected.
            now += held;
        }
        assert_eq!(judge(&mut outlier_detector, &well, now + 1), [0; 0]);
        now += 2;
        assert_eq!(judge(&mut outlier_detector, &dead, now), [1]);
        assert_eq!(judge(&mut outlier_detector, &well, now + 10), [0; 0], "as the first time");
    }

    #[test]
    fn a_server_that_goes_is_forgotten() {
        let mut outlier_detector = OutlierDetector::default();
        assert_eq!(judge(&mut outlier_detector, &[silent(5), silent(0)], 0), [1]);
        outlier_detector.retain(&[(server(1), TERMS)].into());
        assert!(outlier_detector.reason(server(1), TERMS).is_some());
        outlier_detector.retain(&BTreeSet::new());
        assert!(outlier_detector.reason(server(1), TERMS).is_none());
    }
}
