//! Replaces the active configuration without interrupting traffic. Order: new servers are health-checked and their next
//! hops resolved; the change is applied; what is removed ends. The event loop runs meanwhile.

use std::{collections::BTreeSet, mem, sync::Arc};

use anyhow::Result;
use tokio::time::Instant;

use super::{
    EventLoop,
    reconfiguration::{ConfigCommand, Reconfiguration},
};
use crate::{
    daemon::{
        environment::{Environment, Interfaces as _},
        missing_resources::MissingResources,
        ports,
    },
    health::Target,
    instruments::INSTRUMENTS,
    server::{changes::documents, requests::RequestError},
};
use slb_api::changes::ChangeResult;
use slb_config::{Config, diff::diff, immutable_settings};
use slb_control::{
    desired::desired,
    inherited_state,
    targets::{addresses, announced, destinations, local_addresses, targets, tunnels},
    warm_up::{HealthyWeights, warm_up},
};

/// How a configuration becomes active.
#[derive(Debug, Clone, Copy)]
pub(super) enum AttachPolicy {
    /// A user has requested it: it is applied as a whole or not at all.
    AllOrNone,
    /// A rollback: it is applied even if its interfaces are missing or refuse the program.
    BestEffort,
}

impl<E: Environment> EventLoop<E> {
    /// Checks whether a configuration can replace the active one. Changes nothing. Whether it fits the map sizes was
    /// checked when it was loaded. Returns the interfaces that it names and that are absent now; they may appear later.
    ///
    /// # Errors
    /// The configuration cannot become active; the error says why.
    pub(super) async fn validate(&mut self, config: &Config) -> Result<MissingResources, RequestError> {
        let fixed = immutable_settings::violations(&self.config.daemon, &config.daemon);
        let errors: Vec<_> = fixed.iter().map(|refusal| format!("error: {refusal}")).collect();
        if !errors.is_empty() {
            return Err(RequestError::Invalid(errors.join("\n")));
        }
        let unfit = |error: anyhow::Error| RequestError::Invalid(format!("error: {error:#}"));
        let interfaces = &config.daemon.interfaces;
        let links = self.env.interfaces().known(&self.env.links().await.map_err(unfit)?);
        let (added, removed) = changed_interfaces(&self.config, config);
        // The interfaces that stay may all be absent for a while. That must not block an unrelated change.
        if !added.is_empty() || !removed.is_empty() {
            ports::expect_any_exists(interfaces, &links).map_err(unfit)?;
            ports::expect_fit(&self.config.daemon.interfaces, interfaces, &links).map_err(unfit)?;
        }
        let desired = desired(config, self.observations.known(self.store.settings()));
        self.reconciler.check(&desired).map_err(unfit)?;
        Ok(MissingResources::of(&config.daemon, &links))
    }

