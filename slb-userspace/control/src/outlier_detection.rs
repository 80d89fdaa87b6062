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
//! - The ejection time doubles with each ejection, up to [`MAX_EJECTION`]. Otherwise a server whose check passes and
//!   whose traffic fails would repeatedly take its share of connections.
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
pub const MAX_EJECTION: Duration = Duration::from_secs(300);

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
pub struct PassiveSignals {
    /// Connections that the server has answered.
    pub answered: u32,
    /// Connections that the server has reset at once.
    pub refused: u32,
    /// Connections that the server has not answered for [`SILENCE`].
    pub silent: u32,
}

impl PassiveSignals {
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

impl fmt::Display for PassiveSignals {
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
pub struct DetectorPool {
    /// Their ejection policy.
    pub policy: EjectionPolicy,
    /// Servers by endpoint.
    pub servers: BTreeMap<SocketAddr, DetectorServer>,
}

impl DetectorPool {
    /// Servers whose outcomes count.
    fn counted_servers(&self) -> impl Iterator<Item = SocketAddr> {
        self.servers.iter().filter(|(_, server)| server.is_counted).map(|(address, _)| *address)
    }
}

/// State of a server in a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DetectorServer {
    /// Whether its outcomes count. They do not count without a health check. A server that this pool does not use can
    /// be ejected elsewhere, because this pool does not need it.
    pub is_counted: bool,
    /// Whether it takes new connections, or would if its side had the traffic.
    pub can_serve: bool,
    /// Outcomes of its new connections.
    pub signals: PassiveSignals,
}

/// An ejection, or the end of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EjectionChange {
    /// The server's endpoint.
    pub server: SocketAddr,
    /// The ejection policy.
    pub policy: EjectionPolicy,
    /// Duration of the ejection; `None` if it has ended.
    pub duration: Option<Duration>,
}

/// The outlier detector: ejected servers, and those whose ejection ended recently.
#[derive(Debug, Default)]
pub struct OutlierDetector(BTreeMap<(SocketAddr, EjectionPolicy), Ejection>);

#[derive(Debug)]
struct Ejection {
    /// Why it is ejected; `None` if the ejection has ended.
    reason: Option<String>,
    /// Duration of the current or last ejection.
    duration: Duration,
    /// When the ejection ends or ended.
    until: Duration,
}

impl OutlierDetector {
    /// Judges outcomes of connections up to `now`, which must not decrease. Returns ejections and their ends.
    pub fn judge(&mut self, pools: &[DetectorPool], now: Duration) -> Vec<EjectionChange> {
        let mut changes = Vec::new();
        pools.iter().for_each(|pool| self.end_ejections(pool, now, &mut changes));
        self.eject(pools, now, &mut changes);
        let goes = |pool: &DetectorPool, server: &SocketAddr| {
            pool.servers.get(server).is_some_and(|server| server.is_counted && server.can_serve)
        };
        self.0.retain(|(server, policy), record| {
            if record.reason.is_none()
                && !pools.iter().any(|pool| pool.policy == *policy && goes(pool, server))
            {
                // Without connections a server proves nothing: the time does not count.
                record.until = now;
            }
            // After long enough without failures, the next ejection is as short as the first.
            record.reason.is_some() || now <= record.until + record.duration
        });
        changes
    }

    /// Why a server is ejected; `None` if it is not.
    pub fn reason(&self, server: SocketAddr, policy: EjectionPolicy) -> Option<&str> {
        self.0.get(&(server, policy))?.reason.as_deref()
    }

    /// Drops all other servers.
    pub fn retain(&mut self, known: &BTreeSet<(SocketAddr, EjectionPolicy)>) {
        self.0.retain(|key, _| known.contains(key));
    }

    fn end_ejections(&mut self, pool: &DetectorPool, now: Duration, changes: &mut Vec<EjectionChange>) {
        let is_empty = !pool.servers.values().any(|server| server.can_serve);
        for (server, watched) in &pool.servers {
            if let Some(record) = self.0.get_mut(&(*server, pool.policy))
                && record.reason.is_some()
                && (is_empty && watched.is_counted || record.until <= now)
            {
                record.reason = None;
                record.until = now;
                changes.push(EjectionChange { server: *server, policy: pool.policy, duration: None });
            }
        }
    }

