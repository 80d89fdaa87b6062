//! Somebody who fails servers, mends them, gives orders and kills the daemon, at random, and sees that every flow has a
//! server that could serve it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use slb_userspace::api::{client, types::Health};
use tokio::runtime::{self, Runtime};

use super::model::{Bounds, Model, Totals};
use crate::{
    World,
    client::{Door, During, PATIENCE, Steady},
    config::{CHECK_INTERVAL, CHECK_TIMEOUT, Mode, PlannedServer, UNHEALTHY_THRESHOLD},
    net::Family,
    server::Service,
    tracking::dice::Dice,
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
/// Servers that stay able to serve whatever happens to the others.
const SPARE: usize = 2;
/// Flows that begin between two changes, at most.
const PACE: u64 = 400;
/// Changes that a failure shows.
const SHOWN: usize = 60;

/// Why a server does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ill {
    /// Its processes have died.
    Killed,
    /// It hangs.
    Hangs,
}

/// What is set for a server in one group.
#[derive(Debug, Clone, Copy, Default)]
struct Set {
    weight: Option<u8>,
    aside: bool,
}

/// What is the matter with a server.
#[derive(Debug)]
struct State {
    planned: PlannedServer,
    configured: bool,
    ill: Option<Ill>,
    /// Since when nothing has been the matter that must be found out.
    well: Instant,
    set: BTreeMap<Service, Set>,
}

impl State {
    fn is_barred(&self, service: Service) -> bool {
        let set = self.set.get(&service).copied().unwrap_or_default();
        !self.configured || set.aside || set.weight.unwrap_or(self.planned.weight) == 0
    }

    /// Whether it can take what other servers cannot.
    fn serves(&self, now: Instant) -> bool {
        let known = self.ill.is_none() && self.well + BOUNDS.recovery < now;
        known && SERVICES.iter().all(|service| !self.is_barred(*service))
    }
}

/// One who cannot leave anything as it is.
#[derive(Debug)]
pub struct Wild<'a> {
    world: &'a mut World,
    dice: Dice,
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

