//! The changes. Each is made only if enough servers remain able to serve.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use anyhow::Result;

use super::{
    ChaosDriver, PACE, POOLS,
    more::{self, SIDES, side},
    state::{Fault, ServerOverrides},
};
use crate::{client::Interval, server::Service};

/// Kind and description of a change; `None` if it was not possible.
type Changed = Option<(&'static str, String)>;

impl ChaosDriver<'_> {
    /// Makes a random change, if it is possible.
    pub(super) fn change(&mut self) -> Result<()> {
        let index = self.rng.below(self.servers.len() as u64) as usize;
        let what = self.rng.below(26);
        let changed = match what {
            0..=1 => self.fail(index, Fault::Killed)?,
            2..=3 => self.fail(index, Fault::Hangs)?,
            4..=8 => self.heal(index)?,
            9..=12 => self.take_out(index)?,
            13..=16 => self.put_back(index)?,
            17..=18 => self.change_weight(index)?,
            19 => self.remove(index)?,
            20..=21 => self.add(index)?,
            22..=23 => self.reweigh(index)?,
            24 => self.rename()?,
            _ => self.restart(index)?,
        };
        if let Some((kind, words)) = changed {
            self.note(kind, &words);
        }
        Ok(())
    }

    /// Whether each side has a serving server besides this one.
    fn can_be_spared(&self, index: usize) -> bool {
        let now = Instant::now();
        let others = self.servers.iter().enumerate().filter(|(other, _)| *other != index);
        let able: Vec<_> = others.map(|(_, server)| server).filter(|server| server.serves(now)).collect();
        SIDES.iter().all(|group| able.iter().any(|server| side(&server.planned.name) == *group))
    }

    fn name(&self, index: usize) -> String {
        self.servers[index].planned.name.clone()
    }

    fn fail(&mut self, index: usize, fault: Fault) -> Result<Changed> {
        if self.servers[index].fault.is_some() || !self.can_be_spared(index) {
            return Ok(None);
        }
        let name = self.name(index);
        self.model.on_failure(&name, Instant::now());
        self.servers[index].fault = Some(fault);
        match fault {
            Fault::Killed => self.world.kill_servers(index),
            Fault::Hangs => self.world.net.backends[index].hang()?,
        }
        Ok(Some(match fault {
            Fault::Killed => ("servers killed", format!("{name} was killed")),
            Fault::Hangs => ("servers hung", format!("{name} hangs")),
        }))
    }

    pub(super) fn heal(&mut self, index: usize) -> Result<Changed> {
        let Some(fault) = self.servers[index].fault.take() else { return Ok(None) };
        let from = Instant::now();
        match fault {
            Fault::Killed => self.world.start_servers(index)?,
            Fault::Hangs => self.world.net.backends[index].recover()?,
        }
        let now = Instant::now();
        self.servers[index].healthy_since = now;
        let name = self.name(index);
        self.model.on_recovery(&name, Interval { from, to: now });
        Ok(Some(("servers mended", format!("{name} is well again"))))
    }

    /// Drains or disables a server, or sets its weight to 0, in one pool or in all.
    fn take_out(&mut self, index: usize) -> Result<Changed> {
        if !self.servers[index].configured || !self.can_be_spared(index) {
            return Ok(None);
        }
        let (word, set) = match self.rng.below(3) {
            0 => (&["drain"][..], ServerOverrides { out_of_service: true, weight: None }),
            1 => (&["disable"][..], ServerOverrides { out_of_service: true, weight: None }),
            _ => (&["set", "--weight", "0"][..], ServerOverrides { out_of_service: false, weight: Some(0) }),
        };
        for pool in self.some_pools() {
            let mut now = self.servers[index].set.get(pool).copied().unwrap_or_default();
            now.out_of_service |= set.out_of_service;
            now.weight = set.weight.or(now.weight);
            self.order(index, pool, word, now)?;
        }
        Ok(Some(("servers taken out by override", format!("{} was set to {word:?}", self.name(index)))))
    }

    /// Enables a server or resets its overrides.
    fn put_back(&mut self, index: usize) -> Result<Changed> {
        if !self.servers[index].configured {
            return Ok(None);
        }
        let mut words = Vec::new();
        for (pool, set) in self.servers[index].set.clone() {
            let (word, now) = if self.rng.once_in(2) {
                ("reset", ServerOverrides::default())
            } else {
                ("enable", ServerOverrides { out_of_service: false, ..set })
            };
            if now.weight.unwrap_or(self.servers[index].planned.weight) == 0 && !self.can_be_spared(index) {
                continue;
            }
            self.order(index, pool, &[word], now)?;
            words.push(word);
        }
        let name = self.name(index);
        Ok((!words.is_empty()).then(|| ("overrides reset", format!("{name} was set to {words:?}"))))
    }

    fn change_weight(&mut self, index: usize) -> Result<Changed> {
        if !self.servers[index].configured {
            return Ok(None);
        }
        let weight = 1 + self.rng.below(100) as u8;
        for pool in self.some_pools() {
            let before = self.servers[index].set.get(pool).copied().unwrap_or_default();
            let set = ServerOverrides { weight: Some(weight), ..before };
            self.order(index, pool, &["set", "--weight", &weight.to_string()], set)?;
        }
        Ok(Some(("weights set by override", format!("{} was set to weight {weight}", self.name(index)))))
    }

    fn some_pools(&mut self) -> Vec<&'static str> {
        if self.rng.once_in(2) {
            return POOLS.to_vec();
        }
        self.rng.one_of(&POOLS).into_iter().collect()
    }

    /// Runs `slb server` for all addresses of a server, in its group of one pool.
    pub(super) fn order(
        &mut self,
        index: usize,
        pool: &'static str,
        word: &[&str],
        set: ServerOverrides,
    ) -> Result<()> {
        let planned = &self.servers[index].planned;
        let service = Service::ALL.into_iter().find(|service| service.name() == pool);
        let port = service.unwrap_or(Service::Lines).backend_port();
        let entry = |address: &IpAddr| match service {
            Some(Service::Lines) => address.to_string(),
            _ => SocketAddr::new(*address, port).to_string(),
        };
        let entries: Vec<String> = planned.addresses.iter().map(entry).collect();
        let group = match service {
            Some(Service::Lines) => vec!["--default-group", self.world.plan.names.load_balancer.as_str()],
            Some(_) => vec![pool],
            None => vec![side(&planned.name)],
        };
        let arguments: Vec<&str> = ["server"]
            .into_iter()
            .chain(word.iter().copied())
            // The driver decides by its model which server can be spared, not by the latest check results.
            .chain(["--force"])
            .chain(group)
            .chain(entries.iter().map(String::as_str))
            .collect();
        let from = Instant::now();
        self.world.slb(&arguments)?;
        self.servers[index].set.insert(pool, set);
        self.barred(Interval { from, to: Instant::now() });
        Ok(())
    }

    /// Records in the model which servers take new flows after a change.
    fn barred(&mut self, change: Interval) {
        for server in &self.servers {
            for pool in POOLS {
                self.model.bar(&server.planned.name, pool, server.is_barred(pool), change);
            }
        }
    }

    fn remove(&mut self, index: usize) -> Result<Changed> {
        if !self.servers[index].configured || !self.can_be_spared(index) {
            return Ok(None);
        }
        let name = self.name(index);
        self.servers[index].configured = false;
        let change = self.reload()?;
        // A removed server entry loses its overrides.
        self.servers[index].set.clear();
        self.model.on_removed(&name, change);
        Ok(Some(("servers removed", format!("{name} was removed"))))
    }

    pub(super) fn add(&mut self, index: usize) -> Result<Changed> {
        if self.servers[index].configured {
            return Ok(None);
        }
        let name = self.name(index);
        let server = &mut self.servers[index];
        server.configured = true;
        server.healthy_since = Instant::now();
        server.planned.weight = 1 + self.rng.below(100) as u8;
        let change = self.reload()?;
        self.servers[index].healthy_since = change.to;
        self.model.on_added(&name, change.to);
        Ok(Some(("servers added", format!("{name} was added"))))
    }

    fn reweigh(&mut self, index: usize) -> Result<Changed> {
        let weight = if self.rng.once_in(4) { 0 } else { 1 + self.rng.below(100) as u8 };
        if !self.servers[index].configured || (weight == 0 && !self.can_be_spared(index)) {
            return Ok(None);
        }
        self.servers[index].planned.weight = weight;
        self.reload()?;
        Ok(Some(("weights configured", format!("{} was configured with weight {weight}", self.name(index)))))
    }

    fn rename(&mut self) -> Result<Changed> {
        let names = format!("-{}", self.rng.below(1_000));
        self.world.plan.names.listeners = names.clone();
        self.reload()?;
        Ok(Some(("listeners renamed", format!("listeners were renamed to ...{names}"))))
    }

    /// Reloads with the configured servers and weights.
    fn reload(&mut self) -> Result<Interval> {
        let configured = self.servers.iter().filter(|server| server.configured);
        self.world.plan.servers = configured.map(|server| server.planned.clone()).collect();
        more::add(&mut self.world.plan);
        let from = Instant::now();
        self.world.reload()?;
        let change = Interval { from, to: Instant::now() };
        self.barred(change);
        Ok(change)
    }

    /// Kills the daemon and starts it again. A server may fail or recover meanwhile.
    fn restart(&mut self, index: usize) -> Result<Changed> {
        self.model.on_daemon_down(Instant::now());
        self.world.kill()?;
        self.note("daemons killed", "the daemon was killed");
        let meanwhile = match self.rng.below(4) {
            0 => self.fail(index, Fault::Killed)?,
            1 => self.fail(index, Fault::Hangs)?,
            _ => self.heal(index)?,
        };
        if let Some((kind, words)) = meanwhile {
            self.note(kind, &words);
        }
        let pace = 1 + self.rng.below(PACE);
        self.progress(pace)?;
        self.world.start()?;
        let now = Instant::now();
        self.model.on_daemon_up(now);
        for server in self.servers.iter_mut().filter(|server| !server.serves(now)) {
            server.healthy_since = server.healthy_since.max(now);
        }
        Ok(Some(("daemons started", "the daemon is ready again".to_owned())))
    }
}