    /// Ejects failing servers from all pools with their policy.
    fn eject(&mut self, pools: &[DetectorPool], now: Duration, changes: &mut Vec<EjectionChange>) {
        let mut of: BTreeMap<(SocketAddr, EjectionPolicy), Vec<&DetectorPool>> = BTreeMap::new();
        for pool in pools {
            pool.counted_servers().for_each(|server| of.entry((server, pool.policy)).or_default().push(pool));
        }
        for (key, pools) in of {
            let (server, policy) = key;
            let watched = || pools.iter().map(|pool| pool.servers[&server]);
            let signals = watched().fold(PassiveSignals::default(), |sum, of| sum.and(of.signals));
            let fails = signals.answered == 0 && signals.failed() >= policy.failures;
            if !fails || !watched().any(|of| of.can_serve) || self.reason(server, policy).is_some() {
                continue;
            }
            if !pools.iter().all(|pool| self.can_spare(pool, server)) {
                continue;
            }
            let longest = MAX_EJECTION.max(policy.first);
            let duration = self.0.get(&key).map_or(policy.first, |record| (record.duration * 2).min(longest));
            self.0
                .insert(key, Ejection { reason: Some(signals.to_string()), duration, until: now + duration });
            changes.push(EjectionChange { server, policy, duration: Some(duration) });
        }
    }

    /// Whether a pool has another server that can serve, and would have at most half of its servers ejected.
    fn can_spare(&self, pool: &DetectorPool, server: SocketAddr) -> bool {
        let is_held = |address: SocketAddr, of: &DetectorServer| {
            of.is_counted && self.reason(address, pool.policy).is_some()
        };
        let (ejected, free): (Vec<_>, Vec<_>) =
            pool.servers.iter().partition(|(address, of)| is_held(**address, of));
        let mut others = free.into_iter().filter(|(address, _)| **address != server);
        others.any(|(_, other)| other.can_serve) && (ejected.len() + 1) * 2 <= pool.servers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: EjectionPolicy =
        EjectionPolicy { failures: 5, within: Duration::from_secs(10), first: Duration::from_secs(10) };

    fn server(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 80))
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn silent(silent: u32) -> PassiveSignals {
        PassiveSignals { silent, ..PassiveSignals::default() }
    }

    /// Servers 1, 2, ... with these signals. All can serve unless they are ejected.
    fn pool(outlier_detector: &OutlierDetector, signals: &[PassiveSignals]) -> DetectorPool {
        let servers = (1..).zip(signals).map(|(n, signals)| {
            let can_serve = outlier_detector.reason(server(n), POLICY).is_none();
            (server(n), DetectorServer { is_counted: true, can_serve, signals: *signals })
        });
        DetectorPool { policy: POLICY, servers: servers.collect() }
    }

    /// Judges, and returns the servers that are ejected afterwards.
    fn judge(outlier_detector: &mut OutlierDetector, signals: &[PassiveSignals], seconds: u64) -> Vec<u8> {
        let pool = pool(outlier_detector, signals);
        outlier_detector.judge(&[pool], at(seconds));
        (1..=signals.len() as u8).filter(|n| outlier_detector.reason(server(*n), POLICY).is_some()).collect()
    }

    #[test]
    fn server_is_ejected_after_enough_failures_without_success() {
        let well = PassiveSignals { answered: 1, ..PassiveSignals::default() };
        for (signals, is_ejected) in [
            (silent(4), false),
            (silent(5), true),
            (PassiveSignals { refused: 5, ..PassiveSignals::default() }, true),
            (PassiveSignals { refused: 2, ..silent(3) }, true),
            (PassiveSignals { answered: 1, ..silent(1_000) }, false),
        ] {
            let expected: &[u8] = if is_ejected { &[1] } else { &[] };
            assert_eq!(judge(&mut OutlierDetector::default(), &[signals, well], 0), expected, "{signals}");
        }
    }

