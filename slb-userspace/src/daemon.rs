//! `slbd run`: brings everything together and keeps it so.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::time::{ClockId, clock_getres};
use slb_common::abi::{
    Mac,
    backend::{Backend, NextHop},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    api::server::{Snapshot, Socket},
    config::model::{Config, XdpMode},
    control::{
        desired::{Desired, Known, Verdict, desired, destinations, targets},
        ids::Assigned,
        reconcile::Reconciler,
    },
    dataplane::{
        bpf::{
            loader::{Attachment, Program},
            maps::Maps,
            pins::Pins,
        },
        state::{State, backend_address},
    },
    health::{Event, Health, Supervisor, Target},
    neigh::{self, Link, Resolution, Resolver},
};

/// Changes that come within this time of one another are put in force together.
const GATHER: Duration = Duration::from_millis(10);
/// Least time between two changes of the data plane.
const SPACING: Duration = Duration::from_millis(100);
/// Time until a failed change is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Time the kernel is given to tell of next hops before the data plane is changed for the first time.
const FIRST_NEIGHBOURS: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT. Forwarding goes on afterwards.
pub async fn run(config: Config) -> Result<()> {
    let mut stop = Stop::new()?;
    let pins = Pins::new(&config.daemon.pin_dir);
    let fresh = !pins.exist();
    pins.create()?;
    let Some(_lock) = pins.lock()? else {
        bail!(
            "another slbd uses {}: stop it, or set [daemon] pin_dir to another directory",
            pins.root().display()
        );
    };
    let mut socket = Socket::bind(&config.daemon.socket).await?;

    let (mut reconciler, interfaces) = match start(&config, &pins).await {
        Ok(started) => started,
        Err(error) => {
            if fresh {
                pins.remove().context("cannot remove the pins of a start that failed")?;
            }
            return Err(error);
        }
    };

    let remembered = remembered(&config, reconciler.held()?);
    let mut known = Facts { interfaces, health: remembered, next_hops: BTreeMap::new() };
    let (events, mut verdicts) = mpsc::channel(1024);
    let mut supervisor = Supervisor::new(events);
    supervisor.set_targets(
        targets(&config)
            .into_keys()
            .map(|target| {
                let before = known
                    .health
                    .get(&target)
                    .map(|verdict| if verdict.healthy { Health::Healthy } else { Health::Unhealthy });
                (target, before)
            })
            .collect(),
    );
    let (resolver, mut neighbours) = Resolver::spawn()?;
    resolver.watch(destinations(&config));
    // Until the kernel has told of next hops, there are none to put in force: an earlier run's would be lost.
    let _ = timeout(FIRST_NEIGHBOURS, neighbours.changed()).await;
    known.learn(&neighbours.borrow_and_update());

    let (snapshots, published) = watch::channel(Arc::new(Snapshot::default()));
    let mut apply = |known: &Facts| -> Result<()> {
        let desired = desired(&config, known.as_known());
        let (assigned, operations) = reconciler.reconcile(&desired)?;
        tracing::debug!(operations, "data plane is as desired");
        snapshots.send_replace(Arc::new(snapshot(&desired, assigned)));
        Ok(())
    };
    apply(&known)?;
    tracing::info!(
        socket = %config.daemon.socket.display(),
        load_balancers = config.load_balancers.len(),
        "running"
    );

    let maps = Maps::open(&pins)?;
    let serving = socket.serve(maps, published);
    tokio::pin!(serving);
    let mut due = None;
    let mut last = Instant::now();
    loop {
        let soon = |last: Instant| Some((Instant::now() + GATHER).max(last + SPACING));
        tokio::select! {
            signal = stop.wait() => {
                tracing::info!(signal, "stopping; forwarding goes on: `slbd detach` ends it");
                return Ok(());
            }
            result = &mut serving => return result.context("the API has ended"),
            Some(event) = verdicts.recv() => {
                known.heed(event);
                due = due.or_else(|| soon(last));
            }
            Ok(()) = neighbours.changed() => {
                known.learn(&neighbours.borrow_and_update());
                due = due.or_else(|| soon(last));
            }
            () = sleep_until(due.unwrap_or(last)), if due.is_some() => {
                due = None;
                if let Err(error) = apply(&known) {
                    tracing::error!(error = format!("{error:#}"), "the data plane is not as desired; trying again");
                    due = Some(Instant::now() + RETRY);
                }
                last = Instant::now();
            }
        }
    }
}

/// What is known of servers and neighbours.
struct Facts {
    /// Names of the interfaces that run the program, by index.
    interfaces: BTreeMap<u32, String>,
    health: BTreeMap<Target, Verdict>,
    next_hops: BTreeMap<IpAddr, NextHop>,
}

