//! The clients: HTTP exchanges, each over a connection of its own, one after the other.

use std::{
    fmt,
    net::SocketAddr,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{World, client::Client, net::Family, server::Service};

/// Clients at a time.
const CLIENTS: usize = 4;
/// Time from one exchange of a client to its next, so that processor time is left for the flood.
const PERIOD: Duration = Duration::from_millis(8);
/// An exchange that takes longer waited for a retransmission: the first follows after one second (RFC 6298).
const RETRANSMITTED: Duration = Duration::from_millis(900);

/// The clients of a measurement.
pub(super) struct Clients {
    client: Client,
    target: SocketAddr,
}

/// What clients noticed. Times are in seconds.
#[derive(Debug, Serialize)]
pub struct ClientFigures {
    /// Time of the measurement.
    pub seconds: f64,
    /// Exchanges that succeeded.
    pub exchanges: u64,
    /// Exchanges that failed.
    pub failed: u64,
    /// Exchanges that waited for a retransmission.
    pub retransmitted: u64,
    /// Median time of an exchange.
    pub median: f64,
    /// Time that 99 of 100 exchanges did not exceed.
    pub p99: f64,
    /// Longest time.
    pub longest: f64,
}

impl Clients {
    /// Clients of the IPv4 VIP.
    pub(super) fn of(world: &World) -> Self {
        Self { client: world.client(), target: world.vip(Family::V4, Service::Http) }
    }

    /// Makes exchanges for this time.
    pub(super) fn figures_of(&self, time: Duration) -> ClientFigures {
        let begun = Instant::now();
        let (report, results) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                let report = report.clone();
                scope.spawn(move || {
                    let mut due = Duration::ZERO;
                    while begun.elapsed() < time {
                        thread::sleep(due.saturating_sub(begun.elapsed()));
                        due = begun.elapsed() + PERIOD;
                        let started = Instant::now();
                        let answered = self.client.exchange(Service::Http, self.target).is_ok();
                        // The receiver outlives the scope.
                        let _ = report.send((answered, started.elapsed()));
                    }
                });
            }
        });
        drop(report);
        ClientFigures::of(begun.elapsed(), results.into_iter().collect())
    }
}

impl ClientFigures {
    /// Summary of results: whether each exchange succeeded, and its time.
    fn of(time: Duration, results: Vec<(bool, Duration)>) -> Self {
        let failed = results.iter().filter(|(answered, _)| !answered).count() as u64;
        let mut times: Vec<_> =
            results.into_iter().filter_map(|(answered, time)| answered.then_some(time)).collect();
        times.sort_unstable();
        let at = |share: f64| {
            let index = (times.len() as f64 * share) as usize;
            times.get(index.min(times.len().saturating_sub(1))).map_or(0.0, Duration::as_secs_f64)
        };
        Self {
            seconds: time.as_secs_f64(),
            exchanges: times.len() as u64,
            failed,
            retransmitted: times.iter().filter(|time| **time > RETRANSMITTED).count() as u64,
            median: at(0.5),
            p99: at(0.99),
            longest: at(1.0),
        }
    }
}

impl fmt::Display for ClientFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seconds, exchanges, failed, retransmitted, median, p99, longest } = self;
        write!(
            f,
            "{:.0} exchanges/s, {failed} of {} failed, {retransmitted} retransmitted, median {:.1} ms, p99 {:.1} ms, \
             longest {:.1} ms",
            *exchanges as f64 / seconds,
            exchanges + failed,
            median * 1e3,
            p99 * 1e3,
            longest * 1e3
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::ClientFigures;

    #[test]
    fn figures_count_failures_and_retransmissions() {
        let millis = |number| Duration::from_millis(number);
        let mut results: Vec<_> = (1..=98).map(|n| (true, millis(n))).collect();
        results.extend([(true, millis(1000)), (false, millis(5000))]);
        let figures = ClientFigures::of(millis(2000), results);
        assert_eq!((figures.exchanges, figures.failed, figures.retransmitted), (99, 1, 1));
        assert_eq!((figures.median, figures.p99, figures.longest), (0.05, 1.0, 1.0));
        assert_eq!(ClientFigures::of(millis(1), Vec::new()).longest, 0.0);
    }
}
