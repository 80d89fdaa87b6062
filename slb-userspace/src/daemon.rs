//! `slbd run`: brings everything together and keeps it so.

mod attach;
mod clock;
mod facts;

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::resource::{Resource, getrlimit, setrlimit},
    time::{ClockId, clock_getres},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

use self::{attach::attach, clock::since_start, facts::Facts};
use crate::{
    api::server::{Snapshot, Socket},
    config::model::Config,
    control::{
        desired::{Desired, desired, destinations, targets},
        reconcile::{InForce, Reconciler, Sweep},
    },
    dataplane::bpf::{maps::Maps, pins::Pins},
    health::{Event, Paths, Supervisor, path::Settings},
    neigh::{Resolutions, Resolver},
    poke::Poker,
};

/// Changes that come within this time of one another are put in force together.
const GATHER: Duration = Duration::from_millis(10);
/// Least time between two changes of the data plane.
const SPACING: Duration = Duration::from_millis(100);
/// Time until a failed change is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Time the kernel is given to tell of next hops before the data plane is changed for the first time.
const FIRST_NEIGHBOURS: Duration = Duration::from_secs(1);
/// Time for which next hops that an earlier run has left hold, while the kernel has none: long enough to ask for them.
const NEXT_HOPS_HOLD: Duration = Duration::from_secs(5);

/// Most time between two looks at the flow table, while parts of server tables change hands.
const SWEEP: Duration = Duration::from_secs(10);
/// Looks at the flow table take one part in so many of the time.
const LOOKS: u32 = 50;

/// Runs until SIGTERM or SIGINT. Forwarding goes on afterwards.
///
/// # Errors
/// The daemon cannot start: a first start then leaves nothing behind, and what an earlier run left stays in force.
pub async fn run(config: Config) -> Result<()> {
    let mut stop = Stop::new()?;
    raise_descriptor_limit()?;
    let pins = Pins::new(&config.daemon.pin_dir);
    pins.create()?;
    let Some(_lock) = pins.lock()? else {
        bail!(
            "another slbd uses {}: stop it, or set [daemon] pin_dir to another directory",
            pins.root().display()
        );
    };
    let fresh = !pins.exist()?;
    let daemon = match Daemon::start(&config, &pins).await {
        Ok(daemon) => daemon,
        Err(error) => {
            if fresh {
                pins.remove().context("cannot remove the pins of a start that failed")?;
            }
            return Err(error);
        }
    };
    tracing::info!(
        socket = %config.daemon.socket.display(),
        load_balancers = config.load_balancers.len(),
        "running"
    );
    daemon.run(&mut stop).await
}

/// A daemon whose configuration is in force.
struct Daemon<'a> {
    config: &'a Config,
    reconciler: Reconciler<Maps>,
    facts: Facts,
    /// Probes end when it is dropped.
    _supervisor: Supervisor,
    verdicts: mpsc::Receiver<Event>,
    /// Neighbours are followed until it is dropped.
    _resolver: Resolver,
    neighbours: watch::Receiver<Resolutions>,
    socket: Socket,
    /// For the API, which reads counters.
    maps: Option<Maps>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    /// Tells the ends of connections that are over.
    poker: Poker,
    /// When traffic may come back to a primary side.
    failback: Option<Instant>,
    /// When something must change although nothing else does.
    next: Option<Instant>,
    /// When the flow table is to be looked at next.
    look: Instant,
}

impl<'a> Daemon<'a> {
    async fn start(config: &'a Config, pins: &Pins) -> Result<Self> {
        let socket = Socket::bind(&config.daemon.socket).await?;
        let (mut reconciler, interfaces) = attach(config, pins, jiffies_per_second()?).await?;
        let facts = Facts::remembered(config, reconciler.held()?, interfaces);

        let (resolver, neighbours) = Resolver::spawn()?;
        resolver.watch(destinations(config));

        let (events, verdicts) = mpsc::channel(1024);
        let mut supervisor = Supervisor::new(events, Paths::new(probes(config), neighbours.clone()));
        let wanted = targets(config).into_iter().map(|target| (facts.verdict(&target), target));
        supervisor.set_targets(wanted.map(|(verdict, target)| (target, verdict)).collect());

        let mut daemon = Self {
            config,
            reconciler,
            facts,
            _supervisor: supervisor,
            verdicts,
            _resolver: resolver,
            neighbours,
            socket,
            maps: Some(Maps::open(pins)?),
            snapshots: watch::Sender::new(Arc::new(Snapshot::default())),
            poker: Poker::new()?,
            failback: None,
            next: None,
            look: Instant::now(),
        };
        // What comes in time spares a second change; nothing depends on it.
        let _ = timeout(FIRST_NEIGHBOURS, daemon.neighbours.changed()).await;
        daemon.facts.learn(&daemon.neighbours.borrow_and_update());
        while let Ok(event) = daemon.verdicts.try_recv() {
            daemon.facts.heed(event);
        }
        daemon.apply()?;
        Ok(daemon)
    }

