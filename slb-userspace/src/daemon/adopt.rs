//! Puts another configuration in force while traffic goes on, in an order that leaves no gap: probes and next hops of what
//! is new come first, then the change itself, then the end of what is old.

use std::{collections::BTreeSet, mem, net::IpAddr, sync::Arc};

use anyhow::Result;
use tokio::time::Instant;

use super::{Daemon, absent::Absent, ports};
use crate::{
    api::requests::Refused,
    config::{Config, difference::difference, fixed},
    control::{
        desired::{desired, destinations, targets},
        memory, room,
    },
    health::Target,
};

/// How a configuration comes into force.
#[derive(Debug, Clone, Copy)]
pub(super) enum Coming {
    /// Somebody has asked for it: as a whole or not at all.
    New,
    /// It has been in force before, and is again, whatever has become of its interfaces.
    Back,
}

impl Daemon {
    /// Says why a configuration cannot be put in force in place of the one that is, if so. Changes nothing. Returns the
    /// what it names and is not there now, which may come as after a start.
    pub(super) async fn examine(&mut self, config: &Config) -> Result<Absent, Refused> {
        let fixed = fixed::refusals(&self.config.daemon, &config.daemon);
        let mut errors: Vec<_> = fixed.iter().map(|refusal| format!("error: {refusal}")).collect();
        errors.extend(room::check(config).err().map(|large| format!("error: {large}")));
        if !errors.is_empty() {
            return Err(Refused::Unfit(errors.join("\n")));
        }
        let unfit = |error: anyhow::Error| Refused::Unfit(format!("error: {error:#}"));
        let interfaces = &config.daemon.interfaces;
        let links = ports::links().await.map_err(unfit)?;
        let (added, removed) = changed_interfaces(&self.config, config);
        // Those that stay may all be away for a while: that is no reason against any other change.
        if !added.is_empty() || !removed.is_empty() {
            ports::some_there(interfaces, &links).map_err(unfit)?;
        }
        let desired = desired(config, self.facts.known(self.store.settings()));
        self.reconciler.check(&desired).map_err(unfit)?;
        Ok(Absent::of(&config.daemon, &links))
    }

    /// Puts a configuration in force. Returns what that has changed, in words.
    ///
    /// # Errors
    /// The one that was in force before stays.
    pub(super) async fn adopt(&mut self, config: Arc<Config>, coming: Coming) -> Result<Vec<String>> {
        let mut changes = difference(&self.config, &config);
        let before = self.config.clone();
        let (added, removed) = changed_interfaces(&self.config, &config);
        if !added.is_empty() {
            let links = ports::links().await?;
            let gone = match coming {
                Coming::New => self.ports.add(&added, &links).map(|()| BTreeSet::new())?,
                Coming::Back => self.ports.restore(&added, &links),
            };
            self.use_ports(&[], &gone);
        }
        let applied = match self.get_to_know(&config).await {
            Ok(()) => {
                // Before the change: a server that is out of service gets nothing under its group's other name either.
                if let Err(error) = self.store.carry(&before, &config) {
                    let unwritten = format!("what is set for renamed groups is not written: {error:#}");
                    tracing::error!("{unwritten}");
                    changes.push(unwritten);
                }
                self.switch(config, &removed)
            }
            Err(error) => Err(error),
        };
        // Those that are not used any more, whichever configuration is in force.
        self.ports.remove(if applied.is_ok() { &removed } else { &added });
        self.use_ports(&[], &BTreeSet::new());
        self.expect(None)?;
        applied.map(|()| changes)
    }

    /// Makes a configuration the one that is in force, or leaves the one that is.
    fn switch(&mut self, config: Arc<Config>, removed: &[String]) -> Result<()> {
        let before = mem::replace(&mut self.config, config);
        self.use_ports(removed, &BTreeSet::new());
        let applied = self.apply();
        if applied.is_err() {
            self.config = before;
            // What has been changed of the maps is changed back.
            self.pace.at_once(Instant::now());
        } else {
            self.renew_probes(&before);
            self.answer_waiting(&applied);
        }
        applied
    }

    /// Probes the servers of `config` too, and asks for the ways to them, until each that is new has been heard of, or for
    /// a while; and until tables may be built again.
    async fn get_to_know(&mut self, config: &Arc<Config>) -> Result<()> {
        self.expect(Some(config))?;
        let new_targets: BTreeSet<Target> = &targets(config) - &targets(&self.config);
        let new_servers: BTreeSet<IpAddr> = &destinations(config) - &destinations(&self.config);
        let now = Instant::now();
        let free = if self.config == *config { now } else { self.pace.free(now) };
        self.listen(new_targets, new_servers, free).await;
        Ok(())
    }

    /// Makes the servers of the configuration, and those of another one, the ones that are probed, and that ways are known to.
    fn expect(&mut self, another: Option<&Arc<Config>>) -> Result<()> {
        let configs: Vec<&Config> = [&self.config].into_iter().chain(another).map(Arc::as_ref).collect();
        let held = self.reconciler.held()?;
        let inherited = configs.iter().flat_map(|config| memory::health(config, held)).collect();
        self.facts.expect(configs.iter().flat_map(|config| targets(config)).collect(), inherited);
        self.supervisor.set_targets(self.facts.targets());
        self.resolver.watch(configs.iter().flat_map(|config| destinations(config)).collect());
        Ok(())
    }
}

/// Interfaces that are added, and those that are removed.
fn changed_interfaces(old: &Config, new: &Config) -> (Vec<String>, Vec<String>) {
    let without = |these: &Config, those: &Config| {
        let interfaces = these.daemon.interfaces.iter();
        interfaces.filter(|name| !those.daemon.interfaces.contains(name)).cloned().collect()
    };
    (without(new, old), without(old, new))
}
