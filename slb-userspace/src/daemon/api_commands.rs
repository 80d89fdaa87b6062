//! API commands: reload, apply, confirm, overrides.

use std::{sync::Arc, time::SystemTime};

use anyhow::Result;
use tokio::{sync::oneshot, time::Instant};

use super::{
    Daemon,
    adoption::{Adoption, Then},
    reconfigure::Coming,
    store::under_names_of,
    update_rate::RETRY,
};
use crate::{
    clock::since_start,
    dataplane::bpf::lifetime::Lifetime,
    server::{
        Running,
        places::{admin_state, admin_state_of, at_place},
        requests::{Examined, Order, Refused, Request, log_refused, told},
    },
};
use slb_api::types::{By, Changed, Override, Set};
use slb_config::{Config, Loaded};
use slb_control::overrides::{AdminState, Overrides, Place, Setting};

/// A configuration that is rolled back unless it is confirmed.
pub(super) struct PendingConfirmation {
    /// The previous configuration.
    before: Arc<Config>,
    /// When it is rolled back to.
    ends: Instant,
}

/// An override that has been written. Its request is answered once the override is applied.
#[derive(Debug)]
pub(super) struct Waiting {
    what: &'static str,
    by: By,
    changes: Vec<String>,
    answer: Answer,
}

pub(super) type Answer = oneshot::Sender<Result<Changed, Refused>>;

impl Daemon {
    /// Executes an API request and answers it.
    pub(super) async fn answer(&mut self, request: Request) {
        match request {
            Request::Order { order, by, answer } => {
                let what = order.name();
                let result = match order {
                    Order::Reload { loaded } => match self.examined("reload", *loaded).await {
                        Ok((config, warnings)) => {
                            let then = Then::Reload { warnings, answers: vec![(by, answer)] };
                            return self.begin_or_refuse(config, then).await;
                        }
                        Err(refused) => Err(refused),
                    },
                    Order::Apply { loaded, confirm_within } => {
                        match self.examined("apply another one", *loaded).await {
                            Ok((config, warnings)) => {
                                let then = Then::Apply { warnings, by, answer, confirm_within };
                                return self.begin_or_refuse(config, then).await;
                            }
                            Err(refused) => Err(refused),
                        }
                    }
                    Order::Confirm => self.confirm(),
                    Order::Set { places, set, force } => match self.set(&places, set, force, &by) {
                        Ok(changes) => {
                            self.waiting.push(Waiting { what, by, changes, answer });
                            return self.change_soon();
                        }
                        Err(refused) => Err(refused),
                    },
                };
                reply(what, &by, answer, result);
            }
            Request::Flush { filter, erases, by, answer } => self.begin_flush(filter, erases, by, answer),
            Request::Examine { config, answer } => {
                let outcome = self.examine(&config).await.map(|absent| absent.warnings().collect());
                // The caller may have disconnected.
                let _ = answer.send(Examined { running: self.config.clone(), outcome });
            }
        }
    }

    /// Answers the requests whose overrides were applied, or failed to be.
    pub(super) fn answer_waiting(&mut self, applied: &Result<()>) {
        for Waiting { what, by, changes, answer } in self.waiting.drain(..) {
            let result = match applied {
                Ok(()) => Ok(Changed { changes, ..Changed::default() }),
                Err(error) => Err(Refused::Failed(format!(
                    "error: {error:#}: what is set is kept, but is not in force; it is tried again every second"
                ))),
            };
            reply(what, &by, answer, result);
        }
    }

    /// Reloads the configuration file on SIGHUP.
    pub(super) fn reload_for_signal(&self) {
        let (loader, asking) = (self.loader.clone(), self.asking.clone());
        tokio::spawn(async move {
            let (by, (answer, _)) = (By::default(), oneshot::channel());
            match loader.file().await {
                Ok((loaded, turn)) => {
                    let order = Order::Reload { loaded: Box::new(loaded) };
                    // If the daemon is stopping, the reload is moot.
                    let _ = asking.send(Request::Order { order, by, answer }).await;
                    drop(turn);
                }
                Err(refused) => log_refused("reload", &by, &refused),
            }
        });
    }

