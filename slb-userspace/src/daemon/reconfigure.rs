//! Replaces the active configuration without interrupting traffic. Order: new servers are health-checked and their next
//! hops resolved; the change is applied; what is removed ends. The control loop runs meanwhile.

use std::{collections::BTreeSet, mem, sync::Arc};

use anyhow::Result;
use tokio::time::Instant;

use super::{
    Daemon,
    adoption::{Adoption, Then},
    missing_resources::MissingResources,
    ports,
};
use crate::{clock::since_start, health::Target, neigh::vips, server::requests::Refused};
use slb_api::types::Changed;
use slb_config::{Config, difference::difference, fixed};
use slb_control::{
    desired::desired,
    memory,
    targets::{addresses, destinations, targets},
    warm_up::{Serving, awaited},
};

/// How a configuration becomes active.
#[derive(Debug, Clone, Copy)]
pub(super) enum Coming {
    /// A user has requested it: it is applied as a whole or not at all.
    New,
    /// A rollback: it is applied even if its interfaces are missing or refuse the program.
    Back,
}

impl Daemon {
    /// Checks whether a configuration can replace the active one. Changes nothing. Whether it fits the map sizes was
    /// checked when it was loaded. Returns the interfaces that it names and that are absent now; they may appear later.
    ///
    /// # Errors
    /// The configuration cannot become active; the error says why.
    pub(super) async fn examine(&mut self, config: &Config) -> Result<MissingResources, Refused> {
        let fixed = fixed::refusals(&self.config.daemon, &config.daemon);
        let errors: Vec<_> = fixed.iter().map(|refusal| format!("error: {refusal}")).collect();
        if !errors.is_empty() {
            return Err(Refused::Unfit(errors.join("\n")));
        }
        let unfit = |error: anyhow::Error| Refused::Unfit(format!("error: {error:#}"));
        let interfaces = &config.daemon.interfaces;
        let links = self.ports.known(&ports::links().await.map_err(unfit)?);
        let (added, removed) = changed_interfaces(&self.config, config);
        // The interfaces that stay may all be absent for a while. That must not block an unrelated change.
        if !added.is_empty() || !removed.is_empty() {
            ports::some_there(interfaces, &links).map_err(unfit)?;
            ports::expect_fit(&self.config.daemon.interfaces, interfaces, &links).map_err(unfit)?;
        }
        let desired = desired(config, self.observations.known(self.store.settings()));
        self.reconciler.check(&desired).map_err(unfit)?;
        Ok(MissingResources::of(&config.daemon, &links))
    }

    /// Begins to replace the active configuration: probes new servers and resolves their next hops. The control loop
    /// applies it once [`Adoption::is_ready`].
    ///
    /// # Errors
    /// The program cannot be attached to new interfaces, or the state of VIPs or maps cannot be read. Nothing has
    /// changed.
    pub(super) async fn begin(
        &mut self,
        config: Arc<Config>,
        coming: Coming,
        then: Then,
    ) -> Result<(), (anyhow::Error, Then)> {
        match vips::read(&(&addresses(&self.config) | &addresses(&config))).await {
            Ok(standings) => self.observations.set_vips(Arc::new(standings)),
            Err(error) => return Err((error, then)),
        }
        let (added, removed) = changed_interfaces(&self.config, &config);
        // Interfaces that a superseded reconfiguration has attached stay attached.
        let before = self.adoption.take();
        let attached = before.as_ref().map_or(&[][..], |before| &before.added);
        self.ports.add_roles(&added, &config.daemon.roles);
        let missing: Vec<_> = added.iter().filter(|name| !attached.contains(name)).cloned().collect();
        if let Err(error) = self.attach_more(&missing, coming).await {
            self.adoption = before;
            return Err((error, then));
        }
        let then = match before {
            Some(before) => self.supersede(before, &added, then),
            None => then,
        };
        let is_same = *self.config == *config;
        let new_targets = &targets(&config) - &targets(&self.config);
        let new_servers = &destinations(&config) - &destinations(&self.config);
        let changes = difference(&self.config, &config);
        let mut adoption = Adoption::new(config, changes, then, Instant::now());
        (adoption.added, adoption.removed) = (added, removed);
        self.adoption = Some(adoption);
        if let Err(error) = self.expect() {
            let Some(adoption) = self.adoption.take() else { unreachable!("it has just been put there") };
            self.ports.remove(&adoption.added);
            return Err((error, adoption.then));
        }
        if is_same {
            self.finish();
            return Ok(());
        }
        let new_targets =
            new_targets.into_iter().filter(|target| !self.observations.has_verdict_on(target)).collect();
        let new_servers =
            new_servers.into_iter().filter(|address| !self.observations.has_way_to(address)).collect();
        if let Some(adoption) = &mut self.adoption {
            adoption.wait_for(new_targets, new_servers);
        }
        self.review();
        Ok(())
    }

