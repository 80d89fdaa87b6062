//! The figures of the demo, as `--json` writes them.

use serde::Serialize;

/// All figures of a run.
#[derive(Debug, Default, Serialize)]
pub(super) struct Figures {
    pub(super) passed: bool,
    /// Expectations that were not met.
    pub(super) failures: Vec<String>,
    pub(super) seconds: f64,
    pub(super) spread: Vec<TrafficSpread>,
    pub(super) killed_server: Option<KilledServer>,
    pub(super) weight_zero: Option<WeightZero>,
    pub(super) sigkill: Option<Sigkill>,
}

/// How the exchanges of one kind spread over the servers.
#[derive(Debug, Serialize)]
pub(super) struct TrafficSpread {
    /// Kind of the exchanges, such as `http IPv4`.
    pub(super) traffic: String,
    pub(super) exchanges: u64,
    pub(super) failed: usize,
    /// Number of retransmitted datagrams.
    pub(super) retries: u64,
    pub(super) servers: Vec<ServerShare>,
    pub(super) largest_deviation_points: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct ServerShare {
    pub(super) server: String,
    pub(super) weight: u8,
    pub(super) expected_percent: f64,
    pub(super) observed_percent: f64,
    pub(super) exchanges: u64,
}

/// A server failed and recovered.
#[derive(Debug, Serialize)]
pub(super) struct KilledServer {
    pub(super) server: String,
    pub(super) detection_seconds: f64,
    pub(super) detection_goal_seconds: f64,
    pub(super) detection_limit_seconds: f64,
    pub(super) failed_before_detection: usize,
    pub(super) exchanges_after_detection: u64,
    pub(super) failed_after_detection: usize,
    pub(super) long_lived_with_others: usize,
    pub(super) long_lived_with_others_broken: usize,
    pub(super) recovery_seconds: f64,
    pub(super) share_after_recovery_percent: f64,
}

/// A server had weight 0 for a time.
#[derive(Debug, Serialize)]
pub(super) struct WeightZero {
    pub(super) server: String,
    pub(super) long_lived_before: usize,
    pub(super) long_lived_after: usize,
    pub(super) new_exchanges: u64,
    pub(super) new_exchanges_with_it: u64,
    pub(super) failed: usize,
}

/// The daemon was killed under traffic.
#[derive(Debug, Serialize)]
pub(super) struct Sigkill {
    pub(super) rounds: u32,
    pub(super) exchanges: u64,
    pub(super) exchanges_while_down: u64,
    pub(super) failed: usize,
    pub(super) udp_datagrams_sent_again: u64,
    pub(super) long_lived: usize,
    pub(super) long_lived_broken: usize,
}
