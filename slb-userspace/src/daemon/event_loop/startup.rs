//! The first change of an event loop, with empty maps or with those of an earlier run, which forward meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    EventLoop,
    clients::ClientPaths,
    floods::Floods,
    flush::FlushQueue,
    reconfiguration::{FIRST_WAIT, REVIEW_INTERVAL, at_most, named},
};
use crate::{
    daemon::{
        environment::{Environment, Event, Interfaces as _},
        gc_schedule::GcSchedule,
        observations::Observations,
        service_manager::ServiceManager,
        store::Store,
        update_rate::UpdateRate,
    },
    health::Target,
    neigh::{Resolutions, vips::VipStates},
    server::{PendingChange, Snapshot, changes::overrides::in_words, loader::Loader},
};
use slb_config::model::Config;
use slb_control::{
    dataplane::state::MapState,
    desired::desired,
    drain_events::DrainTracker,
    fill_level::FillLevel,
    inherited_state,
    outages::OutageTracker,
    reconcile::Reconciler,
    source_usage::ScarceSources,
    targets::{announced, destinations, local_addresses, targets, tunnels},
    warm_up::{HealthyWeights, WarmUp, warm_up},
};

/// Longest time that the start waits for servers that replace those of the earlier run. The daemon executes no commands
/// meanwhile.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// Capacity of the queue of API requests.
const REQUEST_QUEUE: usize = 16;

impl<E: Environment> EventLoop<E> {
    /// An event loop that has applied nothing yet. It knows the state that an earlier run left in the maps, and `vips`,
    /// the state of VIPs on this host. It asks for health and next hops of the configured servers.
    ///
    /// # Errors
    /// The maps or the clock cannot be read.
    pub(in crate::daemon) fn new(
        mut env: E,
        mut reconciler: Reconciler<E::Plane>,
        config: Arc<Config>,
        mut store: Store,
        loader: Loader,
        vips: VipStates,
    ) -> Result<Self> {
        let attached = env.interfaces().attached_without(&[]);
        let mut observations = Observations::restored(&config, reconciler.actual()?, attached);
        observations.set_advice(env.interfaces().advice());
        observations.set_vlans(env.interfaces().vlans(&[]));
        observations.set_announced(announced(&config, false));
        observations.set_locals(local_addresses(&config));
        observations.set_vips(vips);
        observations.expect([&*config], BTreeMap::new(), env.since_boot()?);
        for ended in store.prune(&[&config], &config) {
            tracing::warn!("{}", in_words(&ended));
        }
        env.watch_servers(destinations(&config));
        env.follow_tunnels(tunnels(&config));
        env.set_targets(observations.targets());
        let (request_sender, requests) = mpsc::channel(REQUEST_QUEUE);
        let now = Instant::now();
        Ok(Self {
            env,
            snapshots: watch::Sender::new(Arc::new(Snapshot::new(config.clone()))),
            file_config: config.clone(),
            config,
            loader,
            pending_confirmation: None,
            reconfiguration: None,
            reconciler,
            observations,
            store,
            next_hops: Resolutions::default(),
            clients: ClientPaths::default(),
            requests,
            request_sender,
            next: None,
            gc_schedule: GcSchedule::new(now),
            ending_migrations: None,
            flushes: FlushQueue::default(),
            fill: FillLevel::default(),
            scarce: ScarceSources::default(),
            update_rate: UpdateRate::default(),
            pending_answers: Vec::new(),
            last_run: watch::Sender::new(now),
            outages: OutageTracker::default(),
            drains: DrainTracker::default(),
            floods: Floods::default(),
            service_manager: ServiceManager::new(now)?,
            signal_reload: None,
        })
    }

    /// Waits for the first results of checks and next hops. Results that arrive in time save a second change. They also
    /// keep the first healthy server from receiving all the load.
    ///
    /// # Errors
    /// A source of events has ended.
    pub(in crate::daemon) async fn await_first_results(&mut self) -> Result<()> {
        let config = self.config.clone();
        self.process_events_until(targets(&config), destinations(&config), FIRST_WAIT).await
    }

    /// Applies the configuration, once servers that replace those of an earlier run are there.
    ///
    /// # Errors
    /// A source of events has ended, or the configuration cannot be applied.
    pub(in crate::daemon) async fn begin_forwarding(&mut self) -> Result<()> {
        self.wait_for_replacements().await?;
        // Connections of an earlier run are rehomed and terminated before the first change. A failed pass is retried
        // later: what can be forwarded is forwarded meanwhile.
        self.begin_gc_pass();
        while self.gc_schedule.due().is_none() {
            let event = self.env.next_event().await?;
            self.on_event(event).await;
        }
        self.apply()
    }

    /// Processes events until every target has a health and every server a next hop, or until `limit` has passed.
    async fn process_events_until(
        &mut self,
        mut targets: BTreeSet<Target>,
        mut servers: BTreeSet<IpAddr>,
        limit: Duration,
    ) -> Result<()> {
        let patience = Instant::now() + limit;
        // Both sets shrink to what is outstanding. With thousands of targets, not all may be checked again at each
        // event.
        targets.retain(|target| !self.observations.has_health(target));
        servers.retain(|address| !self.observations.has_next_hop_to(address));
        while !(targets.is_empty() && servers.is_empty()) {
            let event = tokio::select! {
                biased;
                // First: a steady stream of events must not starve the deadline.
                () = sleep_until(patience) => return Ok(()),
                event = self.env.next_event() => event?,
            };
            if let Event::Probe(event) = &event {
                targets.remove(&event.target);
            }
            self.on_event(event).await;
            servers.retain(|address| !self.observations.has_next_hop_to(address));
        }
        Ok(())
    }

    /// The file may have changed while no daemon ran. Waits for servers that replace healthy ones of the earlier run,
    /// while its maps still forward. Stops waiting when one of the healthy servers has failed.
    async fn wait_for_replacements(&mut self) -> Result<()> {
        let held = Arc::new(self.reconciler.actual()?.clone());
        let before = HealthyWeights::actual(&held);
        let healthy = inherited_state::health(&self.config, &held)
            .into_iter()
            .filter(|(_, verdict)| verdict.is_healthy());
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
                .await?;
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
