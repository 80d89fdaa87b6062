//! Somebody who fails servers, mends them, gives orders and kills the daemon, at random, and sees that every flow has a
//! server that could serve it.

mod changes;
mod more;
mod state;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use slb_userspace::api::{
    client,
    types::{Health, Server},
};
use tokio::runtime::{self, Runtime};

use self::{
    more::{BOTH, SIDES},
    state::{Set, State},
};
use super::model::{Bounds, Model, Totals};
use crate::{
    World,
    client::{Door, During, PATIENCE, Steady, Terms},
    config::{CHECK_INTERVAL, CHECK_TIMEOUT, Mode, PlannedServer, UNHEALTHY_THRESHOLD},
    daemon::servers,
    net::Family,
    server::Service,
    tracking::rng::Rng,
    wait::wait_for,
};

/// What the two words of product.md mean here, each with the time until the next probe and a second more.
const BOUNDS: Bounds = Bounds {
    detection: CHECK_TIMEOUT
        .saturating_mul(UNHEALTHY_THRESHOLD)
        .saturating_add(CHECK_INTERVAL.saturating_mul(UNHEALTHY_THRESHOLD))
        .saturating_add(Duration::from_secs(1)),
    recovery: CHECK_TIMEOUT.saturating_add(CHECK_INTERVAL).saturating_add(Duration::from_secs(1)),
};
/// Services with flows, each with a group of its own.
const SERVICES: [Service; 3] = [Service::Http, Service::Lines, Service::Echo];
/// Their groups, and those of the two sides, in each of which every server stands once.
const POOLS: [&str; 4] = ["http", "lines", "echo", BOTH];
/// Flows that begin between two changes, at most.
const PACE: u64 = 400;
/// What the daemon logs when the traffic of a listener goes to the second side.
const FAILOVER: &str = "failover: the secondary gets the traffic";
/// Changes that a failure shows.
const SHOWN: usize = 60;

/// One who cannot leave anything as it is.
#[derive(Debug)]
pub struct ChaosDriver<'a> {
    world: &'a mut World,
    rng: Rng,
    servers: Vec<State>,
    doors: Vec<Door>,
    flows: Steady,
    model: Model,
    runtime: Runtime,
    begun: Instant,
    /// What has been done, in words.
    done: Vec<String>,
    changes: BTreeMap<&'static str, u64>,
}

impl<'a> ChaosDriver<'a> {
    /// Has the plan say what is to be played with.
    pub fn prepare(world: &mut World) {
        world.plan.direct = true;
        more::add(&mut world.plan);
    }

    /// Begins flows at every door of a world that has been prepared, and whose daemon is ready.
    ///
    /// # Errors
    /// There are too few servers for some of them to fail.
    pub fn new(world: &'a mut World, seed: u64) -> Result<Self> {
        let now = Instant::now();
        let state = |planned: &PlannedServer| State {
            planned: planned.clone(),
            configured: true,
            ill: None,
            // Those of a daemon that is ready are known.
            well: now - BOUNDS.recovery,
            set: BTreeMap::new(),
        };
        let servers: Vec<_> = world.plan.servers.iter().map(state).collect();
        for side in SIDES {
            let of_it = servers.iter().filter(|server| more::side(&server.planned.name) == side);
            ensure!(of_it.count() > 1, "no server of the {side} side may fail");
        }
        let mut doors = Vec::new();
        for family in Family::ALL {
            let door = |service, port, direct, terms| {
                let target = (family.vip(), port).into();
                Door { service, target, direct, terms }
            };
            for service in SERVICES {
                let terms = Terms::of(service);
                doors.push(door(service, world.plan.vip_port(service), false, terms));
                if service.protocol() == "tcp" {
                    doors.push(door(service, Mode::Dsr.port(service), true, terms));
                }
            }
            doors.extend(more::LISTENERS.map(|(service, port, terms)| door(service, port, false, terms)));
        }
        let mut model = Model::new(BOUNDS, servers.iter().map(|server| server.planned.name.as_str()));
        model.has_sides(more::sides());
        Ok(Self {
            rng: Rng::new(seed),
            model,
            flows: world.client().steady(&doors),
            doors,
            runtime: runtime::Builder::new_current_thread().enable_all().build()?,
            world,
            servers,
            begun: now,
            done: Vec::new(),
            changes: BTreeMap::new(),
        })
    }

