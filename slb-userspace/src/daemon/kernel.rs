//! The event loop's environment in production: the kernel of this host.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::sync::{mpsc, watch};

use super::{
    environment::{Environment, Event, Links, PollResult},
    gc_thread::{GcThread, Job},
    losses::Losses,
    ports::{Ports, links},
};
use crate::{
    announce::{Announcer, Wanted},
    clock::since_boot,
    dataplane::bpf::maps::Maps,
    health::{Failures, Health, ProbePaths, Supervisor, Target, TargetEvent, path::ProbeSettings},
    neigh::{
        LinkChange, Resolutions, Resolver,
        vips::{self, VipStates, VipWatcher},
    },
};

/// Capacity of the queue of probe results.
const PROBE_RESULTS: usize = 1024;

/// The kernel of this host. Dropping it stops probes, subscriptions and, after its job, the GC thread.
pub(super) struct Kernel {
    pub(super) ports: Ports,
    pub(super) losses: Losses,
    supervisor: Supervisor,
    /// Failures of health checks, kept across restarts.
    failures: Failures,
    /// Sender that probes report their events to.
    probe_results: mpsc::Sender<TargetEvent>,
    probe_events: mpsc::Receiver<TargetEvent>,
    resolver: Resolver,
    next_hops: watch::Receiver<Resolutions>,
    client_resolver: Resolver,
    client_next_hops: watch::Receiver<Resolutions>,
    links_changed: watch::Receiver<LinkChange>,
    vip_watcher: VipWatcher,
    vip_states: watch::Receiver<VipStates>,
    gc_thread: GcThread,
    pub(super) announcer: Announcer,
}

/// Notifications of the kernel that are subscribed to before its state is first read.
pub(super) struct Subscriptions {
    pub(super) links_changed: watch::Receiver<LinkChange>,
    pub(super) vip_watcher: VipWatcher,
    pub(super) vip_states: watch::Receiver<VipStates>,
}

impl Kernel {
    /// Starts probing with these settings and asks for next hops, of no target and no server yet.
    ///
    /// # Errors
    /// The kernel refuses a subscription.
    pub(super) fn new(
        ports: Ports,
        subscriptions: Subscriptions,
        probes: ProbeSettings,
        failures: Failures,
        gc_thread: GcThread,
        announcer: Announcer,
    ) -> Result<Self> {
        let Subscriptions { links_changed, vip_watcher, vip_states } = subscriptions;
        let (resolver, next_hops) = Resolver::spawn()?;
        let (client_resolver, client_next_hops) = Resolver::spawn()?;
        let (probe_results, probe_events) = mpsc::channel(PROBE_RESULTS);
        let paths = ProbePaths::new(probes, next_hops.clone(), resolver.doubts());
        let supervisor = Supervisor::new(probe_results.clone(), paths).with_failures(failures.clone());
        Ok(Self {
            ports,
            losses: Losses::start(),
            supervisor,
            failures,
            probe_results,
            probe_events,
            resolver,
            next_hops,
            client_resolver,
            client_next_hops,
            links_changed,
            vip_watcher,
            vip_states,
            gc_thread,
            announcer,
        })
    }
}

impl Environment for Kernel {
    type Plane = Maps;
    type Interfaces = Ports;

    fn since_boot(&self) -> Result<Duration> {
        since_boot()
    }

    async fn next_event(&mut self) -> Result<Event> {
        Ok(tokio::select! {
            Some(event) = self.probe_events.recv() => Event::Probe(event.into()),
            changed = self.next_hops.changed() => {
                changed.context("neighbours are no longer monitored")?;
                Event::NextHops(self.next_hops.borrow_and_update().clone())
            }
            changed = self.client_next_hops.changed() => {
                changed.context("client paths are no longer monitored")?;
                Event::ClientNextHops(self.client_next_hops.borrow_and_update().clone())
            }
            changed = self.vip_states.changed() => {
                changed.context("VIPs are no longer monitored")?;
                Event::Vips(self.vip_states.borrow_and_update().clone())
            }
            changed = self.links_changed.changed() => {
                changed.context("interfaces are no longer monitored")?;
                Event::Links(*self.links_changed.borrow_and_update())
            }
            finished = self.gc_thread.finished() => Event::GcFinished(finished?),
        })
    }

    async fn links(&self) -> Result<Links> {
        links().await
    }

    async fn read_vips(&self, vips: &BTreeSet<IpAddr>) -> Result<VipStates> {
        Ok(Arc::new(vips::read(vips).await?))
    }

    fn interfaces(&self) -> &Ports {
        &self.ports
    }

    fn interfaces_mut(&mut self) -> &mut Ports {
        &mut self.ports
    }

    fn set_targets(&mut self, targets: BTreeMap<Target, Option<Health>>) {
        self.supervisor.set_targets(targets);
    }

    fn restart_probes(&mut self, settings: ProbeSettings) {
        let paths = ProbePaths::new(settings, self.next_hops.clone(), self.resolver.doubts());
        self.supervisor =
            Supervisor::new(self.probe_results.clone(), paths).with_failures(self.failures.clone());
    }

    fn watch_servers(&self, destinations: BTreeSet<IpAddr>) {
        self.resolver.watch(destinations);
    }

    fn follow_tunnels(&self, tunnels: BTreeSet<(IpAddr, u8)>) {
        self.resolver.follow_tunnels(tunnels);
    }

    fn watch_clients(&self, samples: BTreeSet<IpAddr>) {
        tracing::debug!(?samples, "client paths are monitored");
        self.client_resolver.watch(samples);
    }

    fn watch_vips(&self, vips: BTreeSet<IpAddr>) {
        self.vip_watcher.watch(vips);
    }

    fn announce(&self, wanted: Wanted) {
        self.announcer.announce(wanted);
    }

    async fn end_announcements(&mut self) {
        self.announcer.end().await;
    }

    fn start_gc(&self, job: Job) {
        self.gc_thread.start(job);
    }

    fn hurry_gc(&self) {
        self.gc_thread.hurry();
    }

    fn poll(&mut self) -> PollResult {
        let view = self.ports.view().borrow().clone();
        self.losses.poll(&view.held);
        self.ports.watch()
    }
}
