//! API commands: reload, apply, confirm, overrides.

use std::{sync::Arc, time::SystemTime};

use anyhow::Result;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    EventLoop,
    commit_confirm::PendingConfirmation,
    reconfiguration::{ConfigCommand, Reconfiguration},
    reconfigure::AttachPolicy,
    replies::{ChangeReply, answer_all, reply},
};
use crate::{
    daemon::{
        environment::{Environment, Interfaces as _},
        store::OverrideRecord,
    },
    dataplane::bpf::lifetime::PinLifetime,
    server::{
        ActiveConfig,
        bases::Bases,
        changes::overrides::override_change,
        loader::Loader,
        requests::{ApiCommand, Request, RequestError, ValidationResult, all_warnings, log_refused},
    },
};
use slb_api::{
    changes::{ApiOverrideChange, ApiOverrideEffect, ChangeResult},
    types::{ApiOverride, Requester, Set},
};
use slb_config::{
    Config, LoadedConfig,
    model::{Document, Documents},
    parse_documents,
};
use slb_control::{
    model::{AdminState, OverrideKey},
    overrides::{NamedServer, Overrides, ServerOverride},
};

/// An override that has been written. Its request is answered once the override is applied.
#[derive(Debug)]
pub(super) struct PendingAnswer {
    what: &'static str,
    by: Requester,
    overrides: Vec<ApiOverrideChange>,
    answer: ChangeReply,
}

impl<E: Environment> EventLoop<E> {
    /// Executes an API request and answers it.
    pub(super) async fn answer(&mut self, request: Request) {
        match request {
            Request::ApiCommand { order, by, answer } => {
                let what = order.name();
                let result = match order {
                    ApiCommand::Reload { loaded } => {
                        self.service_manager.on_reload();
                        match self.validated("reload", *loaded).await {
                            Ok((config, warnings)) => {
                                let then = ConfigCommand::Reload { warnings, answers: vec![(by, answer)] };
                                return self.begin_or_refuse(config, then).await;
                            }
                            Err(refused) => Err(refused),
                        }
                    }
                    ApiCommand::Apply { loaded, confirm_within } => {
                        match self.validated("apply another one", *loaded).await {
                            Ok((config, warnings)) => {
                                let then = ConfigCommand::Apply { warnings, by, answer, confirm_within };
                                return self.begin_or_refuse(config, then).await;
                            }
                            Err(refused) => Err(refused),
                        }
                    }
                    ApiCommand::Edit { loaded, base } => {
                        match self.validated_edit(*loaded, base.as_ref()).await {
                            Ok((config, of_file, warnings)) => {
                                let then = ConfigCommand::Edit { warnings, of_file, by, answer };
                                return self.begin_or_refuse(config, then).await;
                            }
                            Err(refused) => Err(refused),
                        }
                    }
                    ApiCommand::Confirm => self.confirm(),
                    ApiCommand::Set { servers, set, force } => match self.set(&servers, set, force, &by) {
                        Ok(overrides) => {
                            self.pending_answers.push(PendingAnswer { what, by, overrides, answer });
                            return self.change_soon();
                        }
                        Err(refused) => Err(refused),
                    },
                };
                reply(what, &by, answer, result);
            }
            Request::Flush { filter, erases, by, answer } => self.begin_flush(filter, erases, by, answer),
            Request::Validate { config, answer } => {
                let outcome = self.validate(&config).await.map(|absent| absent.warnings().collect());
                // The caller may have disconnected.
                let without_effect = self.store.without_effect(&config, &self.config);
                let running = self.config.clone();
                let _ = answer.send(ValidationResult { running, outcome, without_effect });
            }
        }
    }

    /// Answers the requests whose overrides were applied, or failed to be.
    pub(super) fn send_pending_answers(&mut self, applied: &Result<()>) {
        for PendingAnswer { what, by, overrides, answer } in self.pending_answers.drain(..) {
            let result = match applied {
                Ok(()) => Ok(ChangeResult { overrides, ..ChangeResult::default() }),
                Err(error) => Err(RequestError::Failed(format!(
                    "error: {error:#}: the override is stored, but not active yet; retrying every second"
                ))),
            };
            reply(what, &by, answer, result);
        }
    }

    /// Reloads the configuration file on SIGHUP.
    pub(super) fn reload_for_signal(&mut self) {
        self.service_manager.on_reload();
        let bases = Bases::new(self.snapshots.subscribe());
        let reload = reload_file(self.loader.clone(), self.request_sender.clone(), bases);
        let before = self.signal_reload.take();
        self.signal_reload = Some(tokio::spawn(async move {
            reload.await;
            if let Some(before) = before {
                let _ = before.await;
            }
        }));
    }

