//! Flow-table GC passes, as the event loop begins and ends them.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::Result;
use slb_common::abi::protocol::IpProtocol;
use tokio::time::Instant;

use super::{EventLoop, MAX_GC_INTERVAL};
use crate::{
    daemon::{
        environment::Environment,
        gc_schedule::PassCost,
        gc_thread::{Finished, Job},
    },
    instruments::INSTRUMENTS,
};
use slb_control::{
    fill_level,
    gc_job::{GcFindings, GcJob},
    reconcile::{GcSummary, PendingMigrations},
    source_usage::{SourceChange, SourcePorts, SourceUsage},
};

/// Slot migrations that end step by step.
pub(super) struct EndingMigrations {
    migrations: PendingMigrations,
    /// When the next step is due.
    pub(super) next_step: Instant,
}

impl<E: Environment> EventLoop<E> {
    /// Begins a GC pass in the GC thread.
    pub(super) fn begin_gc_pass(&mut self) {
        self.gc_schedule.begin();
        let is_urgent = self.reconciler.is_gc_due() || self.flushes.awaits_pass();
        match self.gc_job() {
            Ok(job) => {
                self.env.start_gc(Job::Pass(job));
                self.flushes.on_pass_begun();
                if is_urgent {
                    self.env.hurry_gc();
                }
            }
            Err(error) => self.on_failed_gc_pass(&error),
        }
    }

    fn gc_job(&mut self) -> Result<GcJob> {
        self.reconciler.begin_gc(self.env.since_boot()?, self.clients.on_link())
    }

    /// A connection or a flow waits for a GC pass: the next one begins at once, and the running one makes no pauses.
    pub(super) fn demand_gc_pass(&mut self) {
        self.gc_schedule.schedule_now(Instant::now());
        self.env.hurry_gc();
    }

    /// Processes what the GC thread has done.
    pub(super) fn on_gc_finished(&mut self, finished: Finished) {
        match finished {
            Finished::Pass(passed) => match passed.and_then(|(found, cost)| self.end_gc_pass(*found, cost)) {
                Ok(()) => self.on_pass_for_flushes(),
                Err(error) => self.on_failed_gc_pass(&error),
            },
            Finished::Flush(flushed) => self.on_flushed(flushed),
            Finished::UpdateClientPaths(flows) => {
                tracing::info!(flows, "client paths changed: answers take the new ones");
            }
        }
    }

    /// Ends the slot migrations of some tables. The next step waits for as long as this one took, so that other events
    /// get half of the time.
    pub(super) fn end_migrations(&mut self) {
        let Some(EndingMigrations { mut migrations, .. }) = self.ending_migrations.take() else { return };
        let begun = Instant::now();
        match self.reconciler.end_migrations(&mut migrations) {
            Ok(true) => {
                let next_step = Instant::now() + begun.elapsed();
                self.ending_migrations = Some(EndingMigrations { migrations, next_step });
            }
            Ok(false) => {}
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "slot migrations cannot be ended; retrying");
                self.change_soon();
            }
        }
    }

    fn on_failed_gc_pass(&mut self, error: &anyhow::Error) {
        INSTRUMENTS.failed_gc_passes.add(1);
        tracing::error!(error = format!("{error:#}"), "flow-table pass failed; retrying");
        self.reconciler.abort_gc();
        self.gc_schedule.fail(Instant::now());
        self.fail_flushes(error);
        self.change_soon();
    }

    /// Processes the findings of a GC pass: handshake outcomes, answers of servers, clients.
    fn end_gc_pass(&mut self, found: GcFindings, cost: PassCost) -> Result<()> {
        INSTRUMENTS.gc_passes.observe(cost.took);
        INSTRUMENTS.gc_cpu_nanoseconds.add(cost.processor.as_nanos() as u64);
        let (now, ended) = (self.env.since_boot()?, found.ended.len());
        let (summary, migrations) = self.reconciler.process_findings(found, now)?;
        // Migrations of an earlier pass that have not ended yet are due again in the next one.
        self.ending_migrations = Some(EndingMigrations { migrations, next_step: Instant::now() });
        let GcSummary {
            moved,
            flows,
            assured,
            entries,
            handshakes,
            answers,
            sources,
            clients,
            is_rehomed,
            next,
            max_delay,
        } = summary;
        self.log_fill(assured, entries);
        self.log_scarce_sources(&sources);
        self.publish_sources(sources);
        let has_nat_service = self.reconciler.has_nat_service();
        self.env.watch_clients(if has_nat_service { clients } else { BTreeSet::new() });
        let is_news = self.observations.on_answers(&answers);
        if self.observations.on_outcomes(&handshakes, now) || is_news || is_rehomed {
            self.change_soon();
        }
        let next = if moved == 0 && !has_nat_service { next } else { next.min(MAX_GC_INTERVAL) };
        let max_delay = [max_delay, self.reconciler.required_gc_interval()].into_iter().flatten().min();
        self.gc_schedule.end(cost, next, max_delay);
        if self.reconciler.is_gc_due() {
            self.demand_gc_pass();
        }
        let PassCost { took, processor, .. } = cost;
        tracing::debug!(?took, ?processor, moved, flows, ended, "reassigned slots, and live flows");
        Ok(())
    }

    /// Publishes the used ports of local addresses, if they have changed.
    fn publish_sources(&self, usage: SourceUsage) {
        self.snapshots.send_if_modified(|snapshot| {
            let has_changed = *snapshot.sources != usage;
            if has_changed {
                Arc::make_mut(snapshot).sources = Arc::new(usage);
            }
            has_changed
        });
    }

    /// Logs when the ports of a local address towards a server become scarce, and when they no longer are.
    fn log_scarce_sources(&mut self, usage: &SourceUsage) {
        for SourceChange { server: (server, protocol), local, ports, is_scarce } in self.scarce.update(usage)
        {
            let SourcePorts { used, ports } = ports;
            let protocol = if protocol == IpProtocol::Tcp { "tcp" } else { "udp" };
            if is_scarce {
                tracing::warn!(
                    %server, protocol, %local, used, ports,
                    "the local address has few free ports towards the server: when there are none, new connections are dropped \
                     (no_source_port); add addresses to [daemon] local_addresses"
                );
            } else {
                tracing::info!(
                    %server, protocol, %local, used, ports,
                    "the local address has free ports towards the server again"
                );
            }
        }
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
