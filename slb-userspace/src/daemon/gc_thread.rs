//! The GC thread. It alone writes the flow table: GC passes, flushes and changes of client paths run there, one after
//! the other, while the event loop goes on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use slb_common::datapath::flow_gc::FlushResult;
use tokio::{sync::mpsc, time::Instant};

use super::gc_schedule::PassCost;
use crate::{clock::processor_time, dataplane::bpf::flow_table::PinnedFlowTable, provoke::Provoker};
use slb_control::{
    client_paths::PathChanges,
    dataplane::FlowTableAccess as _,
    flush::ResolvedFilter,
    gc_job::{GcFindings, GcJob},
};

/// Longest pause between two ticks of a GC pass.
const MAX_PAUSE: Duration = Duration::from_millis(50);

/// Work for the GC thread.
pub(super) enum Job {
    /// A GC pass.
    Pass(GcJob),
    /// Erases the chosen entries, or only counts them if not `erases`. `hz` is jiffies per second.
    Flush { choice: ResolvedFilter, erases: bool, hz: u32 },
    /// Replaces the client paths of flows.
    UpdateClientPaths(PathChanges),
}

/// Work that the GC thread has done.
pub(super) enum Finished {
    /// A GC pass: what it has found, and its cost.
    Pass(Result<(Box<GcFindings>, PassCost)>),
    /// A flush.
    Flush(Result<FlushResult>),
    /// This many flows have other client paths.
    UpdateClientPaths(usize),
}

/// The GC thread. Dropping it waits for the job that runs: no other daemon may write the flow table before.
pub(super) struct GcThread {
    /// `None` while the thread is to end.
    jobs: Option<mpsc::UnboundedSender<Job>>,
    finished: mpsc::UnboundedReceiver<Finished>,
    /// `None` once it has ended.
    thread: Option<thread::JoinHandle<()>>,
    /// Whether work waits for the running pass, so that it makes no pauses.
    is_urgent: Arc<AtomicBool>,
}

impl GcThread {
    /// Starts the thread.
    pub(super) fn spawn(table: PinnedFlowTable, provoker: Provoker) -> Result<Self> {
        let (jobs, waiting) = mpsc::unbounded_channel();
        let (sender, finished) = mpsc::unbounded_channel();
        let is_urgent = Arc::new(AtomicBool::new(false));
        let mut worker = Worker { table, provoker, jobs: waiting, is_urgent: is_urgent.clone() };
        let thread = thread::Builder::new()
            .name("slb-gc".to_owned())
            .spawn(move || {
                while let Some(job) = worker.jobs.blocking_recv() {
                    // Queued jobs are left when the daemon stops.
                    if sender.is_closed() || sender.send(worker.run(job)).is_err() {
                        return;
                    }
                }
            })
            .context("cannot start the GC thread")?;
        Ok(Self { jobs: Some(jobs), finished, thread: Some(thread), is_urgent })
    }

    /// Queues a job. A pass makes pauses, to leave the CPU to others, until [`Self::hurry`] or the next job.
    pub(super) fn start(&self, job: Job) {
        if matches!(job, Job::Pass(_)) {
            self.is_urgent.store(false, Ordering::Relaxed);
        }
        // If the thread has ended, `finished` says so.
        let _ = self.jobs.as_ref().map(|jobs| jobs.send(job));
    }

    /// Work waits for the running pass.
    pub(super) fn hurry(&self) {
        self.is_urgent.store(true, Ordering::Relaxed);
    }

    /// Waits for the next job that finishes. Cancel-safe.
    ///
    /// # Errors
    /// The thread has ended.
    pub(super) async fn finished(&mut self) -> Result<Finished> {
        self.finished.recv().await.context("the GC thread has ended")
    }
}

impl Drop for GcThread {
    fn drop(&mut self) {
        self.hurry();
        self.finished.close();
        self.jobs = None;
        // A panic of the thread has been reported.
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

/// What the thread owns.
struct Worker {
    table: PinnedFlowTable,
    /// Provokes idle peers of ended connections into a challenge ACK (RFC 5961).
    provoker: Provoker,
    jobs: mpsc::UnboundedReceiver<Job>,
    is_urgent: Arc<AtomicBool>,
}

impl Worker {
    fn run(&mut self, job: Job) -> Finished {
        match job {
            Job::Pass(job) => Finished::Pass(self.pass(job)),
            Job::Flush { choice, erases, hz } => {
                Finished::Flush(self.table.flush(erases, hz, &mut |entry| choice.matches(entry)))
            }
            Job::UpdateClientPaths(changes) => Finished::UpdateClientPaths(
                self.table.update_client_paths(&|client, path| changes.to(client, path)),
            ),
        }
    }

    fn pass(&mut self, job: GcJob) -> Result<(Box<GcFindings>, PassCost)> {
        let Self { table, provoker, jobs, is_urgent } = self;
        let (begun, used) = (Instant::now(), processor_time()?);
        let mut tick = begun;
        let found = job.run(table, &mut || {
            if jobs.is_empty() && !is_urgent.load(Ordering::Relaxed) {
                thread::sleep(tick.elapsed().min(MAX_PAUSE));
            }
            tick = Instant::now();
        })?;
        found.ended.iter().for_each(|ended| provoker.provoke(ended));
        let cost =
            PassCost { begun, took: begun.elapsed(), processor: processor_time()?.saturating_sub(used) };
        Ok((Box::new(found), cost))
    }
}
