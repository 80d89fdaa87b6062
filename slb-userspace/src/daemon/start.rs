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
    clients::ClientResolver,
    flush::FlushQueue,
    gc_schedule::GcSchedule,
    gc_thread::GcThread,
    losses::Losses,
    missing_resources::MissingResources,
    observations::Observations,
    ports::{attach, links},
    probes,
    reconfiguration::{FIRST_WAIT, REVIEW_INTERVAL, at_most, named},
    route_lookups, seed,
    store::Store,
    update_rate::UpdateRate,
};
use crate::{
    clock::since_start,
    dataplane::bpf::{flow_table::PinnedFlowTable, maps::Maps, pins::Pins, seeds},
    devices::InterfaceRecord,
    health::{Failures, ProbePaths, Supervisor, Target},
    neigh::{self, Resolver, vips::VipWatcher},
    provoke::Provoker,
    server::{PendingChange, Snapshot, Sockets, StatusSources, loader::Loader},
};
use slb_config::model::Config;
use slb_control::{
    dataplane::state::MapState,
    desired::desired,
    drain_events::DrainTracker,
    fill_level::FillLevel,
    inherited_state,
    outages::OutageTracker,
    targets::{addresses, destinations, targets},
    warm_up::{HealthyWeights, WarmUp, warm_up},
};

/// Longest time that the start waits for servers that replace those of the earlier run. The daemon executes no commands
/// meanwhile.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// Capacity of the queue of API requests.
const REQUEST_QUEUE: usize = 16;

impl Daemon {
    /// Starts, and applies `config`, which was read from `file`. The API answers from then on, or already while the
    /// start waits for servers. `record` is the record of an earlier run.
    pub(super) async fn start(
        file: PathBuf,
        config: Arc<Config>,
        pins: &Pins,
        record: InterfaceRecord,
    ) -> Result<Self> {
        let sockets = Sockets::bind(&config.daemon).await?;
        let links_changed = neigh::follow_links()?;
        let links = links().await?;
        let (vips, mut vip_states) = VipWatcher::spawn(addresses(&config)).await?;
        let stand = vip_states.borrow_and_update().clone();
        let mut store = Store::open(&config.daemon.state_dir);
        let config = seed::fill_in(config, seeds::seed_in_use(pins)?, store.directory())?;
        if let Some(directory) = store.directory() {
            record.persist_in(directory);
        }
        route_lookups::enable();
        let (mut reconciler, ports) = attach(&config, pins, &links, jiffies_per_second()?, &stand, record)?;
        MissingResources::of(&config.daemon, &ports.known(&links)).log();
        let mut observations = Observations::restored(&config, reconciler.actual()?, ports.attached());
        observations.set_advice(ports.advice());
        observations.set_vips(stand);
        observations.expect([&*config], BTreeMap::new(), since_start()?);

        for ended in store.prune(&[&config], &config) {
            tracing::warn!("{ended}");
        }

        let (resolver, neighbours) = Resolver::spawn()?;
        resolver.watch(destinations(&config));

        let (events, probe_events) = mpsc::channel(1024);
        let paths = ProbePaths::new(probes(&config), neighbours.clone(), resolver.doubts());
        let failures = Failures::open(store.directory());
        let mut supervisor = Supervisor::new(events.clone(), paths).with_failures(failures.clone());
        supervisor.set_targets(observations.targets());

        let (request_sender, requests) = mpsc::channel(REQUEST_QUEUE);
        let snapshots = watch::Sender::new(Arc::new(Snapshot::new(config.clone())));
        let now = Instant::now();
        let loader = Loader::new(file, config.daemon.seed());
        let mut daemon = Self {
            file_config: config.clone(),
            config,
            loader,
            pending_confirmation: None,
            reconfiguration: None,
            reconciler,
            ports,
            losses: Losses::start(),
            observations,
            store,
            supervisor,
            failures,
            events,
            probe_events,
            resolver,
            neighbours,
            clients: ClientResolver::spawn()?,
            links_changed,
            vips,
            vip_states,
            requests,
            request_sender,
            api: JoinSet::new(),
            snapshots,
            gc_thread: GcThread::spawn(PinnedFlowTable::open(pins)?, Provoker::new()?)?,
            next: None,
            gc_schedule: GcSchedule::new(now),
            flushes: FlushQueue::default(),
            fill: FillLevel::default(),
            update_rate: UpdateRate::default(),
            pending_answers: Vec::new(),
            last_run: watch::Sender::new(now),
            outages: OutageTracker::default(),
            drains: DrainTracker::default(),
        };
        daemon.warm_up(sockets, pins).await?;
        Ok(daemon)
    }