impl<'a> Wild<'a> {
    /// Begins flows at every door of a world whose daemon is ready.
    ///
    /// # Errors
    /// There are too few servers for some of them to fail.
    pub fn new(world: &'a mut World, seed: u64) -> Result<Self> {
        ensure!(world.plan.servers.len() > SPARE, "no server may fail");
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
        let mut doors = Vec::new();
        for family in Family::ALL {
            for service in SERVICES {
                doors.push(Door { service, target: world.vip(family, service), direct: false });
                if world.plan.direct && service.protocol() == "tcp" {
                    let target = (family.vip(), Mode::Dsr.port(service)).into();
                    doors.push(Door { service, target, direct: true });
                }
            }
        }
        Ok(Self {
            dice: Dice::new(seed),
            model: Model::new(BOUNDS, servers.iter().map(|server| server.planned.name.as_str())),
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
                let pace = 1 + wild.dice.below(PACE);
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

    /// One change, if what the dice say is possible.
    fn change(&mut self) -> Result<()> {
        let index = self.dice.below(self.servers.len() as u64) as usize;
        let what = self.dice.below(24);
        let changed = match what {
            0 => self.fail(index, Ill::Killed)?,
            1 => self.fail(index, Ill::Hangs)?,
            2..=5 => self.heal(index)?,
            6..=9 => self.set_aside(index)?,
            10..=13 => self.set_back(index)?,
            14..=16 => self.weigh(index)?,
            17 => self.remove(index)?,
            18..=19 => self.add(index)?,
            20..=21 => self.reweigh(index)?,
            22 => self.rename()?,
            _ => self.restart(index)?,
        };
        if let Some((kind, words)) = changed {
            self.note(kind, &words);
        }
        Ok(())
    }

    fn note(&mut self, kind: &'static str, words: &str) {
        *self.changes.entry(kind).or_default() += 1;
        self.done.push(format!("{:8.3} s: {words}", self.begun.elapsed().as_secs_f64()));
    }

    /// Whether enough servers serve without this one.
    fn can_be_spared(&self, index: usize) -> bool {
        let now = Instant::now();
        let others = self.servers.iter().enumerate().filter(|(other, _)| *other != index);
        others.filter(|(_, server)| server.serves(now)).count() >= SPARE
    }

    fn name(&self, index: usize) -> String {
        self.servers[index].planned.name.clone()
    }

    fn fail(&mut self, index: usize, ill: Ill) -> Result<Changed> {
        if self.servers[index].ill.is_some() || !self.can_be_spared(index) {
            return Ok(None);
        }
        let name = self.name(index);
        self.model.fails(&name, Instant::now());
        self.servers[index].ill = Some(ill);
        match ill {
            Ill::Killed => self.world.kill_servers(index),
            Ill::Hangs => self.world.net.backends[index].hang()?,
        }
        Ok(Some(match ill {
            Ill::Killed => ("servers killed", format!("{name} was killed")),
            Ill::Hangs => ("servers hung", format!("{name} hangs")),
        }))
    }

    fn heal(&mut self, index: usize) -> Result<Changed> {
        let Some(ill) = self.servers[index].ill.take() else { return Ok(None) };
        match ill {
            Ill::Killed => self.world.start_servers(index)?,
            Ill::Hangs => self.world.net.backends[index].recover()?,
        }
        let now = Instant::now();
        self.servers[index].well = now;
        let name = self.name(index);
        self.model.is_well(&name, now);
        Ok(Some(("servers mended", format!("{name} is well again"))))
    }

    /// Takes a server out of one group, or of all.
    fn set_aside(&mut self, index: usize) -> Result<Changed> {
        if !self.servers[index].configured || !self.can_be_spared(index) {
            return Ok(None);
        }
        let (word, set) = match self.dice.below(3) {
            0 => (&["drain"][..], Set { aside: true, weight: None }),
            1 => (&["disable"][..], Set { aside: true, weight: None }),
            _ => (&["set", "--weight", "0"][..], Set { aside: false, weight: Some(0) }),
        };
        for service in self.some_services() {
            let mut now = self.servers[index].set.get(&service).copied().unwrap_or_default();
            now.aside |= set.aside;
            now.weight = set.weight.or(now.weight);
            self.order(index, service, word, now)?;
        }
        Ok(Some(("servers taken out by order", format!("{} was told {word:?}", self.name(index)))))
    }

    /// Takes back what was set for a server.
    fn set_back(&mut self, index: usize) -> Result<Changed> {
        if !self.servers[index].configured {
            return Ok(None);
        }
        let mut words = Vec::new();
        for (service, set) in self.servers[index].set.clone() {
            let (word, now) = if self.dice.once_in(2) {
                ("reset", Set::default())
            } else {
                ("enable", Set { aside: false, ..set })
            };
            if now.weight.unwrap_or(self.servers[index].planned.weight) == 0 && !self.can_be_spared(index) {
                continue;
            }
            self.order(index, service, &[word], now)?;
            words.push(word);
        }
        let name = self.name(index);
        Ok((!words.is_empty()).then(|| ("orders taken back", format!("{name} was told {words:?}"))))
    }

    fn weigh(&mut self, index: usize) -> Result<Changed> {
        if !self.servers[index].configured {
            return Ok(None);
        }
        let weight = 1 + self.dice.below(100) as u8;
        for service in self.some_services() {
            let before = self.servers[index].set.get(&service).copied().unwrap_or_default();
            let set = Set { weight: Some(weight), ..before };
            self.order(index, service, &["set", "--weight", &weight.to_string()], set)?;
        }
        Ok(Some(("weights set by order", format!("{} was told weight {weight}", self.name(index)))))
    }

    fn some_services(&mut self) -> Vec<Service> {
        if self.dice.once_in(2) {
            return SERVICES.to_vec();
        }
        self.dice.one_of(&SERVICES).into_iter().collect()
    }

    /// `slb server`, for all addresses of a server in one group.
    fn order(&mut self, index: usize, service: Service, word: &[&str], set: Set) -> Result<()> {
        let addresses = &self.servers[index].planned.addresses;
        let at = |address| (address, service.backend_port()).into();
        let entries: Vec<String> = if service == Service::Lines {
            addresses.iter().map(ToString::to_string).collect()
        } else {
            addresses.iter().map(|address| std::net::SocketAddr::to_string(&at(*address))).collect()
        };
        let group = if service == Service::Lines {
            vec!["--default-group", self.world.plan.names.load_balancer.as_str()]
        } else {
            vec![service.name()]
        };
        let arguments: Vec<&str> = ["server"]
            .into_iter()
            .chain(word.iter().copied())
            .chain(group)
            .chain(entries.iter().map(String::as_str))
            .collect();
        let from = Instant::now();
        self.world.slb(&arguments)?;
        self.servers[index].set.insert(service, set);
        self.barred(During { from, to: Instant::now() });
        Ok(())
    }

    /// Tells the model who gets new flows since a change.
    fn barred(&mut self, change: During) {
        for server in &self.servers {
            for service in SERVICES {
                self.model.bar(&server.planned.name, service, server.is_barred(service), change);
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
        // What is set for an entry goes with it.
        self.servers[index].set.clear();
        self.model.is_removed(&name, change);
        Ok(Some(("servers removed", format!("{name} was removed"))))
    }

    fn add(&mut self, index: usize) -> Result<Changed> {
        if self.servers[index].configured {
            return Ok(None);
        }
        let name = self.name(index);
        let server = &mut self.servers[index];
        server.configured = true;
        server.well = Instant::now();
        server.planned.weight = 1 + self.dice.below(100) as u8;
        let change = self.reload()?;
        self.servers[index].well = change.to;
        self.model.is_back(&name, change.to);
        Ok(Some(("servers added", format!("{name} was added"))))
    }

    fn reweigh(&mut self, index: usize) -> Result<Changed> {
        let weight = if self.dice.once_in(4) { 0 } else { 1 + self.dice.below(100) as u8 };
        if !self.servers[index].configured || (weight == 0 && !self.can_be_spared(index)) {
            return Ok(None);
        }
        self.servers[index].planned.weight = weight;
        self.reload()?;
        Ok(Some(("weights configured", format!("{} was configured with weight {weight}", self.name(index)))))
    }

    fn rename(&mut self) -> Result<Changed> {
        let names = format!("-{}", self.dice.below(1_000));
        self.world.plan.names.listeners = names.clone();
        self.reload()?;
        Ok(Some(("listeners renamed", format!("listeners were renamed to ...{names}"))))
    }

    /// Has the daemon read who is configured with which weight.
    fn reload(&mut self) -> Result<During> {
        let configured = self.servers.iter().filter(|server| server.configured);
        self.world.plan.servers = configured.map(|server| server.planned.clone()).collect();
        let from = Instant::now();
        self.world.reload()?;
        let change = During { from, to: Instant::now() };
        self.barred(change);
        Ok(change)
    }

    /// Kills the daemon; a server may fail or be mended while it is down.
    fn restart(&mut self, index: usize) -> Result<Changed> {
        self.model.goes_down(Instant::now());
        self.world.kill()?;
        self.note("daemons killed", "the daemon was killed");
        let meanwhile = match self.dice.below(4) {
            0 => self.fail(index, Ill::Killed)?,
            1 => self.fail(index, Ill::Hangs)?,
            _ => self.heal(index)?,
        };
        if let Some((kind, words)) = meanwhile {
            self.note(kind, &words);
        }
        let pace = 1 + self.dice.below(PACE);
        self.progress(pace)?;
        self.world.start()?;
        let now = Instant::now();
        self.model.is_up(now);
        for server in self.servers.iter_mut().filter(|server| !server.serves(now)) {
            server.well = server.well.max(now);
        }
        Ok(Some(("daemons started", "the daemon is ready again".to_owned())))
    }

    /// Everything is as it was.
    fn mend(&mut self) -> Result<()> {
        for index in 0..self.servers.len() {
            self.heal(index)?;
            self.add(index)?;
            for (service, _) in self.servers[index].set.clone() {
                self.order(index, service, &["reset"], Set::default())?;
            }
        }
        for index in 0..self.servers.len() {
            self.world.wait_for_health(index, Health::Healthy)?;
        }
        Ok(())
    }
}

/// The kind of change and what was done, unless it was not possible.
type Changed = Option<(&'static str, String)>;
