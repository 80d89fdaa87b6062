//! The event loop. It takes one event at a time, updates the observations, and changes the data plane. It reaches the
//! kernel, health checks and the GC thread only through [`Environment`].

mod api_commands;
mod clients;
mod commit_confirm;
mod floods;
mod flush;
mod gc_pass;
mod outages;
mod reconfiguration;
mod reconfigure;
mod replies;
mod startup;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use self::{
    api_commands::PendingAnswer, clients::ClientPaths, commit_confirm::PendingConfirmation, floods::Floods,
    flush::FlushQueue, gc_pass::EndingMigrations, reconfiguration::Reconfiguration,
};
use super::{
    environment::{Environment, Event, Interfaces as _},
    gc_schedule::GcSchedule,
    observations::Observations,
    service_manager::ServiceManager,
    signals::{Signal, Signals},
    store::{OverrideRecord, Store},
    update_rate::UpdateRate,
};
use crate::{
    announce::Wanted,
    dataplane::bpf::lifetime::PinLifetime,
    health::path::ProbeSettings,
    instruments::INSTRUMENTS,
    neigh::{LinkChange, Resolutions},
    server::{
        ActiveConfig, Snapshot,
        loader::Loader,
        requests::Request,
        status::{ListenerOutages, ServerDetails, ServerOverrides},
    },
};
use slb_config::model::{Config, DaemonConfig, InterfaceRole};
use slb_control::{
    desired::{ObservedInputs, desired},
    drain_events::DrainTracker,
    fill_level::FillLevel,
    model::{Desired, OverrideKey},
    outages::OutageTracker,
    reconcile::{Reconciler, Reconciliation, ResizedTable},
    source_usage::ScarceSources,
    targets::{announced, local_addresses},
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

/// The event loop, with an active configuration.
pub(super) struct EventLoop<E: Environment> {
    pub(super) env: E,
    /// The active configuration.
    config: Arc<Config>,
    /// Reads the configuration file.
    pub(super) loader: Loader,
    /// The configuration that was last loaded from the file.
    file_config: Arc<Config>,
    /// Set while a commit-confirmed change is pending: the configuration to roll back to, and when.
    pending_confirmation: Option<PendingConfirmation>,
    /// The configuration that is to replace the active one.
    reconfiguration: Option<Reconfiguration>,
    reconciler: Reconciler<E::Plane>,
    observations: Observations,
    /// Overrides: weights and admin states set at run time.
    store: Store,
    /// The kernel's next hops to servers, as last reported.
    next_hops: Resolutions,
    /// Client paths of mode `nat`.
    clients: ClientPaths,
    /// Requests from the API.
    requests: mpsc::Receiver<Request>,
    /// Sender side of `requests`.
    pub(super) request_sender: mpsc::Sender<Request>,
    pub(super) snapshots: watch::Sender<Arc<Snapshot>>,
    /// When the data plane must change although no event arrives.
    next: Option<Instant>,
    /// When the next flow-table GC pass is due.
    gc_schedule: GcSchedule,
    /// Slot migrations that the last GC pass has found complete.
    ending_migrations: Option<EndingMigrations>,
    /// Flushes of the flow table that are queued or running.
    flushes: FlushQueue,
    fill: FillLevel,
    scarce: ScarceSources,
    /// Rate limiter for changes of the data plane.
    update_rate: UpdateRate,
    /// Requests that are answered once the data plane has been changed.
    pending_answers: Vec<PendingAnswer>,
    /// When the event loop last ran: the age of what the API shows.
    pub(super) last_run: watch::Sender<Instant>,
    /// Listeners without a server that receives new flows.
    outages: OutageTracker,
    /// Servers that are draining.
    drains: DrainTracker,
    /// Listeners in a flood of SYNs.
    floods: Floods,
    service_manager: ServiceManager,
    /// The reload that SIGHUP has started, until it has ended.
    signal_reload: Option<JoinHandle<()>>,
}

impl<E: Environment> EventLoop<E> {
    /// Runs until SIGTERM or SIGINT.
    ///
    /// # Errors
    /// A source of events has ended.
    pub(super) async fn run(mut self, signals: &mut Signals, lifetime: PinLifetime) -> Result<()> {
        let forget = Instant::now() + RESTORED_NEXT_HOPS_TIMEOUT;
        let never = Instant::now();
        let mut retry_ports = interval(RETRY_PORTS);
        retry_ports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = interval(WATCH);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.service_manager.on_ready();
        loop {
            self.end_reload();
            let confirm_deadline = self.confirm_deadline();
            let next_step = self.ending_migrations.as_ref().map(|ending| ending.next_step);
            let review = self.reconfiguration.as_ref().and_then(Reconfiguration::review_at);
            tokio::select! {
                signal = signals.wait() => match signal {
                    Signal::Stop(name) => {
                        self.stop(name, lifetime).await;
                        return Ok(());
                    }
                    Signal::Reload => self.reload_for_signal(),
                },
                Some(request) = self.requests.recv() => self.answer(request).await,
                () = sleep_until(confirm_deadline.unwrap_or(never)), if confirm_deadline.is_some() => self.roll_back().await,
                () = sleep_until(review.unwrap_or(never)), if review.is_some() => self.review(),
                event = self.env.next_event() => self.on_event(event?).await,
                due = watch.tick() => {
                    INSTRUMENTS.event_loop_delay.observe(due.elapsed());
                    self.watch().await;
                }
                _ = retry_ports.tick(), if self.env.interfaces().has_refused() => self.follow_links().await,
                () = sleep_until(forget), if self.observations.has_restored_next_hops() => {
                    self.observations.drop_restored_next_hops();
                    self.on_next_hops();
                }
                () = sleep_until(self.gc_schedule.due().unwrap_or(never)), if self.gc_schedule.due().is_some() => {
                    self.begin_gc_pass();
                }
                () = sleep_until(next_step.unwrap_or(never)), if next_step.is_some() => self.end_migrations(),
                () = sleep_until(self.next.unwrap_or(never)), if self.next.is_some() => {
                    self.next = None;
                    self.change_soon();
                }
                () = sleep_until(self.update_rate.due().unwrap_or(never)), if self.update_rate.due().is_some() => self.change(),
            }
        }
    }

    /// Processes an event. What it changes is applied soon.
    async fn on_event(&mut self, event: Event) {
        match event {
            Event::Probe(event) => {
                let target = event.target.clone();
                self.observations.on_probe(*event, self.env.since_boot().unwrap_or_default());
                self.on_awaited_result(Some(&target));
                self.change_soon();
            }
            Event::NextHops(next_hops) => {
                self.next_hops = next_hops;
                self.on_next_hops();
                self.on_awaited_result(None);
            }
            Event::ClientNextHops(next_hops) => self.follow_clients(&next_hops),
            Event::Vips(vips) => {
                self.observations.set_vips(vips);
                self.change_soon();
            }
            Event::Links(LinkChange::Started) => self.follow_addresses().await,
            Event::Links(LinkChange::Quiescent) => self.follow_links().await,
            Event::GcFinished(finished) => self.on_gc_finished(finished),
        }
    }

    /// Takes over the kernel's next hops and schedules a change of the data plane.
    fn on_next_hops(&mut self) {
        self.read_next_hops();
        self.change_soon();
    }

    /// Takes over the kernel's next hops. A new or changed one is applied before the next regular build of tables.
    fn read_next_hops(&mut self) {
        // If the clock cannot be read, lost next hops must still be dropped.
        let now = self.env.since_boot().unwrap_or_default();
        if self.observations.on_next_hops(&self.next_hops, now) {
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
        match self.env.links().await {
            Ok(links) => self.env.interfaces_mut().note_addresses(&links),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "interfaces cannot be monitored"),
        }
    }

    /// Reads the list of interfaces again and attaches or detaches as needed.
    async fn follow_links(&mut self) {
        let links = match self.env.links().await {
            Ok(links) => links,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "interfaces cannot be monitored");
                return;
            }
        };
        if let Some(gone) = self.env.interfaces_mut().follow(&links) {
            self.update_exits(&[], &gone);
            self.change_soon();
        }
    }

    /// Polls what sends no notification.
    async fn watch(&mut self) {
        let now = Instant::now();
        self.last_run.send_replace(now);
        self.service_manager.on_alive(now);
        self.find_unresolved_clients();
        self.follow_floods();
        let found = self.env.poll();
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
        let interfaces = self.env.interfaces();
        self.reconciler.set_interfaces(interfaces.exits(without), gone);
        let (refused, absent) = (interfaces.refused(), interfaces.absent());
        self.observations.set_interfaces(interfaces.attached_without(without), refused, absent);
        self.observations.set_advice(interfaces.advice());
        self.observations.set_vlans(interfaces.vlans(without));
        self.read_next_hops();
    }

    /// Applies the active configuration with the current observations.
    fn apply(&mut self) -> Result<()> {
        let (now, begun) = (self.env.since_boot()?, Instant::now());
        self.observations.set_announced(announced(&self.config, false));
        self.observations.set_locals(local_addresses(&self.config));
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
        match has_built {
            Ok(true) => INSTRUMENTS.table_builds.observe(begun.elapsed()),
            Ok(false) => {}
            Err(()) => INSTRUMENTS.failed_applies.add(1),
        }
        let applied = applied?;
        let failback = decision.next;
        self.observations.on_decision(decision, now);
        let next = [failback, applied.next].into_iter().flatten().min();
        self.next = next.map(|next| Instant::now() + next.saturating_sub(now));
        let mut gc_interval = self.reconciler.max_gc_interval();
        if self.reconciler.has_migrating_slots() || self.reconciler.has_nat_service() {
            gc_interval = gc_interval.min(MAX_GC_INTERVAL);
        }
        self.gc_schedule.schedule_by(Instant::now() + gc_interval, self.reconciler.required_gc_interval());
        if self.reconciler.is_gc_due() {
            // Ends of terminated connections receive their RST, and flows are rehomed.
            self.demand_gc_pass();
        }
        self.announce();
        self.service_manager.set_status(in_brief(&self.config, &desired));
        tracing::debug!(applied.operations, "the data plane has the desired state");
        self.follow_outages(&desired, now);
        self.follow_drains(&applied.state, now);
        let outages = self.outages_document(now);
        let snapshot = snapshot(&desired, applied, self.store.records(), outages, self.running());
        let sources = self.snapshots.borrow().sources.clone();
        let snapshot = Snapshot { sources, ..snapshot };
        self.snapshots.send_replace(Arc::new(snapshot));
        Ok(())
    }

    /// Announces the VIPs of running listeners at the interfaces of clients.
    fn announce(&self) {
        let DaemonConfig { interfaces, roles, .. } = &self.config.daemon;
        let is_client =
            |name: &String| interfaces.contains(name) && roles.get(name) != Some(&InterfaceRole::Server);
        let attached = self.env.interfaces().attached_without(&[]);
        let clients = attached.into_iter().filter(|(_, name)| is_client(name)).map(|(index, _)| index);
        self.env.announce(Wanted { vips: announced(&self.config, true), interfaces: clients.collect() });
    }

    /// Restarts all probes if a setting for all health checks has changed. Known health is kept.
    fn restart_probes(&mut self, before: &Config) {
        let settings = probes(&self.config);
        if probes(before) != settings {
            self.env.restart_probes(settings);
            self.observations.clear_not_probed();
        }
    }
}

/// The daemon's state in one line.
fn in_brief(config: &Config, desired: &Desired) -> String {
    let listeners: usize = config.load_balancers.iter().map(|balancer| balancer.listeners.len()).sum();
    let servers: Vec<_> =
        desired.pools.iter().flat_map(|pool| pool.servers.iter().map(|(_, server)| server)).collect();
    let in_use = servers.iter().filter(|server| server.accepts_new_flows()).count();
    format!("listeners: {listeners}; servers that receive new connections: {in_use} of {}", servers.len())
}

/// Settings that apply to all health checks.
pub(super) fn probes(config: &Config) -> ProbeSettings {
    ProbeSettings {
        sources: config.daemon.probe_source.clone(),
        mark: config.daemon.probe_mark,
        tunnel_addresses: config.daemon.tunnel_addresses.clone(),
        gue_port: config.daemon.gue_port,
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
    Snapshot { state, details, set, outages, sources: Arc::default(), running }
}
