//! What follows the kernel over netlink sockets, and opens them anew where they fail.

use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::sleep;
use tracing::warn;

use crate::supervised;

/// Pause before the netlink sockets are opened anew.
const RECONNECT: Duration = Duration::from_secs(1);

/// Something that follows the kernel.
pub(super) trait Follower: Send {
    /// What is followed, for the log: plural.
    const WHAT: &'static str;
    /// Its sockets; dropping them closes them.
    type Connections: Send;

    /// Opens them.
    fn open() -> Result<Self::Connections>;

    /// Follows the kernel until [`Self::is_needed`] does not hold.
    ///
    /// # Errors
    /// A socket fails.
    fn follow(&mut self, connections: Self::Connections) -> impl Future<Output = Result<()>> + Send;

    /// Whether there is a receiver of what is found.
    fn is_needed(&self) -> bool;
}

/// Follows the kernel while that is needed. After a failure or a panic, which it logs, it opens new sockets.
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
            warn!(error = format!("{failed:#}"), "{} are not followed; will try again", F::WHAT);
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

    /// Fails as often as this, by a panic every second time, and is needed for as long.
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
    async fn sockets_are_opened_again_after_errors_and_panics_while_a_receiver_exists() {
        for (failures, calls) in [(0, 1), (2, 3), (9, 4)] {
            let called = Arc::new(AtomicU32::new(0));
            let begun = Instant::now();
            run_pausing(Duration::from_millis(1), Fails(failures, called.clone()), ()).await;
            assert!(begun.elapsed() < supervised::PAUSE, "{failures} failures: there is one pause alone");
            assert_eq!(called.load(Ordering::Relaxed), calls, "{failures} failures");
        }
    }
}
