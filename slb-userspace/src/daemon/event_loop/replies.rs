//! Answers to API commands, and their log lines.

use tokio::sync::oneshot;

use crate::{
    instruments::INSTRUMENTS,
    server::{
        changes::lines,
        requests::{RequestError, log_refused},
    },
};
use slb_api::{changes::ChangeResult, types::Requester};

/// Channel for the answer to a command.
pub(super) type ChangeReply = oneshot::Sender<Result<ChangeResult, RequestError>>;

/// Answers all requests that this result is for.
pub(super) fn answer_all(
    what: &str,
    answers: Vec<(Requester, ChangeReply)>,
    result: &Result<ChangeResult, RequestError>,
) {
    for (by, answer) in answers {
        reply(what, &by, answer, result.clone());
    }
}

/// Answers a request.
pub(super) fn reply(
    what: &str,
    by: &Requester,
    answer: ChangeReply,
    result: Result<ChangeResult, RequestError>,
) {
    // A stale request is made again.
    if !matches!(result, Err(RequestError::Stale)) {
        log(what, by, &result);
    }
    // The caller may have disconnected.
    let _ = answer.send(result);
}

fn log(what: &str, by: &Requester, result: &Result<ChangeResult, RequestError>) {
    match result {
        Ok(changed) => {
            INSTRUMENTS.command(what, true);
            let Requester { uid, user, pid } = by;
            let ChangeResult { changes, overrides, .. } = changed;
            let (changed, overridden) = (changes.len(), overrides.len());
            tracing::info!(what, uid, user, pid, changes = changed, overrides = overridden, "done");
            for change in lines(changes, overrides) {
                tracing::info!("changed: {change}");
            }
        }
        Err(refused) => log_refused(what, by, refused),
    }
}
