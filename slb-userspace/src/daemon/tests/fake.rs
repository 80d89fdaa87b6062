//! An environment without a kernel: every server is reached, and healthy as soon as it is checked, unless a test says
//! otherwise. The GC thread's jobs run at once, or when the test lets them.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use slb_control::{
    dataplane::{FlowTableAccess as _, fake::FakeDataPlane},
    gc_job::GcJob,
    inputs::{NextHop, Resolution, VipState},
};
use tokio::{sync::mpsc, time::Instant};

use super::super::{
    environment::{Environment, Event, Interfaces, Links, PollResult},
    gc_schedule::PassCost,
    gc_thread::{Finished, Job},
};
use crate::{
    announce::Wanted,
    devices::VlanExit,
    health::{Health, Target, TargetEvent, TargetUpdate, path::ProbeSettings},
    neigh::{Link, vips::VipStates},
};
use slb_config::model::InterfaceRole;

/// Time since boot at which each test begins.
const BOOT: Duration = Duration::from_secs(1000);

/// The data plane of a test, which outlives the event loops.
pub(super) type Plane = Rc<RefCell<FakeDataPlane>>;

/// What a test says about the world, and sees of it.
#[derive(Default)]
pub(super) struct FakeHost {
    /// Servers whose checks have no result yet.
    pub(super) silent: BTreeSet<IpAddr>,
    /// Why no interface takes the program, if so.
    pub(super) refusal: Option<String>,
    /// Whether GC passes do not end before [`finish_gc`].
    pub(super) holds_gc: bool,
    /// The pass that has not ended.
    pub(super) held_gc: Option<GcJob>,
    /// Whether GC passes fail.
    pub(super) fails_gc: bool,
    /// Interfaces that run the program.
    pub(super) attached: BTreeSet<String>,
    /// Which interfaces are VLAN devices, by index.
    pub(super) vlan_devices: BTreeMap<u32, VlanExit>,
    /// The targets of health checks.
    pub(super) targets: BTreeSet<Target>,
    /// Number of GC passes that have begun.
    pub(super) gc_passes: usize,
    /// Sources and IP protocols of tunnel packets.
    pub(super) tunnels: BTreeSet<(IpAddr, u8)>,
    /// What is announced.
    pub(super) announced: Wanted,
}

/// The environment of one event loop.
pub(super) struct FakeEnvironment {
    interfaces: FakeInterfaces,
    plane: Plane,
    events: mpsc::UnboundedReceiver<Event>,
    sender: mpsc::UnboundedSender<Event>,
    begun: Instant,
}

/// Interfaces that take the program unless the test refuses.
pub(super) struct FakeInterfaces(Rc<RefCell<FakeHost>>);

impl FakeEnvironment {
    /// Returns also the channel by which a test sends events.
    pub(super) fn new(
        plane: &Plane,
        host: &Rc<RefCell<FakeHost>>,
        begun: Instant,
    ) -> (Self, mpsc::UnboundedSender<Event>) {
        let (sender, events) = mpsc::unbounded_channel();
        let interfaces = FakeInterfaces(host.clone());
        (Self { interfaces, plane: plane.clone(), events, sender: sender.clone(), begun }, sender)
    }

    fn send(&self, event: Event) {
        self.sender.send(event).expect("the event loop has not ended");
    }
}

/// Runs a GC pass.
pub(super) fn finish_gc(job: GcJob, plane: &Plane) -> Finished {
    let cost = PassCost { begun: Instant::now(), took: Duration::ZERO, processor: Duration::ZERO };
    Finished::Pass(job.run(&mut plane.clone(), &mut || {}).map(|found| (Box::new(found), cost)))
}

/// The result of a health check.
pub(super) fn probe(target: &Target, healthy: bool) -> Event {
    let news = if healthy {
        TargetUpdate::Healthy
    } else {
        TargetUpdate::Unhealthy("connection refused".to_owned())
    };
    Event::Probe(Box::new(TargetEvent { target: target.clone(), news }))
}

impl Environment for FakeEnvironment {
    type Plane = Plane;
    type Interfaces = FakeInterfaces;

    fn since_boot(&self) -> Result<Duration> {
        Ok(BOOT + self.begun.elapsed())
    }

    async fn next_event(&mut self) -> Result<Event> {
        self.events.recv().await.context("the test has ended")
    }

    async fn links(&self) -> Result<Links> {
        Ok(["eth0", "eth1"]
            .into_iter()
            .zip(1..)
            .map(|(name, at)| (name.to_owned(), Link::sample(at, name)))
            .collect())
    }

    async fn read_vips(&self, vips: &BTreeSet<IpAddr>) -> Result<VipStates> {
        Ok(Arc::new(vips.iter().map(|vip| (*vip, VipState::default())).collect()))
    }

    fn interfaces(&self) -> &FakeInterfaces {
        &self.interfaces
    }

    fn interfaces_mut(&mut self) -> &mut FakeInterfaces {
        &mut self.interfaces
    }

