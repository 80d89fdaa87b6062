//! The chaos driver fails and repairs servers, runs `slb server`, reloads, and kills the daemon at random. It checks
//! every flow against the model.

mod changes;
mod more;
mod state;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use slb_api::{
    client,
    types::{ApiHealth, ApiServer},
};
use tokio::runtime::{self, Runtime};

use self::{
    more::{BOTH, SIDES},
    state::{ServerOverrides, ServerState},
};
use super::model::{Bounds, FlowTotals, Model};
use crate::{
    World,
    client::{Interval, ListenerTerms, ListenerView, PATIENCE, SteadyFlows},
    config::{CHECK_INTERVAL, CHECK_TIMEOUT, Mode, PlannedServer, UNHEALTHY_THRESHOLD},
    daemon::servers,
    net::Family,
    server::Service,
    tracking::rng::Rng,
    wait::wait_for,
};

/// Detection window of these health checks, plus the time until the next probe and one second.
const BOUNDS: Bounds = Bounds {
    detection: CHECK_TIMEOUT
        .saturating_mul(UNHEALTHY_THRESHOLD)
        .saturating_add(CHECK_INTERVAL.saturating_mul(UNHEALTHY_THRESHOLD))
        .saturating_add(Duration::from_secs(1)),
    recovery: CHECK_TIMEOUT.saturating_add(CHECK_INTERVAL).saturating_add(Duration::from_secs(1)),
};
/// Services with flows; each has its own server group.
const SERVICES: [Service; 3] = [Service::Http, Service::Lines, Service::Echo];
/// The server pools: one per service, and the one with two sides. Every server is once in each of them.
const POOLS: [&str; 4] = ["http", "lines", "echo", BOTH];
/// Upper bound of the flows that begin between two changes.
const PACE: u64 = 400;
/// Log message of a failover to the secondary side.
const FAILOVER: &str = "failover: the secondary gets the traffic";
/// Changes that a failure shows.
const SHOWN: usize = 60;

/// Runs random changes in a world while flows are active.
#[derive(Debug)]
pub struct ChaosDriver<'a> {
    world: &'a mut World,
    rng: Rng,
    servers: Vec<ServerState>,
    views: Vec<ListenerView>,
    flows: SteadyFlows,
    model: Model,
    runtime: Runtime,
    begun: Instant,
    /// Log of the changes.
    done: Vec<String>,
    changes: BTreeMap<&'static str, u64>,
}

impl<'a> ChaosDriver<'a> {
    /// Adds the listeners of the chaos test to the plan.
    pub fn prepare(world: &mut World) {
        world.plan.direct = true;
        more::add(&mut world.plan);
    }

    /// Begins flows at every listener. The world must be prepared, and its daemon ready.
    ///
    /// # Errors
    /// There are too few servers to fail one of a side.
    pub fn new(world: &'a mut World, seed: u64) -> Result<Self> {
        let now = Instant::now();
        let state = |planned: &PlannedServer| ServerState {
            planned: planned.clone(),
            configured: true,
            fault: None,
            // A daemon that is ready has check results of all servers.
            healthy_since: now - BOUNDS.recovery,
            set: BTreeMap::new(),
        };
        let servers: Vec<_> = world.plan.servers.iter().map(state).collect();
        for side in SIDES {
            let of_it = servers.iter().filter(|server| more::side(&server.planned.name) == side);
            ensure!(of_it.count() > 1, "no server of the {side} side may fail");
        }
        let mut views = Vec::new();
        for family in Family::ALL {
            let view = |service, port, direct, terms| {
                let target = (family.vip(), port).into();
                ListenerView { service, target, direct, terms }
            };
            for service in SERVICES {
                let terms = ListenerTerms::of(service);
                views.push(view(service, world.plan.vip_port(service), false, terms));
                if service.protocol() == "tcp" {
                    views.push(view(service, Mode::Dsr.port(service), true, terms));
                }
            }
            views.extend(more::LISTENERS.map(|(service, port, terms)| view(service, port, false, terms)));
        }
        let mut model = Model::new(BOUNDS, servers.iter().map(|server| server.planned.name.as_str()));
        model.set_sides(more::sides());
        Ok(Self {
            rng: Rng::new(seed),
            model,
            flows: world.client().steady(&views),
            views,
            runtime: runtime::Builder::new_current_thread().enable_all().build()?,
            world,
            servers,
            begun: now,
            done: Vec::new(),
            changes: BTreeMap::new(),
        })
    }

    /// Makes changes for this time, then repairs everything. Returns the totals, and the number of changes by kind.
    ///
    /// # Errors
    /// A flow broke a rule of the model, no new flows begin, or a change was refused.
    pub fn run(mut self, length: Duration) -> Result<(FlowTotals, BTreeMap<&'static str, u64>)> {
        let all = |driver: &mut Self| {
            while driver.begun.elapsed() < length {
                driver.change()?;
                let pace = 1 + driver.rng.below(PACE);
                driver.progress(pace)?;
            }
            driver.repair_all()?;
            driver.progress(PACE)
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

    /// Waits until this many more flows have begun, and checks all reports against the model.
    fn progress(&mut self, flows: u64) -> Result<()> {
        let goal = self.model.totals().began + flows;
        wait_for("new flows", 3 * PATIENCE, || {
            self.listen()?;
            Ok((self.model.totals().began >= goal).then_some(()))
        })
    }

    /// Checks reports of flows and the counters of the data plane against the model.
    fn listen(&mut self) -> Result<()> {
        self.flows.report().for_each(|report| self.model.judge(&report));
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
        // The daemon may be down.
        let Some(status) = status.ok().flatten() else { return Ok(()) };
        let during = Interval { from, to: Instant::now() };
        for listener in status.load_balancers.iter().flat_map(|balancer| &balancer.listeners) {
            // The counters include the flows of both families.
            let address = *listener.addresses.first().context("a listener without a VIP")?;
            let target = (address, listener.port).into();
            let Some(view) = self
                .views
                .iter()
                .copied()
                .find(|view| view.target == target && view.service.protocol() == listener.protocol)
            else {
                continue;
            };
            for server in &self.servers {
                let of_it = listener
                    .servers
                    .iter()
                    .filter(|entry| server.planned.addresses.contains(&entry.address.ip()));
                let flows: Vec<_> = of_it.map(|entry| entry.counters.total_flows).collect();
                if flows.len() == server.planned.addresses.len() {
                    self.model.count(view, &server.planned.name, flows.iter().sum(), during);
                }
            }
        }
        let unserved = status.reasons.iter().filter(|counted| counted.reason == "no_server");
        self.model.count_unserved(unserved.map(|counted| counted.packets).sum(), during);
        Ok(())
    }

    /// Adds a change to the log.
    fn note(&mut self, kind: &'static str, words: &str) {
        *self.changes.entry(kind).or_default() += 1;
        self.done.push(format!("{:8.3} s: {words}", self.begun.elapsed().as_secs_f64()));
    }

    /// Repairs all servers, adds the removed ones, resets their overrides, and waits until all are healthy.
    fn repair_all(&mut self) -> Result<()> {
        for index in 0..self.servers.len() {
            self.heal(index)?;
            self.add(index)?;
            for (pool, _) in self.servers[index].set.clone() {
                self.order(index, pool, &["reset"], ServerOverrides::default())?;
            }
        }
        wait_for("every server to be found well", 3 * PATIENCE, || {
            let status = self.world.status()?;
            let is_well =
                |server: &ApiServer| matches!(server.health, ApiHealth::Healthy | ApiHealth::Standby);
            Ok(servers(&status).all(is_well).then_some(()))
        })
    }
}