    /// Waits for the first results, serves the API, and applies the configuration.
    async fn warm_up(&mut self, sockets: Sockets, pins: &Pins) -> Result<()> {
        // Results that arrive in time save a second change. They also keep the first healthy server from receiving all
        // the load.
        let config = self.config.clone();
        self.process_events_until(targets(&config), destinations(&config), FIRST_WAIT).await;
        self.serve(sockets, pins)?;
        self.wait_for_replacements().await?;
        // Connections of an earlier run are rehomed and terminated before the first change. A failed pass is retried
        // later: what can be forwarded is forwarded meanwhile.
        self.begin_gc_pass();
        if self.gc_schedule.due().is_none() {
            let finished = self.gc_thread.finished().await?;
            self.on_gc_finished(finished);
        }
        self.apply()
    }

    /// Serves the API once the first snapshot is published.
    fn serve(&mut self, sockets: Sockets, pins: &Pins) -> Result<()> {
        let shown = StatusSources {
            snapshots: self.snapshots.subscribe(),
            view: self.ports.view(),
            losses: self.losses.counted(),
            last_run: self.last_run.subscribe(),
        };
        let mut first = self.snapshots.subscribe();
        let serving =
            sockets.serve(Maps::open(pins)?, self.loader.clone(), shown, self.request_sender.clone());
        self.api.spawn(async move {
            if first.changed().await.is_ok() {
                serving.await;
            }
        });
        Ok(())
    }

    /// Processes events until every target has a health and every server a next hop, or until `limit` has passed.
    async fn process_events_until(
        &mut self,
        mut targets: BTreeSet<Target>,
        mut servers: BTreeSet<IpAddr>,
        limit: Duration,
    ) {
        let patience = Instant::now() + limit;
        // Both sets shrink to what is outstanding. With thousands of targets, not all may be checked again at each
        // event.
        targets.retain(|target| !self.observations.has_health(target));
        servers.retain(|address| !self.observations.has_next_hop_to(address));
        while !(targets.is_empty() && servers.is_empty()) {
            tokio::select! {
                biased;
                // First: a steady stream of events must not starve the deadline.
                () = sleep_until(patience) => return,
                Some(event) = self.probe_events.recv() => {
                    targets.remove(&event.target);
                    self.observations.on_probe(event, since_start().unwrap_or_default());
                }
                Ok(()) = self.neighbours.changed() => {
                    self.on_next_hops();
                    servers.retain(|address| !self.observations.has_next_hop_to(address));
                }
            }
        }
    }

    /// The file may have changed while no daemon ran. Waits for servers that replace healthy ones of the earlier run,
    /// while its maps still forward. Stops waiting when one of the healthy servers has failed.
    async fn wait_for_replacements(&mut self) -> Result<()> {
        let held = Arc::new(self.reconciler.actual()?.clone());
        let before = HealthyWeights::actual(&held);
        let healthy =
            inherited_state::health(&self.config, &held).into_iter().filter(|(_, verdict)| verdict.healthy);
        let healthy: Vec<Target> = healthy.map(|(target, _)| target).collect();
        let mut ends = None;
        loop {
            let desired = desired(&self.config, self.observations.known(self.store.settings()));
            let warm_up = warm_up(&before, &self.config, &desired);
            if warm_up.is_empty() {
                return Ok(());
            }
            let now = Instant::now();
            let ends = *ends.get_or_insert_with(|| {
                let limit = at_most(&warm_up).clamp(FIRST_WAIT, START_TIMEOUT);
                let servers = named(&warm_up).join(", ");
                tracing::info!(servers, at_most = ?limit, "start: waiting for servers that replace healthy ones");
                now + limit
            });
            if now >= ends || healthy.iter().any(|target| self.observations.is_unhealthy(target)) {
                return Ok(());
            }
            self.publish_actual(&held, &warm_up, ends);
            self.process_events_until(warm_up.targets, warm_up.servers, REVIEW_INTERVAL.min(ends - now))
                .await;
        }
    }

    /// Publishes the state that the earlier run left, and what the start waits for.
    fn publish_actual(&self, held: &Arc<MapState>, warm_up: &WarmUp, ends: Instant) {
        let mut snapshot = Snapshot::new(self.config.clone());
        snapshot.state = Arc::clone(held);
        snapshot.running = self.running();
        snapshot.running.pending = Some(PendingChange { change: "start", waits_for: named(warm_up), ends });
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
