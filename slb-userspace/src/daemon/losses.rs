//! Counts and logs packets that the kernel loses after the XDP verdict.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::dataplane::bpf::losses::LossCounters;

/// Minimum time between two log lines for one interface.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The counters, and what was logged of them.
pub(super) struct Losses {
    counted: Option<Arc<LossCounters>>,
    logged: BTreeMap<u32, (u64, Instant)>,
    /// Why not every interface is watched, if so.
    trouble: Option<String>,
}

impl Losses {
    /// Starts counting, if the kernel allows it.
    pub(super) fn start() -> Self {
        let counted = LossCounters::start().map(Arc::new);
        if let Err(error) = &counted {
            tracing::warn!(
                error = format!("{error:#}"),
                "packets that the kernel loses after SLB has forwarded them are not counted"
            );
        }
        Self { counted: counted.ok(), logged: BTreeMap::new(), trouble: None }
    }

    /// The counters, if counting has started.
    pub(super) fn counted(&self) -> Option<Arc<LossCounters>> {
        self.counted.clone()
    }

    /// Logs new losses at these interfaces, given by index and name.
    pub(super) fn poll(&mut self, interfaces: &BTreeMap<u32, String>) {
        let Some(counted) = &self.counted else { return };
        let indexes: BTreeSet<u32> = interfaces.keys().copied().collect();
        let trouble = counted.watch(&indexes).err().map(|error| format!("{error:#}"));
        if let Some(error) = trouble.as_ref().filter(|_| trouble != self.trouble) {
            tracing::warn!(error, "drops after the XDP verdict are not counted on every interface");
        }
        self.trouble = trouble;
        self.logged.retain(|index, _| indexes.contains(index));
        let now = Instant::now();
        for (index, interface) in interfaces {
            let lost = counted.at(*index);
            let (redirect, transmit, exception) = (lost.redirect, lost.transmit, lost.exception);
            let total = redirect + transmit + exception;
            let (before, due) = self.logged.get(index).copied().unwrap_or((0, now));
            if total > before && now >= due {
                tracing::error!(
                    interface,
                    new = total - before,
                    redirect,
                    transmit,
                    exception,
                    "packets are lost by the kernel after SLB has forwarded them"
                );
                self.logged.insert(*index, (total, now + LOG_INTERVAL));
            }
        }
    }
}