    /// Does so for a while, and then mends everything. Returns what has been counted, and the changes by kind.
    ///
    /// # Errors
    /// A flow did what it must not, nothing goes on, or a change was refused.
    pub fn run(mut self, length: Duration) -> Result<(Totals, BTreeMap<&'static str, u64>)> {
        let all = |wild: &mut Self| {
            while wild.begun.elapsed() < length {
                wild.change()?;
                let pace = 1 + wild.rng.below(PACE);
                wild.progress(pace)?;
            }
            wild.mend()?;
            wild.progress(PACE)
        };
        all(&mut self).with_context(|| {
            let first = self.done.len().saturating_sub(SHOWN);
            let done = self.done[first..].join("\n");
            let reasons = self.world.status_from_pins().map(|status| status.reasons);
            let (changes, totals) = (self.done.len(), self.model.totals());
            format!("{changes} changes, the last were:\n{done}\n{totals}\n{reasons:?}")
        })?;
        self.changes.insert("failovers", self.world.log().matches(FAILOVER).count() as u64);
        Ok((self.model.totals(), self.changes))
    }

    /// Waits until so many flows more have begun, and judges all.
    fn progress(&mut self, flows: u64) -> Result<()> {
        let goal = self.model.totals().began + flows;
        wait_for("new flows", 3 * PATIENCE, || {
            self.listen()?;
            Ok((self.model.totals().began >= goal).then_some(()))
        })
    }

    /// Judges what has been told of flows, and what has been counted.
    fn listen(&mut self) -> Result<()> {
        self.flows.told().for_each(|told| self.model.judge(&told));
        self.count()?;
        self.model.forget(Instant::now());
        if self.model.totals().wrong() == 0 {
            return Ok(());
        }
        let mut said = String::new();
        for wrong in self.model.wrong().iter().take(SHOWN) {
            let _ = writeln!(said, "{wrong}");
        }
        Err(anyhow::anyhow!("after {:?}:\n{said}", self.begun.elapsed()))
    }

    fn count(&mut self) -> Result<()> {
        let from = Instant::now();
        let status = self.runtime.block_on(client::status(&self.world.plan.socket));
        // It may be down.
        let Some(status) = status.ok().flatten() else { return Ok(()) };
        let during = During { from, to: Instant::now() };
        for listener in status.load_balancers.iter().flat_map(|balancer| &balancer.listeners) {
            // Its flows of both families are counted together.
            let address = *listener.addresses.first().context("a listener without a VIP")?;
            let target = (address, listener.port).into();
            let Some(door) = self
                .doors
                .iter()
                .copied()
                .find(|door| door.target == target && door.service.protocol() == listener.protocol)
            else {
                continue;
            };
            for server in &self.servers {
                let of_it = listener
                    .servers
                    .iter()
                    .filter(|entry| server.planned.addresses.contains(&entry.address.ip()));
                let flows: Vec<_> = of_it.map(|entry| entry.counters.new_flows).collect();
                if flows.len() == server.planned.addresses.len() {
                    self.model.count(door, &server.planned.name, flows.iter().sum(), during);
                }
            }
        }
        let unserved = status.reasons.iter().filter(|counted| counted.reason == "no_server");
        self.model.count_unserved(unserved.map(|counted| counted.packets).sum(), during);
        Ok(())
    }

    /// Keeps in mind what has been done.
    fn note(&mut self, kind: &'static str, words: &str) {
        *self.changes.entry(kind).or_default() += 1;
        self.done.push(format!("{:8.3} s: {words}", self.begun.elapsed().as_secs_f64()));
    }

    /// Everything is as it was.
    fn mend(&mut self) -> Result<()> {
        for index in 0..self.servers.len() {
            self.heal(index)?;
            self.add(index)?;
            for (pool, _) in self.servers[index].set.clone() {
                self.order(index, pool, &["reset"], Set::default())?;
            }
        }
        wait_for("every server to be found well", 3 * PATIENCE, || {
            let status = self.world.status()?;
            let is_well = |server: &Server| matches!(server.health, Health::Healthy | Health::Standby);
            Ok(servers(&status).all(is_well).then_some(()))
        })
    }
}