    #[test]
    fn ejection_reason_says_how_connections_failed() {
        assert_eq!(silent(5).to_string(), "passive: 5 of 5 new connections unanswered in 3 s");
        let refused = PassiveSignals { refused: 6, ..PassiveSignals::default() };
        assert_eq!(refused.to_string(), "passive: 6 of 6 new connections refused");
        let both = PassiveSignals { refused: 2, ..silent(4) };
        let text = "passive: 6 of 6 new connections failed: 2 refused, 4 unanswered in 3 s";
        assert_eq!(both.to_string(), text);
        let mut outlier_detector = OutlierDetector::default();
        judge(&mut outlier_detector, &[both, silent(0)], 0);
        assert_eq!(outlier_detector.reason(server(1), POLICY), Some(text));
        assert_eq!(
            outlier_detector.reason(server(1), EjectionPolicy { failures: 6, ..POLICY }),
            None,
            "with another ejection policy"
        );
    }

    #[test]
    fn ejection_spares_half_of_the_servers_and_the_last_one() {
        let dead = silent(9);
        let judge = |signals: &[PassiveSignals]| judge(&mut OutlierDetector::default(), signals, 0);
        assert_eq!(judge(&[dead]), [0; 0]);
        assert_eq!(judge(&[dead, dead]), [1]);
        assert_eq!(judge(&[dead, dead, dead]), [1]);
        assert_eq!(judge(&[dead, dead, dead, dead]), [1, 2]);
        // The other one is out of service for another reason.
        let mut outlier_detector = OutlierDetector::default();
        let mut pool = pool(&outlier_detector, &[dead, silent(0)]);
        pool.servers.insert(server(2), DetectorServer::default());
        assert_eq!(outlier_detector.judge(&[pool], at(0)), []);
    }

    #[test]
    fn ejected_server_serves_when_no_other_can() {
        let mut outlier_detector = OutlierDetector::default();
        assert_eq!(judge(&mut outlier_detector, &[silent(5), silent(0)], 0), [1]);
        let cannot = DetectorServer { is_counted: true, ..DetectorServer::default() };
        let no_server = [(server(1), cannot), (server(2), cannot)];
        let no_server = DetectorPool { policy: POLICY, servers: no_server.into() };
        let back = EjectionChange { server: server(1), policy: POLICY, duration: None };
        assert_eq!(outlier_detector.judge(&[no_server], at(1)), [back]);
    }

    #[test]
    fn ejection_time_ends_while_the_server_is_out_of_service() {
        let mut outlier_detector = OutlierDetector::default();
        assert_eq!(judge(&mut outlier_detector, &[silent(5), silent(0)], 0), [1]);
        let other = DetectorServer { is_counted: true, can_serve: true, signals: silent(0) };
        let pool = DetectorPool {
            policy: POLICY,
            servers: [(server(1), DetectorServer::default()), (server(2), other)].into(),
        };
        assert_eq!(outlier_detector.judge(std::slice::from_ref(&pool), at(9)), []);
        let back = EjectionChange { server: server(1), policy: POLICY, duration: None };
        assert_eq!(outlier_detector.judge(&[pool], at(10)), [back]);
    }

    #[test]
    fn out_of_service_server_stays_ejected_if_no_server_can_serve() {
        let mut outlier_detector = OutlierDetector::default();
        assert_eq!(judge(&mut outlier_detector, &[silent(5), silent(0)], 0), [1]);
        let aside = DetectorServer { can_serve: true, ..DetectorServer::default() };
        let pool = |of: DetectorServer| DetectorPool { policy: POLICY, servers: [(server(1), of)].into() };
        assert_eq!(outlier_detector.judge(&[pool(DetectorServer { can_serve: false, ..aside })], at(1)), []);
        let counted_servers = DetectorServer { is_counted: true, can_serve: false, signals: silent(0) };
        assert_eq!(
            outlier_detector.judge(&[pool(counted_servers)], at(2)).len(),
            1,
            "no other server can serve"
        );
    }

    #[test]
    fn time_without_connections_does_not_shorten_the_next_ejection() {
        let mut outlier_detector = OutlierDetector::default();
        assert_eq!(judge(&mut outlier_detector, &[silent(5), silent(0)], 0), [1]);
        assert!(judge(&mut outlier_detector, &[silent(0), silent(0)], 10).is_empty());
        let other = DetectorServer { is_counted: true, can_serve: true, signals: silent(0) };
        let aside = DetectorServer::default();
        let fails_its_check = DetectorServer { is_counted: true, ..aside };
        for (of, seconds) in [(aside, 100), (fails_its_check, 200)] {
            let servers = [(server(1), of), (server(2), other)].into();
            assert_eq!(outlier_detector.judge(&[DetectorPool { policy: POLICY, servers }], at(seconds)), []);
        }
        assert_eq!(judge(&mut outlier_detector, &[silent(5), silent(0)], 201), [1]);
        assert_eq!(judge(&mut outlier_detector, &[silent(0), silent(0)], 211), [1], "for twice as long");
        assert!(judge(&mut outlier_detector, &[silent(0), silent(0)], 221).is_empty());
    }

