//! `slbd run`: starts the daemon and runs its event loop.

mod api_commands;
mod clients;
mod flush;
mod gc_pass;
mod gc_schedule;
mod gc_thread;
mod losses;
mod missing_resources;
mod observations;
mod outages;
mod ports;
mod reconfiguration;
mod reconfigure;
mod replies;
mod route_lookups;
mod seed;
mod signals;
mod start;
mod store;
mod update_rate;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use self::{
    api_commands::{PendingAnswer, PendingConfirmation},
    clients::ClientResolver,
    flush::FlushQueue,
    gc_schedule::GcSchedule,
    gc_thread::GcThread,
    losses::Losses,
    observations::Observations,
    ports::{Ports, links, merging::log_restored},
    reconfiguration::Reconfiguration,
    signals::{Signal, Signals},
    store::{OverrideRecord, Store},
    update_rate::UpdateRate,
};
use crate::{
    clock::since_start,
    dataplane::bpf::{
        lifetime::{MachineMounts, PinLifetime},
        maps::Maps,
        pins::Pins,
    },
    descriptors,
    devices::InterfaceRecord,
    health::{Failures, ProbePaths, Supervisor, TargetEvent, path},
    neigh::{
        LinkChange, Resolutions, Resolver,
        vips::{VipStates, VipWatcher},
    },
    server::{
        ActiveConfig, Snapshot,
        loader::Loader,
        requests::Request,
        status::{ListenerOutages, ServerDetails, ServerOverrides},
    },
};
use slb_config::model::Config;
use slb_control::{
    desired::{ObservedInputs, desired},
    drain_events::DrainTracker,
    fill_level::FillLevel,
    model::{Desired, OverrideKey},
    outages::OutageTracker,
    reconcile::{Reconciler, Reconciliation, ResizedTable},
};

/// Time after the start for which next hops of an earlier run stay valid while the kernel has none. It suffices to ask
/// the kernel.
const RESTORED_NEXT_HOPS_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time between two flow-table GC passes while slots migrate, or while answers return through SLB.
const MAX_GC_INTERVAL: Duration = Duration::from_secs(10);

/// Time between two attempts to attach to an interface that has refused the program.
const RETRY_PORTS: Duration = Duration::from_secs(1);
/// Polling interval for what sends no notification: links, pins, peers, lost packets.
const WATCH: Duration = Duration::from_millis(500);

/// Runs until SIGTERM or SIGINT. Forwarding continues afterwards for as long as the pins exist. SIGHUP reloads `file`,
/// which `config` was read from.
///
/// # Errors
/// The daemon cannot start. A failed first start leaves nothing behind; otherwise the configuration of the earlier run
/// stays active.
pub async fn run(file: PathBuf, config: Config, mounts: &MachineMounts) -> Result<()> {
    let mut signals = Signals::new()?;
    descriptors::raise()?;
    let pins = Pins::new(&config.daemon.pin_dir);
    pins.create()?;
    let Some(_lock) = pins.lock()? else {
        bail!(
            "another slbd uses {}: stop it, or set [daemon] pin_dir to another directory",
            pins.root().display()
        );
    };
    let lifetime = mounts.lifetime(pins.root());
    announce(lifetime, pins.root());
    let fresh = !pins.exist()?;
    let config = Arc::new(config);
    let record = InterfaceRecord::open(&config.daemon.state_dir, pins.root());
    let started = tokio::select! {
        started = Daemon::start(file, config.clone(), &pins, record.clone()) => started.map(Some),
        signal = signals.stopped() => {
            tracing::info!(signal, "stopped before the start was complete; what an earlier run left stays active");
            Ok(None)
        }
    };
    if fresh && !matches!(started, Ok(Some(_))) {
        pins.remove().context("cannot remove the pins of a start that was not completed")?;
        log_restored(record.restore_features());
        record.forget(&config.daemon.state_dir);
    }
    let Some(daemon) = started? else { return Ok(()) };
    tracing::info!(
        socket = %config.daemon.socket.display(),
        load_balancers = config.load_balancers.len(),
        "running"
    );
    daemon.run(&mut signals, lifetime).await
}