    async fn attach_more(&mut self, added: &[String], coming: Coming) -> Result<()> {
        if !added.is_empty() {
            let links = ports::links().await?;
            let gone = match coming {
                Coming::New => self.ports.add(added, &links).map(|()| BTreeSet::new())?,
                Coming::Back => self.ports.restore(added, &links),
            };
            self.use_ports(&[], &gone);
        }
        Ok(())
    }

    /// Ends a reconfiguration that a later one replaces. The later one uses the interfaces `added`.
    fn supersede(&mut self, before: Adoption, added: &[String], then: Then) -> Then {
        let unused: Vec<_> = before.added.iter().filter(|name| !added.contains(name)).cloned().collect();
        self.ports.remove(&unused);
        self.use_ports(&[], &BTreeSet::new());
        tracing::info!("a later change replaces the one that waits for its servers");
        before.then.superseded_by(then)
    }

    /// Reviews what the reconfiguration still waits for.
    pub(super) fn review(&mut self) {
        let Some(mut adoption) = self.adoption.take() else { return };
        let now = Instant::now();
        if !adoption.is_first_wait(now) {
            let known = self.observations.known(self.store.settings());
            let (before, after) = (desired(&self.config, known), desired(&adoption.config, known));
            let mut awaited = awaited(&Serving::desired(&before), &adoption.config, &after);
            awaited.targets.retain(|target| self.observations.is_probed(target));
            adoption.wait_on(awaited, now);
        }
        adoption.check();
        if adoption.is_ready() {
            self.change_soon();
        }
        self.adoption = Some(adoption);
        self.publish();
    }

    /// Removes from the pending reconfiguration what has arrived: the result of `target`, or for `None` the next hops.
    pub(super) fn heard_of(&mut self, target: Option<&Target>) {
        let Some(adoption) = &mut self.adoption else { return };
        if let Some(target) = target {
            adoption.has_verdict(target);
        } else {
            adoption.has_ways(|address| self.observations.has_way_to(address));
        }
        if adoption.check() {
            self.change_soon();
        }
    }

    /// Makes the pending configuration active, and reports the outcome.
    pub(super) fn finish(&mut self) {
        let Some(adoption) = self.adoption.take() else { return };
        let Adoption { ref config, ref added, ref removed, .. } = adoption;
        let before = self.config.clone();
        let mut changes = adoption.changes.clone();
        // First, so that a disabled server receives no traffic under the new name of its group.
        if let Err(error) = self.store.carry(&before, config) {
            let unwritten = format!("what is set for renamed groups is not written: {error:#}");
            tracing::error!("{unwritten}");
            changes.push(unwritten);
        }
        let applied = self.switch(config.clone(), removed);
        // Detach from the interfaces that the active configuration, new or old, does not use.
        self.ports.remove(if applied.is_ok() { removed } else { added });
        self.use_ports(&[], &BTreeSet::new());
        let waited = adoption.waited(Instant::now());
        let adopted = applied.map(|()| Changed { changes, waited, ..Changed::default() });
        self.conclude(adoption.then, before, adopted);
        if let Err(error) = self.expect() {
            tracing::error!(error = format!("{error:#}"), "cannot read what the data plane holds");
        }
    }

    /// Makes a configuration active; on an error the previous one stays active.
    fn switch(&mut self, config: Arc<Config>, removed: &[String]) -> Result<()> {
        let before = mem::replace(&mut self.config, config);
        self.ports.set_roles(self.config.daemon.roles.clone());
        self.use_ports(removed, &BTreeSet::new());
        let applied = self.apply();
        if applied.is_err() {
            self.config = before;
            self.ports.set_roles(self.config.daemon.roles.clone());
            // Schedules a change that reverts what has reached the maps.
            self.update_rate.at_once(Instant::now());
        } else {
            self.renew_probes(&before);
            self.answer_waiting(&applied);
        }
        applied
    }

    /// Sets the targets of health checks and the servers whose next hops are resolved. They come from the active
    /// configuration, the pending one, and the one to roll back to.
    pub(super) fn expect(&mut self) -> Result<()> {
        let others = [self.adoption.as_ref().map(|adoption| &adoption.config), self.falls_back_to()];
        let configs: Vec<Arc<Config>> =
            [&self.config].into_iter().chain(others.into_iter().flatten()).cloned().collect();
        let held = self.reconciler.held()?;
        let inherited = configs.iter().flat_map(|config| memory::health(config, held)).collect();
        self.observations.expect(
            configs.iter().map(Arc::as_ref),
            inherited,
            since_start().unwrap_or_default(),
        );
        let destinations = configs.iter().flat_map(|config| destinations(config)).collect();
        self.supervisor.set_targets(self.observations.targets());
        self.vips.watch(configs.iter().flat_map(|config| addresses(config)).collect());
        self.resolver.watch(destinations);
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
