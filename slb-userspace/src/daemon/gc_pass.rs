//! Flow-table GC passes of the event loop.

use std::collections::BTreeSet;

use anyhow::Result;
use tokio::time::Instant;

use super::{Daemon, MAX_GC_INTERVAL, gc_schedule::PassCost};
use crate::clock::{processor_time, since_start};
use slb_control::{fill_level, reconcile::GcSummary};

impl Daemon {
    /// Makes a GC pass and processes its findings: ended connections, handshake outcomes, answers of servers, clients.
    pub(super) fn run_gc_pass(&mut self) -> Result<()> {
        let (begun, worked) = (Instant::now(), processor_time()?);
        self.gc_schedule.begin(begun);
        let swept = self.reconciler.run_gc(since_start()?, &self.clients.on_link())?;
        let GcSummary { moved, flows, assured, entries, ended, handshakes, answers, clients, next } = swept;
        self.log_fill(assured, entries);
        let has_nat_service = self.reconciler.has_nat_service();
        self.clients.watch(if has_nat_service { clients } else { BTreeSet::new() });
        let is_news = self.observations.on_answers(&answers);
        if self.observations.on_outcomes(&handshakes, since_start()?) || is_news {
            self.change_soon();
        }
        ended.iter().for_each(|ended| self.provoker.provoke(ended));
        let next = if moved == 0 && !has_nat_service { next } else { next.min(MAX_GC_INTERVAL) };
        let processor = processor_time()?.saturating_sub(worked);
        let took = PassCost { begun, ended: Instant::now(), processor };
        self.gc_schedule.end(took, next, self.reconciler.required_gc_interval());
        tracing::debug!(
            took = ?(took.ended - took.begun),
            ?processor,
            moved,
            flows,
            ended = ended.len(),
            "reassigned slots, and live flows"
        );
        Ok(())
    }

    /// Logs when the flow table becomes nearly full, and when it no longer is.
    fn log_fill(&mut self, assured: usize, entries: usize) {
        match self.fill.note(assured, entries) {
            Some(fill_level::FillChange::NearlyFull) => tracing::warn!(
                assured,
                entries,
                "the flow table is nearly full: when it is, new flows of mode nat are dropped (flow_table_full); set [daemon] \
                 flow_table_entries higher and restart slbd, which keeps all connections"
            ),
            Some(fill_level::FillChange::Relieved) => {
                tracing::info!(assured, entries, "the flow table is no longer nearly full");
            }
            None => {}
        }
    }
}
