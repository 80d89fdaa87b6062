//! Start-up, with empty maps or with those of an earlier run, which forward meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Result, bail};
use nix::time::{ClockId, clock_getres};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    Daemon,
    adoption::{REVIEW, at_most, named},
    clients::Clients,
    flush::Flushes,
    gc_schedule::GcSchedule,
    losses::Losses,
    missing_resources::MissingResources,
    observations::Observations,
    ports::{attach, links},
    probes, route_lookups, seed,
    store::Store,
    update_rate::UpdateRate,
};
use crate::{
    clock::since_start,
    dataplane::bpf::{
        maps::{self, Maps},
        pins::Pins,
    },
    devices::Record,
    health::{Failures, Paths, Supervisor, Target},
    neigh::{self, Resolver, vips::Vips},
    provoke::Provoker,
    server::{Pending, Snapshot, Sockets, Sources, loader::Loader},
};
use slb_config::model::Config;
use slb_control::{
    dataplane::state::State,
    desired::desired,
    drains::Drains,
    fill::Fill,
    memory,
    outages::Followed,
    targets::{addresses, destinations, targets},
    warm_up::{Awaited, Serving, awaited},
};

/// Time that the first probes and the kernel's next hops get before the data plane is changed. A server without a check
/// result by then receives new flows only while no server of its pool is known to be healthy.
pub(super) const FIRST_WORD: Duration = Duration::from_secs(1);
/// Longest time that the start waits for servers that replace those of the earlier run. The daemon executes no commands
/// meanwhile.
const START: Duration = Duration::from_secs(15);
/// Capacity of the queue of API requests.
const QUEUE: usize = 16;

impl Daemon {
    /// Starts, and applies `config`, which was read from `file`. The API answers from then on, or already while the
    /// start waits for servers. `record` is the record of an earlier run.
    pub(super) async fn start(
        file: PathBuf,
        config: Arc<Config>,
        pins: &Pins,
        record: Record,
    ) -> Result<Self> {
        let sockets = Sockets::bind(&config.daemon).await?;
        let links_changed = neigh::follow_links()?;
        let links = links().await?;
        let (vips, mut standings) = Vips::spawn(addresses(&config)).await?;
        let stand = standings.borrow_and_update().clone();
        let mut store = Store::open(&config.daemon.state_dir);
        let config = seed::fill_in(config, maps::seed_in_use(pins)?, store.directory())?;
        if let Some(directory) = store.directory() {
            record.keep_in(directory);
        }
        route_lookups::enable();
        let (mut reconciler, ports) = attach(&config, pins, &links, jiffies_per_second()?, &stand, record)?;
        MissingResources::of(&config.daemon, &ports.known(&links)).log();
        let mut observations = Observations::remembered(&config, reconciler.held()?, ports.attached());
        observations.set_advice(ports.advice());
        observations.set_vips(stand);
        observations.expect([&*config], BTreeMap::new(), since_start()?);

        if let Err(error) = store.carry_since(reconciler.held()?, &config) {
            tracing::error!("what is set for renamed groups is not written: {error:#}");
        }
        for ended in store.prune(&[&config]) {
            tracing::warn!("{ended}");
        }

        let (resolver, neighbours) = Resolver::spawn()?;
        resolver.watch(destinations(&config));

        let (events, verdicts) = mpsc::channel(1024);
        let paths = Paths::new(probes(&config), neighbours.clone(), resolver.doubts());
        let failures = Failures::open(store.directory());
        let mut supervisor = Supervisor::new(events.clone(), paths).keeping(failures.clone());
        supervisor.set_targets(observations.targets());

        let (asking, requests) = mpsc::channel(QUEUE);
        let snapshots = watch::Sender::new(Arc::new(Snapshot::new(config.clone())));
        let now = Instant::now();
        let loader = Loader::new(file, config.daemon.seed());
        let mut daemon = Self {
            filed: config.clone(),
            config,
            loader,
            pending_confirmation: None,
            adoption: None,
            reconciler,
            ports,
            losses: Losses::start(),
            observations,
            store,
            supervisor,
            failures,
            events,
            verdicts,
            resolver,
            neighbours,
            clients: Clients::spawn()?,
            links_changed,
            vips,
            standings,
            requests,
            asking,
            api: JoinSet::new(),
            snapshots,
            provoker: Provoker::new()?,
            next: None,
            gc_schedule: GcSchedule::new(now),
            flushes: Flushes::new(),
            fill: Fill::default(),
            update_rate: UpdateRate::default(),
            waiting: Vec::new(),
            ran: watch::Sender::new(now),
            outages: Followed::default(),
            drains: Drains::default(),
        };
        // Results that arrive in time save a second change. They also keep the first healthy server from receiving all
        // the load.
        let config = daemon.config.clone();
        daemon.listen(targets(&config), destinations(&config), FIRST_WORD).await;
        daemon.serve(sockets, pins)?;
        daemon.wait_for_successors().await?;
        if let Err(error) = daemon.sweep() {
            // The pass is retried later. What can be forwarded is forwarded meanwhile.
            tracing::error!(error = format!("{error:#}"), "flow-table pass failed; retrying");
        }
        daemon.apply_without_look()?;
        Ok(daemon)
    }

