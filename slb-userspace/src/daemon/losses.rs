//! Counts and logs packets that the kernel loses after the XDP verdict.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::dataplane::bpf::losses::Counted;

/// Minimum time between two log lines for one interface.
const PAUSE: Duration = Duration::from_secs(10);

/// The counters, and what was logged of them.
pub(super) struct Losses {
    counted: Option<Arc<Counted>>,
    said: BTreeMap<u32, (u64, Instant)>,
    /// Why not every interface is watched, if so.
    trouble: Option<String>,
}

impl Losses {
    /// Starts counting, if the kernel allows it.
    pub(super) fn start() -> Self {
        let counted = Counted::start().map(Arc::new);
        if let Err(error) = &counted {
            tracing::warn!(
                error = format!("{error:#}"),
                "packets that the kernel loses after SLB has forwarded them are not counted"
            );
        }
        Self { counted: counted.ok(), said: BTreeMap::new(), trouble: None }
    }

    /// The counters, if counting has started.
    pub(super) fn counted(&self) -> Option<Arc<Counted>> {
        self.counted.clone()
    }

    /// Logs new losses at these interfaces, given by index and name.
    pub(super) fn look(&mut self, interfaces: &BTreeMap<u32, String>) {
        let Some(counted) = &self.counted else { return };
        let indexes: BTreeSet<u32> = interfaces.keys().copied().collect();
        let trouble = counted.watch(&indexes).err().map(|error| format!("{error:#}"));
        if let Some(error) = trouble.as_ref().filter(|_| trouble != self.trouble) {
            tracing::warn!(error, "drops after the XDP verdict are not counted on every interface");
        }
        self.trouble = trouble;
        self.said.retain(|index, _| indexes.contains(index));
        let now = Instant::now();
        for (index, interface) in interfaces {
            let lost = counted.at(*index);
            let (redirect, transmit, exception) = (lost.redirect, lost.transmit, lost.exception);
            let total = redirect + transmit + exception;
            let (before, free) = self.said.get(index).copied().unwrap_or((0, now));
            if total > before && now >= free {
                tracing::error!(
                    interface,
                    new = total - before,
                    redirect,
                    transmit,
                    exception,
                    "packets are lost by the kernel after SLB has forwarded them"
                );
                self.said.insert(*index, (total, now + PAUSE));
            }
        }
    }
}