    /// Tells the service manager when reloads have ended.
    pub(super) fn end_reload(&mut self) {
        let is_loading = self.signal_reload.as_ref().is_some_and(|task| !task.is_finished());
        if self.service_manager.is_reloading() && !is_loading && self.reconfiguration.is_none() {
            self.signal_reload = None;
            self.service_manager.on_ready();
        }
    }

    /// Validates a configuration that is to become active. Returns it with its warnings.
    async fn validated(
        &mut self,
        what: &str,
        loaded: LoadedConfig,
    ) -> Result<(Arc<Config>, String), RequestError> {
        self.refuse_while_unconfirmed(what)?;
        // A change of objects that still waits is superseded, and made again.
        if loaded.config.documents.api != self.config.documents.api {
            return Err(RequestError::Stale);
        }
        self.validated_objects(loaded).await
    }

    /// Validates a configuration with a changed document of the API, which was `base` before. Returns it, the one that
    /// the next start would use, and its warnings.
    async fn validated_edit(
        &mut self,
        loaded: LoadedConfig,
        base: Option<&Document>,
    ) -> Result<(Arc<Config>, Arc<Config>, String), RequestError> {
        self.refuse_while_unconfirmed("change it")?;
        let active = &self.config.documents;
        let is_based = active.api.as_ref() == base && active.file == loaded.config.documents.file;
        if self.reconfiguration.is_some() || !is_based {
            return Err(RequestError::Stale);
        }
        let of_file = self.with_api_objects(&loaded.config)?;
        let (config, warnings) = self.validated_objects(loaded).await?;
        Ok((config.clone(), of_file.unwrap_or(config), warnings))
    }

    async fn validated_objects(
        &mut self,
        loaded: LoadedConfig,
    ) -> Result<(Arc<Config>, String), RequestError> {
        let LoadedConfig { config, warnings } = loaded;
        for warning in warnings.diagnostics() {
            tracing::warn!("configuration: {}", warning.message());
        }
        let absent = self.validate(&config).await?;
        absent.log();
        Ok((Arc::new(config), all_warnings(&warnings, absent.warnings())))
    }

    async fn begin_or_refuse(&mut self, config: Arc<Config>, then: ConfigCommand) {
        let before = self.config.clone();
        if let Err((error, then)) = self.begin(config, AttachPolicy::AllOrNone, then).await {
            self.finish_command(then, &before, Err(error));
        }
    }

    /// Reports the outcome of a finished reconfiguration. `before` is the configuration that was active before it.
    pub(super) fn finish_command(
        &mut self,
        then: ConfigCommand,
        before: &Arc<Config>,
        reconfigured: Result<ChangeResult>,
    ) {
        let refused = |error: anyhow::Error| {
            RequestError::Failed(format!("error: {error:#}: the active configuration is unchanged"))
        };
        match then {
            ConfigCommand::Reload { warnings, answers } => {
                if reconfigured.is_ok() {
                    self.file_config = self.config.clone();
                }
                let ended = self.prune_overrides(before);
                let mut result =
                    reconfigured.map(|changed| ChangeResult { warnings, ..changed }).map_err(refused);
                if let Ok(changed) = &mut result {
                    changed.overrides.extend(ended);
                }
                answer_all("reload", answers, &result);
            }
            ConfigCommand::Apply { warnings, by, answer, confirm_within } => {
                if let (Ok(_), Some(limit)) = (&reconfigured, confirm_within) {
                    let before = before.clone();
                    self.pending_confirmation =
                        Some(PendingConfirmation { before, ends: Instant::now() + limit });
                }
                let mut ended = self.prune_overrides(before);
                // The file or the previous configuration still has these.
                ended.extend(self.store.without_effect(&self.config, before));
                let confirm_within_seconds = confirm_within.map(|limit| limit.as_secs());
                let reconfigured =
                    reconfigured.map(|changed| ChangeResult { warnings, confirm_within_seconds, ..changed });
                let mut result = reconfigured.map_err(refused);
                if let Ok(changed) = &mut result {
                    changed.overrides.extend(ended);
                }
                reply("apply", &by, answer, result);
            }
            ConfigCommand::Edit { warnings, of_file, by, answer } => {
                if reconfigured.is_ok() {
                    self.file_config = of_file;
                }
                let ended = self.prune_overrides(before);
                let mut result =
                    reconfigured.map(|changed| ChangeResult { warnings, ..changed }).map_err(refused);
                if let Ok(changed) = &mut result {
                    changed.overrides.extend(ended);
                }
                reply("edit", &by, answer, result);
            }
            ConfigCommand::RollBack(to) => self.finish_rollback(to, before, reconfigured),
        }
    }