    /// Begins to replace the active configuration: probes new servers and resolves their next hops. The event loop
    /// applies it once [`Reconfiguration::is_ready`].
    ///
    /// # Errors
    /// The program cannot be attached to new interfaces, or the state of VIPs or maps cannot be read. Nothing has
    /// changed.
    pub(super) async fn begin(
        &mut self,
        config: Arc<Config>,
        attach_policy: AttachPolicy,
        then: ConfigCommand,
    ) -> Result<(), (anyhow::Error, ConfigCommand)> {
        let announcing = &announced(&self.config, false) | &announced(&config, false);
        self.observations.set_announced(announcing);
        self.observations.set_locals(&local_addresses(&self.config) | &local_addresses(&config));
        match self.env.read_vips(&(&addresses(&self.config) | &addresses(&config))).await {
            Ok(vip_states) => self.observations.set_vips(vip_states),
            Err(error) => return Err((error, then)),
        }
        let (added, removed) = changed_interfaces(&self.config, &config);
        // Interfaces that a superseded reconfiguration has attached stay attached.
        let before = self.reconfiguration.take();
        let attached = before.as_ref().map_or(&[][..], |before| &before.added);
        self.env.interfaces_mut().add_roles(&added, &config.daemon.roles);
        let missing: Vec<_> = added.iter().filter(|name| !attached.contains(name)).cloned().collect();
        if let Err(error) = self.attach_added(&missing, attach_policy).await {
            self.reconfiguration = before;
            return Err((error, then));
        }
        let then = match before {
            Some(before) => self.supersede_reconfiguration(before, &added, then),
            None => then,
        };
        let is_same = *self.config == *config;
        let new_targets = &targets(&config) - &targets(&self.config);
        let new_servers = &destinations(&config) - &destinations(&self.config);
        let changes = diff(&self.config, &config);
        let mut reconfiguration = Reconfiguration::new(config, changes, then, Instant::now());
        (reconfiguration.added, reconfiguration.removed) = (added, removed);
        self.reconfiguration = Some(reconfiguration);
        if let Err(error) = self.expect() {
            let Some(reconfiguration) = self.reconfiguration.take() else {
                unreachable!("it has just been put there")
            };
            self.env.interfaces_mut().remove(&reconfiguration.added);
            return Err((error, reconfiguration.then));
        }
        if is_same {
            self.finish();
            return Ok(());
        }
        let new_targets =
            new_targets.into_iter().filter(|target| !self.observations.has_health(target)).collect();
        let new_servers =
            new_servers.into_iter().filter(|address| !self.observations.has_next_hop_to(address)).collect();
        if let Some(reconfiguration) = &mut self.reconfiguration {
            reconfiguration.wait_for(new_targets, new_servers);
        }
        self.review();
        Ok(())
    }

    async fn attach_added(&mut self, added: &[String], attach_policy: AttachPolicy) -> Result<()> {
        if !added.is_empty() {
            let links = self.env.links().await?;
            let gone = match attach_policy {
                AttachPolicy::AllOrNone => {
                    self.env.interfaces_mut().add(added, &links).map(|()| BTreeSet::new())?
                }
                AttachPolicy::BestEffort => self.env.interfaces_mut().restore(added, &links),
            };
            self.update_exits(&[], &gone);
        }
        Ok(())
    }

    /// Ends a reconfiguration that a later one replaces. The later one uses the interfaces `added`.
    fn supersede_reconfiguration(
        &mut self,
        before: Reconfiguration,
        added: &[String],
        then: ConfigCommand,
    ) -> ConfigCommand {
        let unused: Vec<_> = before.added.iter().filter(|name| !added.contains(name)).cloned().collect();
        self.env.interfaces_mut().remove(&unused);
        self.update_exits(&[], &BTreeSet::new());
        tracing::info!("a later change replaces the one that waits for its servers");
        before.then.supersede_with(then)
    }

    /// Reviews what the reconfiguration still waits for.
    pub(super) fn review(&mut self) {
        let Some(mut reconfiguration) = self.reconfiguration.take() else { return };
        let now = Instant::now();
        if !reconfiguration.is_first_wait(now) {
            let known = self.observations.known(self.store.settings());
            let (before, after) = (desired(&self.config, known), desired(&reconfiguration.config, known));
            let mut warm_up = warm_up(&HealthyWeights::desired(&before), &reconfiguration.config, &after);
            warm_up.targets.retain(|target| self.observations.is_probed(target));
            reconfiguration.wait_for_replacements(warm_up, now);
        }
        reconfiguration.check();
        if reconfiguration.is_ready() {
            self.change_soon();
        }
        self.reconfiguration = Some(reconfiguration);
        self.publish();
    }

    /// Removes from the pending reconfiguration what has arrived: the result of `target`, or for `None` the next hops.
    pub(super) fn on_awaited_result(&mut self, target: Option<&Target>) {
        let Some(reconfiguration) = &mut self.reconfiguration else { return };
        if let Some(target) = target {
            reconfiguration.on_verdict(target);
        } else {
            reconfiguration.on_next_hops(|address| self.observations.has_next_hop_to(address));
        }
        if reconfiguration.check() {
            self.change_soon();
        }
    }

