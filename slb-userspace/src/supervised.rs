//! Tasks that must not end: after a panic they are logged, counted and restarted.

use std::{
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::time::sleep;

/// Pause before a task is restarted.
pub const RESTART_PAUSE: Duration = Duration::from_secs(1);

static RESTARTED: AtomicU64 = AtomicU64::new(0);

/// Number of restarts of all tasks.
pub fn restarts() -> u64 {
    RESTARTED.load(Ordering::Relaxed)
}

/// Runs a task until it ends by itself, and restarts it after a panic. The hook of [`crate::telemetry`] logs the panic.
pub async fn run<F: Future<Output = ()>>(what: &str, mut task: impl FnMut() -> F) {
    while attempt(what, task()).await.is_none() {
        sleep(RESTART_PAUSE).await;
    }
}

/// Runs a task once. Returns `None` after a panic; the caller pauses and restarts it.
pub async fn attempt<T>(what: &str, task: impl Future<Output = T>) -> Option<T> {
    let ended = AssertUnwindSafe(task).catch_unwind().await;
    if ended.is_err() {
        RESTARTED.fetch_add(1, Ordering::Relaxed);
        tracing::error!(task = what, "a task has panicked and is started again: please report this");
    }
    ended.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panicked_task_is_restarted_and_counted() {
        let before = restarts();
        let mut runs = 0;
        run("test", || {
            runs += 1;
            let run = runs;
            async move {
                tokio::task::yield_now().await;
                assert!(run > 1, "run {run}");
            }
        })
        .await;
        assert_eq!(runs, 2);
        assert!(restarts() > before);
    }
}
