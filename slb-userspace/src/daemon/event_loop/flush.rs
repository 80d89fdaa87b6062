//! Flushes of the flow table (`slb flows flush`): a GC pass, the flush in the GC thread, and another GC pass if entries
//! were erased. Other events are processed meanwhile.

use anyhow::Result;
use slb_common::datapath::flow_gc::FlushResult;
use tokio::sync::oneshot;

use super::EventLoop;
use crate::daemon::{environment::Environment, gc_thread::Job};
use crate::{
    instruments::INSTRUMENTS,
    server::requests::{RequestError, log_refused},
};
use slb_api::{flows, types::Requester};
use slb_control::flush::FlushFilter;

/// The command's name in the log.
const COMMAND: &str = "flows flush";

/// Channel for the answer.
pub(super) type FlushReply = oneshot::Sender<Result<flows::Flushed, RequestError>>;

/// Flushes that have not been answered, oldest first.
#[derive(Default)]
pub(super) struct FlushQueue(Vec<PendingFlush>);

struct PendingFlush {
    filter: FlushFilter,
    erases: bool,
    by: Requester,
    answer: FlushReply,
    step: FlushStep,
}

/// What a flush waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FlushStep {
    /// That a pass begins. It erases expired entries, and makes affinity entries assured like their flows.
    FirstPass,
    /// That this pass ends.
    InFirstPass,
    /// That the GC thread has flushed.
    Flush,
    /// That a pass begins. It corrects the connection counts of servers.
    LastPass(FlushResult),
    /// That this pass ends.
    InLastPass(FlushResult),
}

impl FlushQueue {
    /// Whether a flush waits for a pass to begin or to end.
    pub(super) fn awaits_pass(&self) -> bool {
        self.0.iter().any(|flush| flush.step != FlushStep::Flush)
    }

    /// A pass begins: flushes that waited for one wait for its end.
    pub(super) fn on_pass_begun(&mut self) {
        for flush in &mut self.0 {
            match flush.step {
                FlushStep::FirstPass => flush.step = FlushStep::InFirstPass,
                FlushStep::LastPass(flushed) => flush.step = FlushStep::InLastPass(flushed),
                FlushStep::InFirstPass | FlushStep::Flush | FlushStep::InLastPass(_) => {}
            }
        }
    }
}

impl<E: Environment> EventLoop<E> {
    /// Queues a flush, or refuses it.
    pub(super) fn begin_flush(
        &mut self,
        filter: FlushFilter,
        erases: bool,
        by: Requester,
        answer: FlushReply,
    ) {
        self.flushes.0.push(PendingFlush { filter, erases, by, answer, step: FlushStep::FirstPass });
        self.demand_gc_pass();
    }

    /// A pass has ended: the flushes that waited for its end go on.
    pub(super) fn on_pass_for_flushes(&mut self) {
        for mut flush in std::mem::take(&mut self.flushes.0) {
            match flush.step {
                FlushStep::InFirstPass => match self.flush_job(&flush) {
                    Ok(job) => {
                        self.env.start_gc(job);
                        flush.step = FlushStep::Flush;
                        self.flushes.0.push(flush);
                    }
                    Err(refused) => send_answer(flush, Err(refused)),
                },
                FlushStep::InLastPass(flushed) => send_answer(flush, Ok(flushed)),
                FlushStep::FirstPass | FlushStep::Flush | FlushStep::LastPass(_) => {
                    self.flushes.0.push(flush);
                }
            }
        }
    }

    fn flush_job(&mut self, flush: &PendingFlush) -> Result<Job, RequestError> {
        let hz = self.reconciler.hz();
        let actual = self.reconciler.actual().map_err(|error| failed(&error))?;
        let choice = flush.filter.resolve(actual);
        let choice = choice.map_err(|why| RequestError::Invalid(format!("{why}: nothing was erased")))?;
        Ok(Job::Flush { choice, erases: flush.erases, hz })
    }

    /// The GC thread has made the oldest flush that waited for it.
    pub(super) fn on_flushed(&mut self, flushed: Result<FlushResult>) {
        let Some(oldest) = self.flushes.0.iter().position(|flush| flush.step == FlushStep::Flush) else {
            return;
        };
        let mut flush = self.flushes.0.remove(oldest);
        match flushed {
            Err(error) => send_answer(flush, Err(failed(&error))),
            Ok(flushed) if !flush.erases || flushed.erased == 0 => send_answer(flush, Ok(flushed)),
            Ok(flushed) => {
                let FlushResult { erased, locked } = flushed;
                let (Requester { uid, user, pid }, filter) = (&flush.by, &flush.filter);
                INSTRUMENTS.command(COMMAND, true);
                tracing::info!(what = COMMAND, uid, user, pid, %filter, erased, locked, "flow-table entries erased");
                match self.env.since_boot() {
                    Ok(now) => self.reconciler.on_flushed(now),
                    Err(error) => tracing::error!(
                        error = format!("{error:#}"),
                        "erased flows of migrating slots may return to other servers"
                    ),
                }
                flush.step = FlushStep::LastPass(flushed);
                self.flushes.0.push(flush);
                self.demand_gc_pass();
            }
        }
    }

    /// A pass has failed: the flushes that waited for its end are answered. Others wait for the next one.
    pub(super) fn fail_flushes(&mut self, error: &anyhow::Error) {
        for flush in std::mem::take(&mut self.flushes.0) {
            match flush.step {
                FlushStep::InFirstPass => send_answer(flush, Err(failed(error))),
                // The entries are erased, and a later pass corrects the counts.
                FlushStep::InLastPass(flushed) => send_answer(flush, Ok(flushed)),
                FlushStep::FirstPass | FlushStep::Flush | FlushStep::LastPass(_) => {
                    self.flushes.0.push(flush);
                }
            }
        }
    }
}

fn failed(error: &anyhow::Error) -> RequestError {
    RequestError::Failed(format!("error: {error:#}: nothing was erased; try again"))
}

fn send_answer(flush: PendingFlush, result: Result<FlushResult, RequestError>) {
    if let Err(refused) = &result {
        log_refused(COMMAND, &flush.by, refused);
    }
    let flushed =
        |FlushResult { erased, locked }| flows::Flushed { entries: erased as u64, locked: locked as u64 };
    // The caller may have disconnected.
    let _ = flush.answer.send(result.map(flushed));
}
