//! Tasks that follow the kernel over netlink sockets, which they reopen after failures.

use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::sleep;
use tracing::warn;

use crate::supervised;

/// Pause before netlink sockets are reopened.
const RECONNECT: Duration = Duration::from_secs(1);

/// A task that follows the kernel.
pub(super) trait Follower: Send {
    /// What it follows, for the log: plural.
    const WHAT: &'static str;
    /// Its sockets. Dropping them closes them.
    type Connections: Send;

    /// Opens the sockets.
    fn open() -> Result<Self::Connections>;

    /// Follows the kernel while [`Self::is_needed`] holds.
    ///
    /// # Errors
    /// A socket has failed.
    fn follow(&mut self, connections: Self::Connections) -> impl Future<Output = Result<()>> + Send;

    /// Whether the results still have a receiver.
    fn is_needed(&self) -> bool;
}

/// Runs a follower while it is needed. After an error or a panic it logs that and reopens the sockets.
pub(super) async fn run<F: Follower>(follower: F, connections: F::Connections) {
    run_pausing(RECONNECT, follower, connections).await;
}

async fn run_pausing<F: Follower>(pause: Duration, mut follower: F, mut connections: F::Connections) {
    loop {
        let mut failed = match supervised::attempt(F::WHAT, follower.follow(connections)).await {
            Some(Ok(())) => return,
            Some(Err(error)) => error,
            None => anyhow!("the task that follows them has panicked"),
        };
        connections = loop {
            warn!(error = format!("{failed:#}"), "{} are not monitored; retrying", F::WHAT);
            sleep(pause).await;
            if !follower.is_needed() {
                return;
            }
            match F::open() {
                Ok(connections) => break connections,
                Err(error) => failed = error,
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
        time::Instant,
    };

    use anyhow::bail;

    use super::*;

    /// Fails this many times, every second time by a panic, and is needed for four calls.
    struct Fails(u32, Arc<AtomicU32>);

    impl Follower for Fails {
        const WHAT: &'static str = "things";
        type Connections = ();

        fn open() -> Result<()> {
            Ok(())
        }

        async fn follow(&mut self, (): ()) -> Result<()> {
            self.1.fetch_add(1, Ordering::Relaxed);
            if self.0 == 0 {
                return Ok(());
            }
            self.0 -= 1;
            assert!(self.0.is_multiple_of(2), "every second failure is a panic");
            bail!("the socket was closed")
        }

        fn is_needed(&self) -> bool {
            self.1.load(Ordering::Relaxed) < 4
        }
    }

    #[tokio::test]
    async fn netlink_sockets_are_reopened_after_errors_and_panics() {
        for (failures, calls) in [(0, 1), (2, 3), (9, 4)] {
            let called = Arc::new(AtomicU32::new(0));
            let begun = Instant::now();
            run_pausing(Duration::from_millis(1), Fails(failures, called.clone()), ()).await;
            assert!(
                begun.elapsed() < supervised::RESTART_PAUSE,
                "{failures} failures: there is one pause alone"
            );
            assert_eq!(called.load(Ordering::Relaxed), calls, "{failures} failures");
        }
    }
}
