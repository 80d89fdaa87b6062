//! Commit-confirm: an applied configuration is rolled back unless it is confirmed in time.

use std::sync::Arc;

use anyhow::Result;
use tokio::time::Instant;

use super::{EventLoop, reconfiguration::ConfigCommand, reconfigure::AttachPolicy};
use crate::{
    daemon::{environment::Environment, update_rate::RETRY},
    instruments::INSTRUMENTS,
    server::{changes::overrides::in_words, requests::RequestError},
};
use slb_api::changes::ChangeResult;
use slb_config::Config;

/// A configuration that is rolled back unless it is confirmed.
pub(super) struct PendingConfirmation {
    /// The previous configuration.
    pub(super) before: Arc<Config>,
    /// When it is rolled back to.
    pub(super) ends: Instant,
}

impl<E: Environment> EventLoop<E> {
    pub(super) fn confirm(&mut self) -> Result<ChangeResult, RequestError> {
        if let (None, Some(reconfiguration)) = (&self.pending_confirmation, &self.reconfiguration) {
            let pending = reconfiguration.pending();
            return Err(RequestError::Conflict(format!(
                "nothing waits to be confirmed: {} waits for {}, for {} s more at most: confirm it when it is active",
                pending.change,
                pending.waits_for.join(", "),
                pending.seconds_left()
            )));
        }
        let Some(PendingConfirmation { before, .. }) = self.pending_confirmation.take() else {
            return Err(RequestError::Conflict(
                "nothing waits to be confirmed: the active configuration needs no confirmation, or it has been rolled back already (`slb status` says so)"
                    .to_owned(),
            ));
        };
        if let Err(error) = self.expect() {
            tracing::error!(error = format!("{error:#}"), "cannot read the state of the data plane");
        }
        Ok(ChangeResult { overrides: self.prune_overrides(&before), ..ChangeResult::default() })
    }

    pub(super) fn refuse_while_unconfirmed(&self, what: &str) -> Result<(), RequestError> {
        if self
            .reconfiguration
            .as_ref()
            .is_some_and(|reconfiguration| matches!(reconfiguration.then, ConfigCommand::RollBack(_)))
        {
            return Err(RequestError::Conflict(format!(
                "an applied configuration was not confirmed and is being rolled back: wait for the end of it (`slb status` says so); then {what}"
            )));
        }
        match &self.pending_confirmation {
            Some(pending_confirmation) => {
                let left = pending_confirmation.ends.saturating_duration_since(Instant::now()).as_secs();
                Err(RequestError::Conflict(format!(
                    "an applied configuration waits for `slb confirm`, for {left} s more: confirm it, or let it roll back; then {what}"
                )))
            }
            None => Ok(()),
        }
    }

    /// When the unconfirmed configuration is rolled back.
    pub(super) fn confirm_deadline(&self) -> Option<Instant> {
        self.pending_confirmation.as_ref().map(|pending_confirmation| pending_confirmation.ends)
    }

    /// The configuration to roll back to unless the active one is confirmed.
    pub(super) fn rollback_target(&self) -> Option<&Arc<Config>> {
        self.pending_confirmation.as_ref().map(|pending_confirmation| &pending_confirmation.before)
    }

    /// Begins to roll back the unconfirmed configuration.
    pub(super) async fn roll_back(&mut self) {
        let Some(PendingConfirmation { before, .. }) = self.pending_confirmation.take() else { return };
        let active = self.config.clone();
        if let Err((error, then)) =
            self.begin(before.clone(), AttachPolicy::BestEffort, ConfigCommand::RollBack(before)).await
        {
            self.finish_command(then, &active, Err(error));
        }
    }

    /// Reports the outcome of a rollback from `unconfirmed` to `before`.
    pub(super) fn finish_rollback(
        &mut self,
        before: Arc<Config>,
        unconfirmed: &Config,
        reconfigured: Result<ChangeResult>,
    ) {
        INSTRUMENTS.command("rollback", reconfigured.is_ok());
        match reconfigured {
            Ok(ChangeResult { changes, .. }) => {
                tracing::warn!(
                    changes = changes.len(),
                    "not confirmed: rolled back to the previous configuration"
                );
                for ended in self.prune_overrides(unconfirmed) {
                    tracing::info!("{}", in_words(&ended));
                }
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "cannot roll back; retrying");
                self.pending_confirmation =
                    Some(PendingConfirmation { before, ends: Instant::now() + RETRY });
            }
        }
    }
}