    /// Makes the pending configuration active, and reports the outcome.
    pub(super) fn finish(&mut self) {
        let Some(reconfiguration) = self.reconfiguration.take() else { return };
        let Reconfiguration { ref config, ref added, ref removed, .. } = reconfiguration;
        let before = self.config.clone();
        let applied = match reconfiguration.then {
            ConfigCommand::Edit { .. } => self.activate_edit(config.clone(), removed),
            _ => self.activate(config.clone(), removed),
        };
        // Detach from the interfaces that the active configuration, new or old, does not use.
        self.env.interfaces_mut().remove(if applied.is_ok() { removed } else { added });
        self.update_exits(&[], &BTreeSet::new());
        let waited = reconfiguration.wait_description(Instant::now());
        let Reconfiguration { changes, then, .. } = reconfiguration;
        let changes = documents(changes);
        let reconfigured = applied.map(|()| ChangeResult { changes, waited, ..ChangeResult::default() });
        self.finish_command(then, &before, reconfigured);
        if let Err(error) = self.expect() {
            tracing::error!(error = format!("{error:#}"), "cannot read the state of the data plane");
        }
    }

    /// Stores the document of the API, then makes the configuration active. On an error, neither has changed.
    fn activate_edit(&mut self, config: Arc<Config>, removed: &[String]) -> Result<()> {
        let before = self.config.documents.api.clone();
        self.store.write_api_document(config.documents.api.as_ref(), before.as_ref())?;
        self.activate(config, removed).inspect_err(|_| self.store.restore_api_document(before.as_ref()))
    }

    /// Makes a configuration active; on an error the previous one stays active.
    fn activate(&mut self, config: Arc<Config>, removed: &[String]) -> Result<()> {
        let before = mem::replace(&mut self.config, config);
        self.env.interfaces_mut().set_roles(self.config.daemon.roles.clone());
        self.update_exits(removed, &BTreeSet::new());
        let applied = self.apply();
        if applied.is_err() {
            self.config = before;
            self.env.interfaces_mut().set_roles(self.config.daemon.roles.clone());
            // Schedules a change that reverts what has reached the maps.
            self.update_rate.schedule_now(Instant::now());
        } else {
            INSTRUMENTS.configured();
            self.restart_probes(&before);
            self.send_pending_answers(&applied);
        }
        applied
    }

    /// Sets the targets of health checks, the servers whose next hops are resolved, and the tunnels whose path MTUs are
    /// learned. They come from the active configuration, the pending one, and the one to roll back to.
    pub(super) fn expect(&mut self) -> Result<()> {
        let others = [
            self.reconfiguration.as_ref().map(|reconfiguration| &reconfiguration.config),
            self.rollback_target(),
        ];
        let configs: Vec<Arc<Config>> =
            [&self.config].into_iter().chain(others.into_iter().flatten()).cloned().collect();
        let held = self.reconciler.actual()?;
        let inherited = configs.iter().flat_map(|config| inherited_state::health(config, held)).collect();
        self.observations.expect(
            configs.iter().map(Arc::as_ref),
            inherited,
            self.env.since_boot().unwrap_or_default(),
        );
        let destinations = configs.iter().flat_map(|config| destinations(config)).collect();
        self.env.set_targets(self.observations.targets());
        self.env.watch_vips(configs.iter().flat_map(|config| addresses(config)).collect());
        self.env.watch_servers(destinations);
        self.env.follow_tunnels(configs.iter().flat_map(|config| tunnels(config)).collect());
        Ok(())
    }
}

/// Interfaces that `new` adds, and those that it removes.
fn changed_interfaces(old: &Config, new: &Config) -> (Vec<String>, Vec<String>) {
    let without = |these: &Config, those: &Config| {
        let interfaces = these.daemon.interfaces.iter();
        interfaces.filter(|name| !those.daemon.interfaces.contains(name)).cloned().collect()
    };
    (without(new, old), without(old, new))
}