    async fn run(mut self, stop: &mut Stop) -> Result<()> {
        let maps = self.maps.take().context("the daemon runs already")?;
        let serving = self.socket.serve(maps, self.snapshots.subscribe())?;
        tokio::pin!(serving);
        let forget = Instant::now() + NEXT_HOPS_HOLD;
        let mut last = Instant::now();
        // The first decision may wait for a recovery to last.
        let mut due = self.failback;
        let soon = |due: Option<Instant>, last: Instant| {
            let at = (Instant::now() + GATHER).max(last + SPACING);
            Some(due.map_or(at, |due| due.min(at)))
        };
        loop {
            tokio::select! {
                signal = stop.wait() => {
                    tracing::info!(signal, "stopping; forwarding goes on: `slbd detach` ends it");
                    return Ok(());
                }
                result = &mut serving => return result.context("the API has ended"),
                Some(event) = self.verdicts.recv() => {
                    self.facts.heed(event);
                    due = soon(due, last);
                }
                changed = self.neighbours.changed() => {
                    changed.context("neighbours are not followed any more")?;
                    self.facts.learn(&self.neighbours.borrow_and_update());
                    due = soon(due, last);
                }
                () = sleep_until(forget), if self.facts.remembers_next_hops() => {
                    self.facts.forget_next_hops();
                    self.facts.learn(&self.neighbours.borrow_and_update());
                    due = soon(due, last);
                }
                () = sleep_until(self.look) => {
                    if let Err(error) = self.sweep() {
                        tracing::error!(error = format!("{error:#}"), "cannot look at the flow table");
                        due = soon(due, last);
                    }
                }
                () = sleep_until(self.next.unwrap_or(last)), if self.next.is_some() => {
                    self.next = None;
                    due = soon(due, last);
                }
                () = sleep_until(due.unwrap_or(last)), if due.is_some() => {
                    let applied = self.apply();
                    due = self.failback;
                    if let Err(error) = applied {
                        tracing::error!(
                            error = format!("{error:#}"),
                            "the data plane is not as desired; trying again"
                        );
                        due = Some(Instant::now() + RETRY);
                    }
                    last = Instant::now();
                }
            }
        }
    }

    /// Puts in force what follows from what is known.
    fn apply(&mut self) -> Result<()> {
        let now = since_start()?;
        let failback = self.facts.take_sides(self.config, now);
        self.failback = failback.map(|due| Instant::now() + due.saturating_sub(now));
        let desired = desired(self.config, self.facts.known());
        let in_force = self.reconciler.reconcile(&desired, now)?;
        self.next = in_force.next.map(|next| Instant::now() + next.saturating_sub(now));
        if self.reconciler.has_cut() {
            self.look = Instant::now();
        } else if self.reconciler.is_handing_over() {
            self.look = self.look.min(Instant::now() + SWEEP);
        }
        tracing::debug!(in_force.operations, "the data plane is as desired");
        self.snapshots.send_replace(Arc::new(snapshot(desired, in_force)));
        Ok(())
    }

    /// Looks at the flow table: ends connections that are over, and what is over of slots that have changed hands.
    fn sweep(&mut self) -> Result<()> {
        let begun = Instant::now();
        self.look = begun + SWEEP;
        let Sweep { moved, flows, ended, next } = self.reconciler.sweep(since_start()?)?;
        ended.iter().for_each(|ended| self.poker.poke(ended));
        let next = if moved == 0 { next } else { next.min(SWEEP) };
        self.look = begun + next.max(begun.elapsed() * LOOKS);
        tracing::debug!(
            moved,
            flows,
            ended = ended.len(),
            "slots that have changed hands, and flows that live"
        );
        Ok(())
    }
}

/// What the configuration says of health checks as a whole.
fn probes(config: &Config) -> Settings {
    Settings {
        sources: config.daemon.probe_source.clone(),
        mark: config.daemon.probe_mark,
        tunnel_addresses: config.daemon.tunnel_addresses.clone(),
    }
}

fn snapshot(desired: Desired, in_force: InForce) -> Snapshot {
    let InForce { state, tables, .. } = in_force;
    let pools = tables.into_iter().zip(desired.pools);
    let details = pools
        .flat_map(|(table, pool)| pool.servers.into_iter().map(move |server| (table, server)))
        .filter_map(|(table, (address, server))| Some(((table, address), server.detail?)))
        .collect();
    Snapshot { state, details }
}

/// Probes must not take the descriptors that changes of the maps need.
fn raise_descriptor_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")
}

/// The kernel's tick rate: the coarse clock advances once a jiffy.
fn jiffies_per_second() -> Result<u32> {
    let resolution = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)?;
    let nanoseconds = u32::try_from(resolution.tv_nsec()).unwrap_or(0);
    if nanoseconds == 0 {
        bail!("the coarse clock has no resolution: {resolution}");
    }
    Ok((1_000_000_000 + nanoseconds / 2) / nanoseconds)
}

/// The signals that end the daemon.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