/// Logs how long forwarding lasts, unless it lasts as long as the machine runs.
fn announce(lifetime: PinLifetime, pins: &Path) {
    let pins = pins.display();
    match lifetime {
        PinLifetime::Machine => {}
        PinLifetime::MountNamespace => tracing::warn!(
            %pins,
            "the pins are in a mount namespace of their own: FORWARDING ENDS with its last process, usually this one. For forwarding \
             that outlives the daemon run it where /sys/fs/bpf is the machine's: `nsenter --net=/run/netns/NAME slbd run` in place \
             of `ip netns exec NAME slbd run`; in a container, bind-mount /sys/fs/bpf"
        ),
        PinLifetime::Unknown => tracing::info!(
            %pins,
            "forwarding outlives this daemon if the BPF file system of the pins is the machine's (in a container, bind-mount \
             /sys/fs/bpf)"
        ),
    }
}

/// A daemon with an active configuration.
struct Daemon {
    /// The active configuration.
    config: Arc<Config>,
    /// Reads the configuration file.
    loader: Loader,
    /// The configuration that was last loaded from the file.
    file_config: Arc<Config>,
    /// Set while a commit-confirmed change is pending: the configuration to roll back to, and when.
    pending_confirmation: Option<PendingConfirmation>,
    /// The configuration that is to replace the active one.
    reconfiguration: Option<Reconfiguration>,
    reconciler: Reconciler<Maps>,
    ports: Ports,
    losses: Losses,
    observations: Observations,
    /// Overrides: weights and admin states set at run time.
    store: Store,
    /// Dropping it stops all probes.
    supervisor: Supervisor,
    /// Failures of health checks, kept across restarts.
    failures: Failures,
    /// Sender that probes report their events to.
    events: mpsc::Sender<TargetEvent>,
    probe_events: mpsc::Receiver<TargetEvent>,
    /// Dropping it stops the neighbour subscription.
    resolver: Resolver,
    neighbours: watch::Receiver<Resolutions>,
    /// Client paths of mode `nat`.
    clients: ClientResolver,
    links_changed: watch::Receiver<LinkChange>,
    /// Dropping it stops watching whether VIPs are local and answered for.
    vips: VipWatcher,
    vip_states: watch::Receiver<VipStates>,
    /// Requests from the API.
    requests: mpsc::Receiver<Request>,
    /// Sender side of `requests`.
    request_sender: mpsc::Sender<Request>,
    /// Dropping it stops the API.
    api: JoinSet<()>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    /// Writes the flow table.
    gc_thread: GcThread,
    /// When the data plane must change although no event arrives.
    next: Option<Instant>,
    /// When the next flow-table GC pass is due.
    gc_schedule: GcSchedule,
    /// Flushes of the flow table that are queued or running.
    flushes: FlushQueue,
    fill: FillLevel,
    /// Rate limiter for changes of the data plane.
    update_rate: UpdateRate,
    /// Requests that are answered once the data plane has been changed.
    pending_answers: Vec<PendingAnswer>,
    /// When the event loop last ran: the age of what the API shows.
    last_run: watch::Sender<Instant>,
    /// Listeners without a server that receives new flows.
    outages: OutageTracker,
    /// Servers that are draining.
    drains: DrainTracker,
}