    #[test]
    fn server_is_ejected_from_all_its_pools_or_none() {
        let well = DetectorServer { is_counted: true, can_serve: true, signals: PassiveSignals::default() };
        let dead = DetectorServer { signals: silent(9), ..well };
        let two = DetectorPool { policy: POLICY, servers: [(server(1), dead), (server(2), well)].into() };
        let alone = DetectorPool { policy: POLICY, servers: [(server(1), well)].into() };
        let duration = EjectionChange { server: server(1), policy: POLICY, duration: Some(POLICY.first) };
        // The other pool shows answers of the server, so the server is not at fault.
        let busy =
            DetectorServer { signals: PassiveSignals { answered: 1, ..PassiveSignals::default() }, ..well };
        let answers = DetectorPool { policy: POLICY, servers: [(server(1), busy), (server(2), well)].into() };
        for (other, expected) in [
            (alone.clone(), vec![]),
            (answers, vec![]),
            // Under another policy it is ejected from this pool only.
            (
                DetectorPool { policy: EjectionPolicy { failures: 6, ..POLICY }, ..alone.clone() },
                vec![duration.clone()],
            ),
            // Its outcomes do not count there.
            (
                DetectorPool {
                    servers: [(server(1), DetectorServer { is_counted: false, ..well })].into(),
                    ..alone.clone()
                },
                vec![duration.clone()],
            ),
            (two.clone(), vec![duration]),
        ] {
            for pools in [[two.clone(), other.clone()], [other.clone(), two.clone()]] {
                assert_eq!(OutlierDetector::default().judge(&pools, at(0)), expected, "{other:?}");
            }
        }
    }

    #[test]
    fn secondary_that_is_not_judged_is_not_ejected() {
        let counted_servers = DetectorServer { is_counted: true, can_serve: true, signals: silent(0) };
        let secondary = DetectorServer { is_counted: false, signals: silent(9), ..counted_servers };
        let pool = DetectorPool {
            policy: POLICY,
            servers: [(server(1), counted_servers), (server(2), secondary)].into(),
        };
        assert_eq!(OutlierDetector::default().judge(&[pool], at(0)), []);
    }

    #[test]
    fn ejection_time_grows_unless_the_server_was_healthy_meanwhile() {
        let mut outlier_detector = OutlierDetector::default();
        let (dead, well) = ([silent(5), silent(0)], [silent(0); 2]);
        let mut now = 0;
        for duration in [10, 20, 40, 80, 160, 300, 300] {
            assert_eq!(judge(&mut outlier_detector, &dead, now), [1], "{duration}");
            assert_eq!(judge(&mut outlier_detector, &well, now + duration - 1), [1], "{duration}");
            now += duration;
            assert_eq!(judge(&mut outlier_detector, &well, now), [0; 0], "{duration}");
            // It fails again before it has been well for longer than it was ejected.
            now += duration;
        }
        assert_eq!(judge(&mut outlier_detector, &well, now + 1), [0; 0]);
        now += 2;
        assert_eq!(judge(&mut outlier_detector, &dead, now), [1]);
        assert_eq!(judge(&mut outlier_detector, &well, now + 10), [0; 0], "as the first time");
    }

    #[test]
    fn removed_server_loses_its_ejection() {
        let mut outlier_detector = OutlierDetector::default();
        assert_eq!(judge(&mut outlier_detector, &[silent(5), silent(0)], 0), [1]);
        outlier_detector.retain(&[(server(1), POLICY)].into());
        assert!(outlier_detector.reason(server(1), POLICY).is_some());
        outlier_detector.retain(&BTreeSet::new());
        assert!(outlier_detector.reason(server(1), POLICY).is_none());
    }
}