impl Facts {
    fn as_known(&self) -> Known<'_> {
        Known { health: Some(&self.health), next_hops: Some(&self.next_hops) }
    }

    fn heed(&mut self, event: Event) {
        let Event { target, healthy, detail } = event;
        if healthy {
            tracing::info!(server = %target.address, "healthy");
        } else {
            tracing::warn!(server = %target.address, detail, "unhealthy");
        }
        self.health.insert(target, Verdict { healthy, detail });
    }

    fn learn(&mut self, neighbours: &BTreeMap<IpAddr, Resolution>) {
        let mut next_hops = BTreeMap::new();
        for (address, resolution) in neighbours {
            match resolution {
                Resolution::Resolved(hop) if !self.interfaces.contains_key(&hop.interface_index) => {
                    tracing::warn!(
                        server = %address,
                        interface = hop.interface,
                        "the way to the server leaves through an interface that is not in [daemon] interfaces: \
                         it gets no packets"
                    );
                }
                Resolution::Resolved(hop) => {
                    next_hops.insert(
                        *address,
                        NextHop {
                            ifindex: hop.interface_index,
                            reserved: 0,
                            destination: Mac::new(hop.destination_mac),
                            source: Mac::new(hop.source_mac),
                        },
                    );
                }
                Resolution::Unresolved(why) if self.next_hops.contains_key(address) => {
                    tracing::warn!(server = %address, %why, "the way to the server is lost");
                }
                Resolution::Unresolved(why) => {
                    tracing::debug!(server = %address, %why, "no way to the server");
                }
            }
        }
        self.next_hops = next_hops;
    }
}

/// Loads the program and puts it on the interfaces, once it is known that the maps hold what is configured.
async fn start(config: &Config, pins: &Pins) -> Result<(Reconciler<Maps>, BTreeMap<u32, String>)> {
    let interfaces = configured(config).await?;
    let indexes: BTreeSet<u32> = interfaces.iter().map(|interface| interface.index).collect();
    // The links keep the program: nothing here needs to.
    let mut program = Program::load(pins, config.daemon.flow_table_entries)?;
    #[cfg(feature = "debug-log")]
    program.follow_log()?;
    let facts = program.facts()?;
    tracing::info!(
        verified_instructions = facts.verified_instructions,
        machine_code_bytes = facts.machine_code_bytes,
        "XDP program loaded"
    );
    let mut reconciler = Reconciler::new(Maps::open(pins)?, indexes.clone(), jiffies_per_second()?);
    reconciler.check(&desired(config, Known::default()))?;
    for interface in &interfaces {
        let attachment = program
            .attach(pins, interface.index, config.daemon.xdp_mode)
            .with_context(|| format!("cannot attach to {}", interface.name))?;
        report(interface, attachment, config.daemon.xdp_mode);
    }
    Program::detach_others(pins, &indexes)?;
    Ok((reconciler, interfaces.into_iter().map(|interface| (interface.index, interface.name)).collect()))
}

/// The configured interfaces.
async fn configured(config: &Config) -> Result<Vec<Link>> {
    let present = neigh::links().await?;
    let find = |name: &String| {
        present.iter().find(|interface| interface.name == *name).cloned().with_context(|| {
            let names: Vec<_> = present.iter().map(|interface| interface.name.as_str()).collect();
            format!("no interface {name}; there are: {}", names.join(", "))
        })
    };
    config.daemon.interfaces.iter().map(find).collect()
}

fn report(interface: &Link, attachment: Attachment, wanted: XdpMode) {
    let native = match attachment {
        Attachment::Native => true,
        Attachment::Generic => false,
        Attachment::Replaced => interface.xdp.is_some_and(|xdp| xdp.native),
    };
    let mode = if native { "native" } else { "generic" };
    tracing::info!(interface = interface.name, mode, how = ?attachment, "attached");
    if (wanted == XdpMode::Native && !native) || (wanted == XdpMode::Generic && native) {
        tracing::warn!(
            interface = interface.name,
            mode,
            "the mode in force is kept: the configured one takes effect after `slbd detach`"
        );
    }
    if interface.kind.as_deref() == Some("veth") {
        tracing::warn!(
            interface = interface.name,
            "veth: switch off transmit checksum offload on both ends (`ethtool -K NAME tx off`), or TCP will stall"
        );
    }
}

/// Health of servers as an earlier run left it, so that a restart neither sends new flows to a dead server nor
/// empties a table.
fn remembered(config: &Config, held: &State) -> BTreeMap<Target, Verdict> {
    let before: BTreeMap<SocketAddr, bool> = held
        .backends
        .values()
        .filter(|backend| matches!(backend.health, Backend::HEALTH_HEALTHY | Backend::HEALTH_UNHEALTHY))
        .map(|backend| (backend_address(backend), backend.health == Backend::HEALTH_HEALTHY))
        .collect();
    targets(config)
        .into_iter()
        .filter_map(|(target, server)| {
            let healthy = *before.get(&server)?;
            Some((target, Verdict { healthy, detail: None }))
        })
        .collect()
}

fn snapshot(desired: &Desired, assigned: Assigned) -> Snapshot {
    let Assigned { state, tables } = assigned;
    let details = state
        .backends
        .iter()
        .filter_map(|(id, backend)| {
            let pool = tables.iter().position(|table| *table == backend.ring)?;
            let server = desired.pools[pool].servers.get(&backend_address(backend))?;
            Some((*id, server.detail.clone()?))
        })
        .collect();
    Snapshot { state, details }
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