impl Daemon {
    async fn run(mut self, signals: &mut Signals, lifetime: PinLifetime) -> Result<()> {
        let forget = Instant::now() + RESTORED_NEXT_HOPS_TIMEOUT;
        let never = Instant::now();
        let mut retry_ports = interval(RETRY_PORTS);
        retry_ports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = interval(WATCH);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let confirm_deadline = self.confirm_deadline();
            let review = self.reconfiguration.as_ref().and_then(Reconfiguration::review_at);
            tokio::select! {
                signal = signals.wait() => match signal {
                    Signal::Stop(name) => {
                        self.stop(name, lifetime);
                        return Ok(());
                    }
                    Signal::Reload => self.reload_for_signal(),
                },
                Some(request) = self.requests.recv() => self.answer(request).await,
                () = sleep_until(confirm_deadline.unwrap_or(never)), if confirm_deadline.is_some() => self.roll_back().await,
                () = sleep_until(review.unwrap_or(never)), if review.is_some() => self.review(),
                Some(event) = self.probe_events.recv() => {
                    let target = event.target.clone();
                    self.observations.on_probe(event, since_start().unwrap_or_default());
                    self.on_awaited_result(Some(&target));
                    self.change_soon();
                }
                changed = self.neighbours.changed() => {
                    changed.context("neighbours are no longer monitored")?;
                    self.on_next_hops();
                    self.on_awaited_result(None);
                }
                changed = self.clients.changed() => {
                    changed.context("client paths are no longer monitored")?;
                    self.follow_clients();
                }
                changed = self.vip_states.changed() => {
                    changed.context("VIPs are no longer monitored")?;
                    self.observations.set_vips(self.vip_states.borrow_and_update().clone());
                    self.change_soon();
                }
                changed = self.links_changed.changed() => {
                    changed.context("interfaces are no longer monitored")?;
                    let change = *self.links_changed.borrow_and_update();
                    match change {
                        LinkChange::Started => self.follow_addresses().await,
                        LinkChange::Quiescent => self.follow_links().await,
                    }
                }
                _ = watch.tick() => self.watch().await,
                _ = retry_ports.tick(), if self.ports.has_refused() => self.follow_links().await,
                () = sleep_until(forget), if self.observations.has_restored_next_hops() => {
                    self.observations.drop_restored_next_hops();
                    self.on_next_hops();
                }
                () = sleep_until(self.gc_schedule.due().unwrap_or(never)), if self.gc_schedule.due().is_some() => {
                    self.begin_gc_pass();
                }
                finished = self.gc_thread.finished() => self.on_gc_finished(finished?),
                () = sleep_until(self.next.unwrap_or(never)), if self.next.is_some() => {
                    self.next = None;
                    self.change_soon();
                }
                () = sleep_until(self.update_rate.due().unwrap_or(never)), if self.update_rate.due().is_some() => self.change(),
            }
        }
    }

    /// Reads the kernel's next hops and schedules a change of the data plane.
    fn on_next_hops(&mut self) {
        self.read_next_hops();
        self.change_soon();
    }

    /// Reads the kernel's next hops. A new or changed one is applied before the next regular build of tables.
    fn read_next_hops(&mut self) {
        // If the clock cannot be read, lost next hops must still be dropped.
        let now = since_start().unwrap_or_default();
        if self.observations.on_next_hops(&self.neighbours.borrow_and_update(), now) {
            self.update_rate.schedule_urgent(Instant::now());
        }
    }

    /// Changes the data plane: applies the next configuration if it is ready, otherwise the current observations.
    fn change(&mut self) {
        if self.reconfiguration.as_ref().is_some_and(Reconfiguration::is_ready) {
            return self.finish();
        }
        let applied = self.apply();
        if let Err(error) = &applied {
            tracing::error!(
                error = format!("{error:#}"),
                "the data plane differs from the desired state; retrying"
            );
        }
        self.send_pending_answers(&applied);
    }

    /// Schedules a change of the data plane, merged with other changes that arrive soon.
    fn change_soon(&mut self) {
        self.update_rate.schedule_soon(Instant::now());
    }

    /// Writes the hardware addresses of the interfaces to the interface table. Until then, frames to a new address pass
    /// to the kernel, which resets connections to a VIP that is a local address.
    async fn follow_addresses(&mut self) {
        match links().await {
            Ok(links) => self.ports.note_addresses(&links),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "interfaces cannot be monitored"),
        }
    }

    /// Reads the list of interfaces again and attaches or detaches as needed.
    async fn follow_links(&mut self) {
        let links = match links().await {
            Ok(links) => links,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "interfaces cannot be monitored");
                return;
            }
        };
        if let Some(gone) = self.ports.follow(&links) {
            self.update_exits(&[], &gone);
            self.change_soon();
        }
    }

    /// Polls what sends no notification.
    async fn watch(&mut self) {
        self.last_run.send_replace(Instant::now());
        let view = self.ports.view().borrow().clone();
        self.losses.poll(&view.held);
        self.find_unresolved_clients();
        let found = self.ports.watch();
        if found.changed {
            self.update_exits(&[], &BTreeSet::new());
            self.change_soon();
        }
        if found.lost {
            self.follow_links().await;
        }
    }

    /// Makes the attached interfaces, except those named in `without`, the exits of the data plane. Interfaces in
    /// `gone` were removed, even if an interface has the same index again.
    fn update_exits(&mut self, without: &[String], gone: &BTreeSet<u32>) {
        let attached = self.ports.attached_without(without);
        self.reconciler.set_interfaces(self.ports.exits(without), gone);
        self.observations.set_interfaces(attached, self.ports.refused(), self.ports.absent());
        self.observations.set_advice(self.ports.advice());
        self.read_next_hops();
    }

    /// Applies the active configuration with the current observations.
    fn apply(&mut self) -> Result<()> {
        let (now, begun) = (since_start()?, Instant::now());
        let overrides = self.store.settings();
        let decision = self.observations.decide(&self.config, overrides, now);
        let known =
            ObservedInputs { failover: Some(&decision.failover), ..self.observations.known(overrides) };
        let desired = desired(&self.config, known);
        let applied = self.reconciler.reconcile(&desired, now);
        let has_built = applied.as_ref().map(|applied| applied.has_built).map_err(drop);
        for ResizedTable { before, after } in applied.iter().flat_map(|applied| &applied.resized) {
            tracing::warn!(before, now = after, "table size changed: untracked connections may move");
        }
        self.update_rate.on_change(has_built, begun, Instant::now());
        let applied = applied?;
        let failback = decision.next;
        self.observations.on_decision(decision, now);
        let next = [failback, applied.next].into_iter().flatten().min();
        self.next = next.map(|next| Instant::now() + next.saturating_sub(now));
        let mut look = self.reconciler.max_gc_interval();
        if self.reconciler.has_migrating_slots() || self.reconciler.has_nat_service() {
            look = look.min(MAX_GC_INTERVAL);
        }
        self.gc_schedule.schedule_by(Instant::now() + look, self.reconciler.required_gc_interval());
        if self.reconciler.is_gc_due() {
            // Ends of terminated connections receive their RST, and flows are rehomed.
            self.demand_gc_pass();
        }
        tracing::debug!(applied.operations, "the data plane has the desired state");
        self.follow_outages(&desired, now);
        self.follow_drains(&applied.state, now);
        let outages = self.outages_document(now);
        let snapshot = snapshot(&desired, applied, self.store.records(), outages, self.running());
        self.snapshots.send_replace(Arc::new(snapshot));
        Ok(())
    }

    /// Restarts all probes if a setting for all health checks has changed. Known health is kept.
    fn restart_probes(&mut self, before: &Config) {
        if probes(before) != probes(&self.config) {
            let (neighbours, doubts) = (self.neighbours.clone(), self.resolver.doubts());
            let paths = ProbePaths::new(probes(&self.config), neighbours, doubts);
            self.supervisor =
                Supervisor::new(self.events.clone(), paths).with_failures(self.failures.clone());
            self.observations.clear_not_probed();
        }
    }
}

/// Settings that apply to all health checks.
fn probes(config: &Config) -> path::ProbeSettings {
    path::ProbeSettings {
        sources: config.daemon.probe_source.clone(),
        mark: config.daemon.probe_mark,
        tunnel_addresses: config.daemon.tunnel_addresses.clone(),
    }
}

fn snapshot(
    desired: &Desired,
    applied: Reconciliation,
    records: &BTreeMap<OverrideKey, OverrideRecord>,
    outages: ListenerOutages,
    running: ActiveConfig,
) -> Snapshot {
    let Reconciliation { state, tables, .. } = applied;
    let (mut details, mut set) = (ServerDetails::new(), ServerOverrides::new());
    for (pool, table) in tables {
        for (address, server) in &desired.pools[pool].servers {
            let place = (table, *address);
            details.extend(server.detail.as_ref().map(|detail| (place, detail.clone())));
            let key = server.server_override.as_ref();
            let record = key.and_then(|key| Some(records.get(key)?.document(&key.named([&*running.config]))));
            set.extend(record.map(|record| (place, record)));
        }
    }
    Snapshot { state, details, set, outages, running }
}