    /// The configuration that the next start would use, with the objects that the API has in `changed`; `None` if that is
    /// `changed` itself.
    ///
    /// # Errors
    /// The objects do not fit the file.
    fn with_api_objects(&self, changed: &Config) -> Result<Option<Arc<Config>>, RequestError> {
        let file = &self.file_config.documents.file;
        if *file == changed.documents.file {
            return Ok(None);
        }
        let documents = Documents { file: file.clone(), api: changed.documents.api.clone() };
        let loaded = parse_documents(documents).map_err(|error| {
            RequestError::Conflict(format!(
                "{error}\nthe change fits what was applied, and not the file that the next start uses: write what was applied \
                 to the file and reload first"
            ))
        })?;
        Ok(Some(Arc::new(loaded.config)))
    }

    /// Sets an override for all of these servers, or for none if one does not exist. Returns what has changed; it
    /// is not applied yet.
    fn set(
        &mut self,
        servers: &[NamedServer],
        set: Set,
        force: bool,
        by: &Requester,
    ) -> Result<Vec<ApiOverrideChange>, RequestError> {
        let is_required = !matches!(set, Set::Enable | Set::Reset);
        let mut keys = Vec::new();
        for server in servers {
            match self.key_of(server) {
                Ok(key) => keys.push(key),
                Err(error) if is_required => return Err(error),
                // A missing server has no override: enable and reset are no-ops for it.
                Err(_) => keys.extend(server.key(&self.file_config)),
            }
        }
        let at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let before = self.store.settings().clone();
        if !force {
            let mut after = before.clone();
            for key in &keys {
                let now = setting(set, before.get(key).copied().unwrap_or_default());
                after.insert(key.clone(), now);
            }
            self.refuse_outage(&before, &after, servers, self.env.since_boot().unwrap_or_default())?;
        }
        let replaced = self.store.replace(|records| {
            for key in &keys {
                let record = records.remove(key);
                let now = changed(record, set, by, &at);
                records.extend(now.map(|record| (key.clone(), record)));
            }
        });
        replaced.map_err(|error| RequestError::Conflict(format!("{error:#}")))?;
        if let Some(directory) = self.store.directory() {
            // It may have become usable only now.
            self.env.interfaces().persist_record_in(directory);
        }
        let now = self.store.settings();
        let of = |settings: &Overrides, key| settings.get(key).copied().unwrap_or_default();
        let changes = keys.iter().filter(|key| of(&before, key) != of(now, key));
        let named = |key: &OverrideKey| key.named([&*self.config, &*self.file_config]);
        let change = |key| override_change(key, &named(key), of(now, key), ApiOverrideEffect::Set, None);
        Ok(changes.map(change).collect())
    }

    /// The entry of a server in the active configuration. Fails if there is none, and names those that there are.
    fn key_of(&self, server: &NamedServer) -> Result<OverrideKey, RequestError> {
        let key = server.key(&self.config);
        let refused = match key.as_ref().and_then(|key| Some((key, key.entries(&self.config)?))) {
            Some((key, entries)) if entries.contains(key) => return Ok(key.clone()),
            Some((_, entries)) => {
                let servers: Vec<_> = entries.iter().map(OverrideKey::server).collect();
                format!(
                    "{} has no server {}; it has: {}",
                    server.group(),
                    server.server(),
                    servers.join(", ")
                )
            }
            None => {
                let groups = server.groups(&self.config);
                format!("there is no {}; there are: {}", server.group(), groups.join(", "))
            }
        };
        Err(RequestError::Invalid(format!("{refused}: nothing was changed")))
    }

    /// Deletes overrides of servers that are no longer configured. While a change awaits confirmation they stay,
    /// because a rollback may restore the servers; the next start deletes them at the latest. Returns the deleted ones,
    /// with the names that their groups had in `before`.
    pub(super) fn prune_overrides(&mut self, before: &Config) -> Vec<ApiOverrideChange> {
        let ended = match self.pending_confirmation {
            None => self.store.prune(&[&self.config, &self.file_config], before),
            Some(_) => Vec::new(),
        };
        self.publish();
        ended
    }

