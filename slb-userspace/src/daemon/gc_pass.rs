//! Flow-table GC passes of the control loop.

use std::collections::BTreeSet;

use anyhow::Result;
use tokio::time::Instant;

use super::{Daemon, SWEEP, gc_schedule::Took};
use crate::clock::{processor_time, since_start};
use slb_control::{fill, reconcile::Sweep};

impl Daemon {
    /// Makes a GC pass and processes its findings: ended connections, handshake outcomes, answers of servers, clients.
    pub(super) fn sweep(&mut self) -> Result<()> {
        let (begun, worked) = (Instant::now(), processor_time()?);
        self.gc_schedule.begin(begun);
        let swept = self.reconciler.sweep(since_start()?, &self.clients.on_link())?;
        let Sweep { moved, flows, assured, entries, ended, handshakes, answers, clients, next } = swept;
        self.note_fill(assured, entries);
        let answers_return = self.reconciler.answers_return();
        self.clients.watch(if answers_return { clients } else { BTreeSet::new() });
        let is_news = self.observations.note_answers(&answers);
        if self.observations.on_outcomes(&handshakes, since_start()?) || is_news {
            self.change_soon();
        }
        ended.iter().for_each(|ended| self.provoker.provoke(ended));
        let next = if moved == 0 && !answers_return { next } else { next.min(SWEEP) };
        let processor = processor_time()?.saturating_sub(worked);
        let took = Took { begun, ended: Instant::now(), processor };
        self.gc_schedule.end(took, next, self.reconciler.most_between_looks());
        tracing::debug!(
            took = ?(took.ended - took.begun),
            ?processor,
            moved,
            flows,
            ended = ended.len(),
            "slots that have changed hands, and flows that live"
        );
        Ok(())
    }

    /// Logs when the flow table becomes nearly full, and when it no longer is.
    fn note_fill(&mut self, assured: usize, entries: usize) {
        match self.fill.note(assured, entries) {
            Some(fill::Change::Full) => tracing::warn!(
                assured,
                entries,
                "the flow table is nearly full: when it is, new flows of mode nat are dropped (flow_table_full); set [daemon] \
                 flow_table_entries higher and restart slbd, which keeps all connections"
            ),
            Some(fill::Change::Roomy) => {
                tracing::info!(assured, entries, "the flow table is no longer nearly full");
            }
            None => {}
        }
    }
}