    /// Validates a configuration that is to become active. Returns it with its warnings.
    async fn examined(&mut self, what: &str, loaded: Loaded) -> Result<(Arc<Config>, String), Refused> {
        self.refuse_during_trial(what)?;
        let Loaded { config, warnings } = loaded;
        for warning in warnings.diagnostics() {
            tracing::warn!("configuration: {}", warning.message());
        }
        let absent = self.examine(&config).await?;
        absent.log();
        Ok((Arc::new(config), told(&warnings, absent.warnings())))
    }

    async fn begin_or_refuse(&mut self, config: Arc<Config>, then: Then) {
        let before = self.config.clone();
        if let Err((error, then)) = self.begin(config, Coming::New, then).await {
            self.conclude(then, before, Err(error));
        }
    }

    /// Reports the outcome of a finished reconfiguration. `before` is the configuration that was active before it.
    pub(super) fn conclude(&mut self, then: Then, before: Arc<Config>, adopted: Result<Changed>) {
        let refused = |error: anyhow::Error| {
            Refused::Failed(format!("error: {error:#}: the active configuration is unchanged"))
        };
        match then {
            Then::Reload { warnings, answers } => {
                if adopted.is_ok() {
                    self.filed = self.config.clone();
                }
                let ended = self.end_overrides();
                let mut result = adopted.map(|changed| Changed { warnings, ..changed }).map_err(refused);
                if let Ok(changed) = &mut result {
                    changed.changes.extend(ended);
                }
                answer_all("reload", answers, &result);
            }
            Then::Apply { warnings, by, answer, confirm_within } => {
                if let (Ok(_), Some(limit)) = (&adopted, confirm_within) {
                    self.pending_confirmation =
                        Some(PendingConfirmation { before, ends: Instant::now() + limit });
                }
                let ended = self.end_overrides();
                let confirm_within_seconds = confirm_within.map(|limit| limit.as_secs());
                let adopted = adopted.map(|changed| Changed { warnings, confirm_within_seconds, ..changed });
                let mut result = adopted.map_err(refused);
                if let Ok(changed) = &mut result {
                    changed.changes.extend(ended);
                }
                reply("apply", &by, answer, result);
            }
            Then::FallBack(to) => self.has_fallen_back(to, adopted),
        }
    }

    fn confirm(&mut self) -> Result<Changed, Refused> {
        if let (None, Some(adoption)) = (&self.pending_confirmation, &self.adoption) {
            let pending = adoption.pending();
            return Err(Refused::Conflict(format!(
                "nothing waits to be confirmed: {} waits for {}, for {} s more at most: confirm it when it is active",
                pending.change,
                pending.waits_for.join(", "),
                pending.seconds_left()
            )));
        }
        if self.pending_confirmation.take().is_none() {
            return Err(Refused::Conflict(
                "nothing waits to be confirmed: the running configuration stays in force anyway, or it has fallen back \
                 already (`slb status` says so)"
                    .to_owned(),
            ));
        }
        if let Err(error) = self.expect() {
            tracing::error!(error = format!("{error:#}"), "cannot read what the data plane holds");
        }
        Ok(Changed { changes: self.end_overrides(), ..Changed::default() })
    }

    fn refuse_during_trial(&self, what: &str) -> Result<(), Refused> {
        if self.adoption.as_ref().is_some_and(|adoption| matches!(adoption.then, Then::FallBack(_))) {
            return Err(Refused::Conflict(format!(
                "an applied configuration was not confirmed and is falling back: wait until it has (`slb status` says so); \
                 then {what}"
            )));
        }
        match &self.pending_confirmation {
            Some(pending_confirmation) => {
                let left = pending_confirmation.ends.saturating_duration_since(Instant::now()).as_secs();
                Err(Refused::Conflict(format!(
                    "an applied configuration waits for `slb confirm`, for {left} s more: confirm it, or let it fall \
                     back; then {what}"
                )))
            }
            None => Ok(()),
        }
    }