    /// Logs that the daemon stops, and whether forwarding continues.
    pub(super) async fn stop(&mut self, signal: &str, pins: PinLifetime) {
        self.service_manager.on_stop();
        if self.pending_confirmation.is_some() {
            tracing::warn!("the active configuration has not been confirmed: the next start uses the file");
        }
        if let Some(reconfiguration) = &self.reconfiguration {
            tracing::warn!(
                change = reconfiguration.then.name(),
                "a change that waits for its servers has not become active: the next start uses the file"
            );
        }
        // With pins in a mount namespace nothing is announced.
        if self.env.interfaces().pins_trouble().is_some() {
            self.env.end_announcements().await;
        }
        match (self.env.interfaces().pins_trouble(), pins) {
            (Some(why), _) => tracing::error!(signal, why, "stopping; FORWARDING ENDS"),
            (None, PinLifetime::Machine) => {
                tracing::info!(signal, "stopping; forwarding goes on: `slbd detach` ends it");
            }
            (None, PinLifetime::MountNamespace) => {
                let why = "the pins go with this mount namespace";
                tracing::warn!(signal, why, "stopping; FORWARDING ENDS");
            }
            (None, PinLifetime::Unknown) => tracing::info!(
                signal,
                "stopping; forwarding goes on as long as the file system of the pins is mounted: `slbd detach` ends it"
            ),
        }
    }

    /// The active configuration and its state, for the API.
    pub(super) fn running(&self) -> ActiveConfig {
        ActiveConfig {
            config: self.config.clone(),
            confirm_deadline: self.confirm_deadline(),
            pending: self.reconfiguration.as_ref().map(Reconfiguration::pending),
            overrides: self.api_overrides(),
            overrides_trouble: self.store.trouble().map(str::to_owned),
            vips: self.observations.vips(),
            attached: self.env.interfaces().attached_names(),
        }
    }

    /// The overrides by the names that their groups have in the active configuration, else in the one to return to.
    fn api_overrides(&self) -> Vec<ApiOverride> {
        let others = [Some(&self.file_config), self.rollback_target()];
        let configs: Vec<&Config> =
            [&self.config].into_iter().chain(others.into_iter().flatten()).map(Arc::as_ref).collect();
        let records = self.store.records().iter();
        records.map(|(key, record)| record.document(&key.named(configs.iter().copied()))).collect()
    }

    /// Publishes the active configuration to the API when the data plane has not changed.
    pub(super) fn publish(&self) {
        self.snapshots.send_modify(|snapshot| Arc::make_mut(snapshot).running = self.running());
    }
}

/// Reloads the configuration file, and waits for the answer.
async fn reload_file(loader: Loader, request_sender: mpsc::Sender<Request>, mut bases: Bases) {
    let by = Requester::default();
    while let Some(base) = bases.next().await {
        let (loaded, permit) = match loader.file(base.documents.api.clone()).await {
            Ok(loaded) => loaded,
            Err(refused) => return log_refused("reload", &by, &refused),
        };
        let order = ApiCommand::Reload { loaded: Box::new(loaded) };
        let (answer, answered) = oneshot::channel();
        // If the daemon is stopping, the reload is moot.
        if request_sender.send(Request::ApiCommand { order, by: by.clone(), answer }).await.is_err() {
            return;
        }
        drop(permit);
        if !matches!(answered.await, Ok(Err(RequestError::Stale))) {
            return;
        }
    }
    log_refused("reload", &by, &RequestError::Stale);
}

/// Applies a command to the override of a server.
fn setting(set: Set, before: ServerOverride) -> ServerOverride {
    match set {
        Set::Weight(weight) => ServerOverride { weight: Some(weight), ..before },
        Set::Drain => ServerOverride { state: Some(AdminState::Draining), ..before },
        Set::Disable => ServerOverride { state: Some(AdminState::Disabled), ..before },
        Set::Enable => ServerOverride { state: None, ..before },
        Set::Reset => ServerOverride::default(),
    }
}

/// The record of a server's override after a command; `None` if there is none.
fn changed(record: Option<OverrideRecord>, set: Set, by: &Requester, at: &str) -> Option<OverrideRecord> {
    let before = record.as_ref().map(|record| record.setting).unwrap_or_default();
    let now = setting(set, before);
    if now == before {
        return record;
    }
    (!now.is_empty()).then(|| OverrideRecord { setting: now, by: by.clone(), at: at.to_owned() })
}
