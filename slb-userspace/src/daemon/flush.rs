//! Flushes of the flow table (`slb flows flush`). The control loop flushes one part at a time, so other events wait for
//! at most one part.

use std::collections::VecDeque;

use anyhow::Result;
use slb_common::datapath::flow_gc::Flushed;
use tokio::sync::oneshot;

use super::Daemon;
use crate::{
    clock::since_start,
    server::requests::{Refused, log_refused},
};
use slb_api::{flows, types::By};
use slb_control::flush::{Choice, Filter};

/// Slots per part: 1/16 of the default table.
const PART: u32 = 1 << 14;
/// The command's name in the log.
const NAME: &str = "flows flush";

/// Channel for the answer.
pub(super) type Answer = oneshot::Sender<Result<flows::Flushed, Refused>>;

/// Running and queued flushes, oldest first.
pub(super) type Flushes = VecDeque<Flush>;

/// A running flush.
pub(super) struct Flush {
    filter: Filter,
    choice: Choice,
    erases: bool,
    /// The first slot of the next part.
    next: u32,
    flushed: Flushed,
    by: By,
    answer: Answer,
}

impl Daemon {
    /// Queues a flush, or refuses it.
    pub(super) fn begin_flush(&mut self, filter: Filter, erases: bool, by: By, answer: Answer) {
        match self.choose(&filter) {
            Ok(choice) => {
                let flushed = Flushed::default();
                self.flushes.push_back(Flush { filter, choice, erases, next: 0, flushed, by, answer });
            }
            Err(refused) => conclude(&by, answer, Err(refused)),
        }
    }

    fn choose(&mut self, filter: &Filter) -> Result<Choice, Refused> {
        // Expired entries are erased first, and affinity entries become assured like their flows.
        let failed = |error| Refused::Failed(format!("error: {error:#}: nothing was erased; try again"));
        self.sweep().map_err(failed)?;
        let held = self.reconciler.held().map_err(failed)?;
        filter.resolve(held).map_err(|why| Refused::Unfit(format!("{why}: nothing was erased")))
    }

    /// Flushes the next part for the oldest flush.
    pub(super) fn flush_on(&mut self) {
        let Some(mut flush) = self.flushes.pop_front() else { return };
        match self.flush_part(&mut flush) {
            Ok(false) => self.flushes.push_front(flush),
            Ok(true) => self.end_flush(flush),
            Err(error) => {
                let erased = flush.flushed.erased;
                let why = format!("error: {error:#}: {erased} entries were found before; try again");
                conclude(&flush.by, flush.answer, Err(Refused::Failed(why)));
            }
        }
    }

    /// Flushes one part. Returns whether it was the last one.
    fn flush_part(&mut self, flush: &mut Flush) -> Result<bool> {
        let slots = self.reconciler.flow_slots();
        let part = flush.next..flush.next.saturating_add(PART).min(slots);
        let Flushed { erased, locked } =
            self.reconciler.flush(part.clone(), &flush.choice, flush.erases, since_start()?)?;
        flush.flushed.erased += erased;
        flush.flushed.locked += locked;
        flush.next = part.end;
        Ok(part.end >= slots)
    }

    fn end_flush(&mut self, flush: Flush) {
        let Flush { filter, erases, flushed: Flushed { erased, locked }, by, answer, .. } = flush;
        if erases {
            let By { uid, user, pid } = &by;
            tracing::info!(what = NAME, uid, user, pid, %filter, erased, locked, "flow-table entries erased");
            // The GC pass corrects the connection counts of servers.
            if let Err(error) = self.sweep() {
                tracing::error!(error = format!("{error:#}"), "flow-table pass failed");
                self.change_soon();
            }
        }
        let flushed = flows::Flushed { entries: erased as u64, locked: locked as u64 };
        conclude(&by, answer, Ok(flushed));
    }
}

fn conclude(by: &By, answer: Answer, result: Result<flows::Flushed, Refused>) {
    if let Err(refused) = &result {
        log_refused(NAME, by, refused);
    }
    // The caller may have disconnected.
    let _ = answer.send(result);
}