    /// Sets an override for all of these servers, or for none if one does not exist. Returns the changes in words; they
    /// are not applied yet.
    fn set(&mut self, places: &[Place], set: Set, force: bool, by: &By) -> Result<Vec<String>, Refused> {
        // A missing server has no override: enable and reset are no-ops for it.
        if !matches!(set, Set::Enable | Set::Reset) {
            places.iter().try_for_each(|place| self.find(place))?;
        }
        let at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let before = self.store.settings().clone();
        if !force {
            let mut after = before.clone();
            for place in places {
                let now = setting(set, before.get(place).copied().unwrap_or_default());
                after.insert(place.clone(), now);
            }
            self.refuse_outage(&before, &after, places, since_start().unwrap_or_default())?;
        }
        let replaced = self.store.replace(|records| {
            for place in places {
                let record = records.remove(place);
                let now = changed(record, place, set, by, &at);
                records.extend(now.map(|record| (place.clone(), record)));
            }
            // After a restart, groups are found by their names in the file.
            *records = under_names_of(records, &self.config, &self.filed);
        });
        replaced.map_err(|error| Refused::Conflict(format!("{error:#}")))?;
        if let Some(directory) = self.store.directory() {
            // It may have become usable only now.
            self.ports.keep_record_in(directory);
        }
        let now = self.store.settings();
        let of = |settings: &Overrides, place| settings.get(place).copied().unwrap_or_default();
        let changes = places.iter().filter(|place| of(&before, place) != of(now, place));
        Ok(changes.map(|place| format!("{place}: {}", of(now, place))).collect())
    }

    /// Fails if the server does not exist, and names those that do.
    fn find(&self, place: &Place) -> Result<(), Refused> {
        let refused = match place.entries(&self.config) {
            Some(entries) if entries.contains(place) => return Ok(()),
            Some(entries) => {
                let servers: Vec<_> = entries.iter().map(Place::server).collect();
                format!("{} has no server {}; it has: {}", place.group(), place.server(), servers.join(", "))
            }
            None => {
                let groups = place.groups(&self.config);
                format!("there is no {}; there are: {}", place.group(), groups.join(", "))
            }
        };
        Err(Refused::Unfit(format!("{refused}: nothing was changed")))
    }

    /// Deletes overrides of servers that are no longer configured. While a change awaits confirmation they stay,
    /// because a rollback may restore the servers; the next start deletes them at the latest. Returns the deleted ones
    /// in words.
    fn end_overrides(&mut self) -> Vec<String> {
        let ended = match self.pending_confirmation {
            None => self.store.prune(&[&self.config, &self.filed]),
            Some(_) => Vec::new(),
        };
        self.publish();
        ended
    }

    /// When the unconfirmed configuration is rolled back.
    pub(super) fn trial_ends(&self) -> Option<Instant> {
        self.pending_confirmation.as_ref().map(|pending_confirmation| pending_confirmation.ends)
    }

    /// The configuration to roll back to unless the active one is confirmed.
    pub(super) fn falls_back_to(&self) -> Option<&Arc<Config>> {
        self.pending_confirmation.as_ref().map(|pending_confirmation| &pending_confirmation.before)
    }

    /// Begins to roll back the unconfirmed configuration.
    pub(super) async fn fall_back(&mut self) {
        let Some(PendingConfirmation { before, .. }) = self.pending_confirmation.take() else { return };
        let active = self.config.clone();
        if let Err((error, then)) = self.begin(before.clone(), Coming::Back, Then::FallBack(before)).await {
            self.conclude(then, active, Err(error));
        }
    }

