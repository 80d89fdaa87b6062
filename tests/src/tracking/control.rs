//! The control side: turns configuration and health into operations on the maps, also after a restart.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use slb_common::abi::{
    MacPair,
    backend::NextHop,
    interface::{CLIENT, InterfaceProperties, SERVER},
};
use slb_config as config;
use slb_control::{
    desired::{ObservedInputs, desired},
    gc_job::GcJob,
    ids::MapLimits,
    model::{Health, HealthVerdict, ServerRoute},
    reconcile::Reconciler,
    targets::{destinations, targets},
};
use slb_userspace::dataplane::interfaces::Interfaces;

use super::{
    plane::HostPlane,
    servers::{ModelServers, SERVERS, Setting, address, server_mac},
};
use crate::packets::world::OWN_MAC;

/// Jiffies per second.
pub const HZ: u32 = 250;
/// The interface of the clients.
pub const NEAR: u32 = 1;
/// The interface of the servers.
pub const FAR: u32 = 2;

/// Both interfaces, with the MAC to which frames are sent.
pub fn interfaces() -> Interfaces {
    let mut interfaces = Interfaces::default();
    for ifindex in [NEAR, FAR] {
        let properties = InterfaceProperties {
            ifindex,
            group: ifindex,
            mac: OWN_MAC,
            flags: CLIENT | SERVER,
            ..InterfaceProperties::default()
        };
        interfaces.insert(properties, &BTreeSet::new()).expect("indexes differ in their low bits");
    }
    interfaces
}

/// A daemon.
pub struct ControlPlane {
    reconciler: Reconciler<HostPlane>,
    plane: HostPlane,
    /// The GC pass that runs.
    job: Option<GcJob>,
    next_hops: BTreeMap<IpAddr, Result<ServerRoute, String>>,
    /// When the next change is due without any new input.
    next: Option<Duration>,
}

impl ControlPlane {
    /// A new daemon over the existing state. It begins with a GC pass.
    pub fn start(plane: &HostPlane, now: Duration) -> Self {
        let limits = MapLimits { interfaces: BTreeSet::from([NEAR, FAR]), hz: HZ, max_backends: 64 };
        let reached = |n| {
            let macs = MacPair::new(server_mac(n), [2, 0, 0, 0, 1, 0]);
            Ok(ServerRoute { hop: NextHop { ifindex: FAR, mtu: 1500, macs }, through_gateway: false })
        };
        let mut started = Self {
            reconciler: Reconciler::new(plane.clone(), limits),
            plane: plane.clone(),
            job: None,
            next_hops: (0..SERVERS).map(|n| (address(n).ip(), reached(n))).collect(),
            next: None,
        };
        started.gc_pass(now);
        started
    }

    /// Computes the changes. The plane carries them out later, operation by operation.
    pub fn reconcile(&mut self, setting: &Setting, servers: &ModelServers, now: Duration) {
        let text = setting.text(servers);
        let config =
            config::parse("test.toml", &text).unwrap_or_else(|rejected| panic!("{rejected}\n{text}")).config;
        let mut health = BTreeMap::new();
        for target in targets(&config) {
            let n = (0..SERVERS).find(|n| address(*n).ip() == target.address.ip());
            if let Some(healthy) = servers[n.expect("a server of ours")].healthy {
                health.insert(target, HealthVerdict { health: Health::of(healthy), detail: None });
            }
        }
        debug_assert_eq!(destinations(&config).len(), servers.iter().filter(|server| server.exists).count());
        let known = ObservedInputs {
            health: Some(&health),
            next_hops: Some(&self.next_hops),
            ..ObservedInputs::default()
        };
        let active = self.reconciler.reconcile(&desired(&config, known), now);
        self.next = active.expect("the maps have room").next;
    }

    /// Begins a GC pass, which takes time: changes of the data plane may come before [`Self::gc_pass`] ends it.
    pub fn begin_gc(&mut self, now: Duration) {
        if self.job.is_none() {
            self.job = Some(self.reconciler.begin_gc(now, BTreeSet::new()).expect("the maps can be read"));
        }
    }

    /// Ends the GC pass that runs, if there is one, and makes another one. Returns the number of slots that are still
    /// migrating.
    pub fn gc_pass(&mut self, now: Duration) -> usize {
        if self.job.is_some() {
            self.end_gc(now);
        }
        self.begin_gc(now);
        self.end_gc(now)
    }

    fn end_gc(&mut self, now: Duration) -> usize {
        let job = self.job.take().expect("a pass runs");
        let found = job.run(&mut self.plane, &mut || {}).expect("the tables can be read");
        let (_, mut migrations) =
            self.reconciler.process_findings(found, now).expect("the tables can be written");
        while self.reconciler.end_migrations(&mut migrations).expect("the tables can be written") {}
        self.reconciler.migrating_slots()
    }

    /// Whether a change is due without any new input.
    pub fn is_due(&self, now: Duration) -> bool {
        self.next.is_some_and(|next| next <= now)
    }
}
