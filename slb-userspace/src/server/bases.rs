//! The configuration that a change begins from.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

use super::Snapshot;
use slb_config::Config;

/// Longest time in which a change is made again because others come first. The change itself may wait for the first
/// result of a check, for 301 s; callers are cut off after 330 s.
const PATIENCE: Duration = Duration::from_secs(25);
/// Pause before another attempt, in which the event loop publishes what came first.
const PAUSE: Duration = Duration::from_millis(20);

/// The active configuration, for one attempt after the other.
pub struct Bases {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    ends: Instant,
    is_first: bool,
}

impl Bases {
    /// Attempts from now on.
    pub fn new(snapshots: watch::Receiver<Arc<Snapshot>>) -> Self {
        Self { snapshots, ends: Instant::now() + PATIENCE, is_first: true }
    }

    /// Waits for something as long as attempts may be made; `None` if that takes too long.
    pub async fn patient<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.ends, wait).await.ok()
    }

    /// The configuration for the next attempt: at once for the first one, and for others once no change waits for its
    /// servers. `None` if that takes too long.
    pub async fn next(&mut self) -> Option<Arc<Config>> {
        if !std::mem::take(&mut self.is_first) {
            sleep(PAUSE).await;
            let settled = self.snapshots.wait_for(|snapshot| snapshot.running.pending.is_none());
            timeout_at(self.ends, settled).await.ok()?.ok()?;
        }
        (Instant::now() < self.ends).then(|| self.snapshots.borrow().running.config.clone())
    }
}