    fn has_fallen_back(&mut self, before: Arc<Config>, adopted: Result<Changed>) {
        match adopted {
            Ok(Changed { changes, .. }) => {
                tracing::warn!(
                    changes = changes.len(),
                    "not confirmed: rolled back to the previous configuration"
                );
                for ended in self.end_overrides() {
                    tracing::info!("{ended}");
                }
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "cannot fall back; trying again");
                self.pending_confirmation =
                    Some(PendingConfirmation { before, ends: Instant::now() + RETRY });
            }
        }
    }

    /// Logs that the daemon stops, and whether forwarding continues.
    pub(super) fn stop(&self, signal: &str, pins: Lifetime) {
        if self.pending_confirmation.is_some() {
            tracing::warn!("the running configuration has not been confirmed: the next start uses the file");
        }
        if let Some(adoption) = &self.adoption {
            tracing::warn!(
                change = adoption.then.name(),
                "a change that waits for its servers has not become active: the next start uses the file"
            );
        }
        match (self.ports.pins_trouble(), pins) {
            (Some(why), _) => tracing::error!(signal, why, "stopping; FORWARDING ENDS"),
            (None, Lifetime::Machine) => {
                tracing::info!(signal, "stopping; forwarding goes on: `slbd detach` ends it");
            }
            (None, Lifetime::MountNamespace) => {
                let why = "the pins go with this mount namespace";
                tracing::warn!(signal, why, "stopping; FORWARDING ENDS");
            }
            (None, Lifetime::Unknown) => tracing::info!(
                signal,
                "stopping; forwarding goes on as long as the file system of the pins is mounted: `slbd detach` ends it"
            ),
        }
    }

    /// The active configuration and its state, for the API.
    pub(super) fn running(&self) -> Running {
        Running {
            config: self.config.clone(),
            trial_ends: self.trial_ends(),
            pending: self.adoption.as_ref().map(Adoption::pending),
            overrides: self.store.records().values().cloned().collect(),
            overrides_trouble: self.store.trouble().map(str::to_owned),
            vips: self.observations.vips(),
            attached: self.ports.attached_names(),
        }
    }

    /// Publishes the active configuration to the API when the data plane has not changed.
    pub(super) fn publish(&self) {
        self.snapshots.send_modify(|snapshot| Arc::make_mut(snapshot).running = self.running());
    }
}

/// Applies a command to the override of a server.
fn setting(set: Set, before: Setting) -> Setting {
    match set {
        Set::Weight(weight) => Setting { weight: Some(weight), ..before },
        Set::Drain => Setting { state: Some(AdminState::Draining), ..before },
        Set::Disable => Setting { state: Some(AdminState::Disabled), ..before },
        Set::Enable => Setting { state: None, ..before },
        Set::Reset => Setting::default(),
    }
}

/// The record of a server's override after a command; `None` if there is none.
fn changed(record: Option<Override>, place: &Place, set: Set, by: &By, at: &str) -> Option<Override> {
    let before = record
        .as_ref()
        .map(|record| Setting { weight: record.weight, state: record.state.map(admin_state_of) });
    let before = before.unwrap_or_default();
    let now = setting(set, before);
    if now == before {
        return record;
    }
    let record = Override {
        server_group: None,
        load_balancer: None,
        server: String::new(),
        weight: now.weight,
        state: now.state.map(admin_state),
        by: by.clone(),
        at: at.to_owned(),
    };
    (!now.is_empty()).then(|| at_place(record, place))
}

/// Answers all requests that this result is for.
fn answer_all(what: &str, answers: Vec<(By, Answer)>, result: &Result<Changed, Refused>) {
    for (by, answer) in answers {
        reply(what, &by, answer, result.clone());
    }
}

pub(super) fn reply(what: &str, by: &By, answer: Answer, result: Result<Changed, Refused>) {
    log(what, by, &result);
    // The caller may have disconnected.
    let _ = answer.send(result);
}

fn log(what: &str, by: &By, result: &Result<Changed, Refused>) {
    match result {
        Ok(changed) => {
            let By { uid, user, pid } = by;
            tracing::info!(what, uid, user, pid, changes = changed.changes.len(), "done");
            for change in &changed.changes {
                tracing::info!("changed: {change}");
            }
        }
        Err(refused) => log_refused(what, by, refused),
    }
}
