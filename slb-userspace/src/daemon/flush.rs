//! Flushes of the flow table (`slb flows flush`). The event loop flushes one part at a time, so other events wait for
//! at most one part.

use std::collections::VecDeque;

use anyhow::Result;
use slb_common::datapath::flow_gc::FlushResult;
use tokio::sync::oneshot;

use super::Daemon;
use crate::{
    clock::since_start,
    server::requests::{RequestError, log_refused},
};
use slb_api::{flows, types::Requester};
use slb_control::flush::{FlushFilter, ResolvedFilter};

/// Slots per part: 1/16 of the default table.
const SLOTS_PER_STEP: u32 = 1 << 14;
/// The command's name in the log.
const COMMAND: &str = "flows flush";

/// Channel for the answer.
pub(super) type FlushReply = oneshot::Sender<Result<flows::Flushed, RequestError>>;

/// Running and queued flushes, oldest first.
pub(super) type FlushQueue = VecDeque<RunningFlush>;

/// A running flush.
pub(super) struct RunningFlush {
    filter: FlushFilter,
    choice: ResolvedFilter,
    erases: bool,
    /// The first slot of the next part.
    next: u32,
    flushed: FlushResult,
    by: Requester,
    answer: FlushReply,
}

impl Daemon {
    /// Queues a flush, or refuses it.
    pub(super) fn begin_flush(
        &mut self,
        filter: FlushFilter,
        erases: bool,
        by: Requester,
        answer: FlushReply,
    ) {
        match self.choose(&filter) {
            Ok(choice) => {
                let flushed = FlushResult::default();
                self.flushes.push_back(RunningFlush { filter, choice, erases, next: 0, flushed, by, answer });
            }
            Err(refused) => send_answer(&by, answer, Err(refused)),
        }
    }

    fn choose(&mut self, filter: &FlushFilter) -> Result<ResolvedFilter, RequestError> {
        // Expired entries are erased first, and affinity entries become assured like their flows.
        let failed = |error| RequestError::Failed(format!("error: {error:#}: nothing was erased; try again"));
        self.run_gc_pass().map_err(failed)?;
        let held = self.reconciler.actual().map_err(failed)?;
        filter.resolve(held).map_err(|why| RequestError::Invalid(format!("{why}: nothing was erased")))
    }

    /// Flushes the next part for the oldest flush.
    pub(super) fn continue_flush(&mut self) {
        let Some(mut flush) = self.flushes.pop_front() else { return };
        match self.flush_step(&mut flush) {
            Ok(false) => self.flushes.push_front(flush),
            Ok(true) => self.end_flush(flush),
            Err(error) => {
                let erased = flush.flushed.erased;
                let why = format!("error: {error:#}: {erased} entries were found before; try again");
                send_answer(&flush.by, flush.answer, Err(RequestError::Failed(why)));
            }
        }
    }

    /// Flushes one part. Returns whether it was the last one.
    fn flush_step(&mut self, flush: &mut RunningFlush) -> Result<bool> {
        let slots = self.reconciler.flow_slots();
        let part = flush.next..flush.next.saturating_add(SLOTS_PER_STEP).min(slots);
        let FlushResult { erased, locked } =
            self.reconciler.flush(part.clone(), &flush.choice, flush.erases, since_start()?)?;
        flush.flushed.erased += erased;
        flush.flushed.locked += locked;
        flush.next = part.end;
        Ok(part.end >= slots)
    }

    fn end_flush(&mut self, flush: RunningFlush) {
        let RunningFlush { filter, erases, flushed: FlushResult { erased, locked }, by, answer, .. } = flush;
        if erases {
            let Requester { uid, user, pid } = &by;
            tracing::info!(what = COMMAND, uid, user, pid, %filter, erased, locked, "flow-table entries erased");
            // The GC pass corrects the connection counts of servers.
            if let Err(error) = self.run_gc_pass() {
                tracing::error!(error = format!("{error:#}"), "flow-table pass failed");
                self.change_soon();
            }
        }
        let flushed = flows::Flushed { entries: erased as u64, locked: locked as u64 };
        send_answer(&by, answer, Ok(flushed));
    }
}

fn send_answer(by: &Requester, answer: FlushReply, result: Result<flows::Flushed, RequestError>) {
    if let Err(refused) = &result {
        log_refused(COMMAND, by, refused);
    }
    // The caller may have disconnected.
    let _ = answer.send(result);
}