    /// Serves the API once the first snapshot is published.
    fn serve(&mut self, sockets: Sockets, pins: &Pins) -> Result<()> {
        let shown = Sources {
            snapshots: self.snapshots.subscribe(),
            view: self.ports.view(),
            losses: self.losses.counted(),
            ran: self.ran.subscribe(),
        };
        let mut first = self.snapshots.subscribe();
        let serving = sockets.serve(Maps::open(pins)?, self.loader.clone(), shown, self.asking.clone());
        self.api.spawn(async move {
            if first.changed().await.is_ok() {
                serving.await;
            }
        });
        Ok(())
    }

    /// Processes events until every target has a health and every server a next hop, or until `limit` has passed.
    async fn listen(
        &mut self,
        mut targets: BTreeSet<Target>,
        mut servers: BTreeSet<IpAddr>,
        limit: Duration,
    ) {
        let patience = Instant::now() + limit;
        // Both sets shrink to what is outstanding. With thousands of targets, not all may be checked again at each
        // event.
        targets.retain(|target| !self.observations.has_verdict_on(target));
        servers.retain(|address| !self.observations.has_way_to(address));
        while !(targets.is_empty() && servers.is_empty()) {
            tokio::select! {
                biased;
                // First: a steady stream of events must not starve the deadline.
                () = sleep_until(patience) => return,
                Some(event) = self.verdicts.recv() => {
                    targets.remove(&event.target);
                    self.observations.on_probe(event, since_start().unwrap_or_default());
                }
                Ok(()) = self.neighbours.changed() => {
                    self.learn();
                    servers.retain(|address| !self.observations.has_way_to(address));
                }
            }
        }
    }

    /// The file may have changed while no daemon ran. Waits for servers that replace healthy ones of the earlier run,
    /// while its maps still forward. Stops waiting when one of the healthy servers has failed.
    async fn wait_for_successors(&mut self) -> Result<()> {
        let held = Arc::new(self.reconciler.held()?.clone());
        let before = Serving::held(&held);
        let healthy = memory::health(&self.config, &held).into_iter().filter(|(_, verdict)| verdict.healthy);
        let healthy: Vec<Target> = healthy.map(|(target, _)| target).collect();
        let mut ends = None;
        loop {
            let desired = desired(&self.config, self.observations.known(self.store.settings()));
            let awaited = awaited(&before, &self.config, &desired);
            if awaited.is_empty() {
                return Ok(());
            }
            let now = Instant::now();
            let ends = *ends.get_or_insert_with(|| {
                let limit = at_most(&awaited).clamp(FIRST_WORD, START);
                let servers = named(&awaited).join(", ");
                tracing::info!(servers, at_most = ?limit, "start: waiting for servers that replace healthy ones");
                now + limit
            });
            if now >= ends || healthy.iter().any(|target| self.observations.is_unhealthy(target)) {
                return Ok(());
            }
            self.show_held(&held, &awaited, ends);
            self.listen(awaited.targets, awaited.servers, REVIEW.min(ends - now)).await;
        }
    }

    /// Publishes the state that the earlier run left, and what the start waits for.
    fn show_held(&self, held: &Arc<State>, awaited: &Awaited, ends: Instant) {
        let mut snapshot = Snapshot::new(self.config.clone());
        snapshot.state = Arc::clone(held);
        snapshot.running = self.running();
        snapshot.running.pending = Some(Pending { change: "start", waits_for: named(awaited), ends });
        self.snapshots.send_replace(Arc::new(snapshot));
    }
}

/// The kernel's tick rate in Hz, from the resolution of the coarse clock: it advances once per jiffy.
fn jiffies_per_second() -> Result<u32> {
    let resolution = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)?;
    let nanoseconds = u32::try_from(resolution.tv_nsec()).unwrap_or(0);
    if nanoseconds == 0 {
        bail!("the coarse clock has no resolution: {resolution}");
    }
    Ok((1_000_000_000 + nanoseconds / 2) / nanoseconds)
}
