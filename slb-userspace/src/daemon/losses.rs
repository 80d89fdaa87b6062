//! What the kernel loses after the program has decided: counted, and said.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::dataplane::bpf::losses::Counted;

/// Least time between two lines about one interface.
const PAUSE: Duration = Duration::from_secs(10);

/// The counters, and what has been said of them.
pub(super) struct Losses {
    counted: Option<Arc<Counted>>,
    said: BTreeMap<u32, (u64, Instant)>,
}

impl Losses {
    /// Starts to count, where the kernel allows it.
    pub(super) fn start() -> Self {
        let counted = Counted::start().map(Arc::new);
        if let Err(error) = &counted {
            tracing::warn!(
                error = format!("{error:#}"),
                "packets that the kernel loses after SLB has forwarded them are not counted"
            );
        }
        Self { counted: counted.ok(), said: BTreeMap::new() }
    }

    /// The counters, if there are some.
    pub(super) fn counted(&self) -> Option<Arc<Counted>> {
        self.counted.clone()
    }

    /// Says what has been lost at these interfaces, of these names, since it was said last.
    pub(super) fn look(&mut self, interfaces: &BTreeMap<u32, String>) {
        let Some(counted) = &self.counted else { return };
        let indexes: BTreeSet<u32> = interfaces.keys().copied().collect();
        if let Err(error) = counted.watch(&indexes) {
            tracing::warn!(error = format!("{error:#}"), "lost packets are not counted at all interfaces");
        }
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