    fn set_targets(&mut self, targets: BTreeMap<Target, Option<Health>>) {
        let mut world = self.interfaces.0.borrow_mut();
        let new = targets.keys().filter(|target| !world.targets.contains(target));
        for target in new.filter(|target| !world.silent.contains(&target.address.ip())) {
            self.send(probe(target, true));
        }
        world.targets = targets.into_keys().collect();
    }

    fn restart_probes(&mut self, _: ProbeSettings) {}

    fn watch_servers(&self, destinations: BTreeSet<IpAddr>) {
        let hop = |address: &IpAddr| NextHop {
            interface_index: 1,
            interface: "eth0".to_owned(),
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: match address {
                IpAddr::V4(address) => [2, 0, 0, 0, 1, address.octets()[3]],
                IpAddr::V6(address) => [2, 0, 0, 0, 2, address.octets()[15]],
            },
            mtu: 1500,
            through_gateway: false,
        };
        let hops = destinations.iter().map(|address| (*address, Resolution::Resolved(hop(address))));
        self.send(Event::NextHops(Arc::new(hops.collect())));
    }

    fn follow_tunnels(&self, tunnels: BTreeSet<(IpAddr, u8)>) {
        self.interfaces.0.borrow_mut().tunnels = tunnels;
    }

    fn watch_clients(&self, _: BTreeSet<IpAddr>) {}

    fn watch_vips(&self, _: BTreeSet<IpAddr>) {}

    fn announce(&self, wanted: Wanted) {
        self.interfaces.0.borrow_mut().announced = wanted;
    }

    async fn end_announcements(&mut self) {
        self.announce(Wanted::default());
    }

    fn start_gc(&self, job: Job) {
        let mut plane = self.plane.clone();
        let finished = match job {
            Job::Pass(job) => {
                let mut world = self.interfaces.0.borrow_mut();
                world.gc_passes += 1;
                if world.holds_gc {
                    world.held_gc = Some(job);
                    return;
                }
                if world.fails_gc {
                    Finished::Pass(Err(anyhow!("the clock cannot be read")))
                } else {
                    finish_gc(job, &plane)
                }
            }
            Job::Flush { choice, erases, hz } => {
                Finished::Flush(plane.flush(erases, hz, &mut |entry| choice.matches(entry)))
            }
            Job::UpdateClientPaths(changes) => Finished::UpdateClientPaths(
                plane.update_client_paths(&|client, path| changes.to(client, path)),
            ),
        };
        self.send(Event::GcFinished(finished));
    }

    fn hurry_gc(&self) {}

    fn poll(&mut self) -> PollResult {
        PollResult::default()
    }
}

impl Interfaces for FakeInterfaces {
    fn known(&self, links: &Links) -> Links {
        links.clone()
    }

    fn attached_without(&self, without: &[String]) -> BTreeMap<u32, String> {
        let names = ["eth0", "eth1"].map(str::to_owned);
        let all = (1..).zip(names).filter(|(_, name)| self.0.borrow().attached.contains(name));
        all.filter(|(_, name)| !without.contains(name)).collect()
    }

    fn attached_names(&self) -> BTreeSet<String> {
        self.0.borrow().attached.clone()
    }

    fn exits(&self, without: &[String]) -> BTreeSet<u32> {
        self.attached_without(without).into_keys().collect()
    }

    fn refused(&self) -> BTreeMap<u32, String> {
        BTreeMap::new()
    }

    fn absent(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }

    fn advice(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    fn vlans(&self, without: &[String]) -> BTreeMap<u32, VlanExit> {
        let attached = self.attached_without(without);
        let mut devices = self.0.borrow().vlan_devices.clone();
        devices.retain(|index, exit| attached.contains_key(&exit.below) && !attached.contains_key(index));
        devices
    }

    fn has_refused(&self) -> bool {
        false
    }

    fn pins_trouble(&self) -> Option<&str> {
        None
    }

    fn add(&mut self, names: &[String], _: &Links) -> Result<()> {
        let mut world = self.0.borrow_mut();
        if let Some(why) = &world.refusal {
            bail!("{why}");
        }
        world.attached.extend(names.iter().cloned());
        Ok(())
    }

    fn restore(&mut self, names: &[String], _: &Links) -> BTreeSet<u32> {
        self.0.borrow_mut().attached.extend(names.iter().cloned());
        BTreeSet::new()
    }

    fn remove(&mut self, names: &[String]) {
        self.0.borrow_mut().attached.retain(|name| !names.contains(name));
    }

    fn add_roles(&mut self, _: &[String], _: &BTreeMap<String, InterfaceRole>) {}

    fn set_roles(&mut self, _: BTreeMap<String, InterfaceRole>) {}

    fn note_addresses(&mut self, _: &Links) {}

    fn follow(&mut self, _: &Links) -> Option<BTreeSet<u32>> {
        None
    }

    fn persist_record_in(&self, _: &Path) {}
}
