//! Starts the daemon: opens sockets, attaches the program, subscribes to the kernel's notifications.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Result, bail};
use nix::time::{ClockId, clock_getres};
use tokio::task::JoinSet;

use super::{
    environment::Interfaces as _,
    event_loop::{EventLoop, probes},
    gc_thread::GcThread,
    kernel::{Kernel, Subscriptions},
    missing_resources::MissingResources,
    ports::{attach, links},
    route_lookups, seed,
    store::Store,
};
use crate::{
    announce::Announcer,
    dataplane::bpf::{
        flow_table::PinnedFlowTable, lifetime::PinLifetime, maps::Maps, pins::Pins, seeds, upgrade::Upgrade,
    },
    devices::InterfaceRecord,
    health::Failures,
    instruments::INSTRUMENTS,
    neigh::{self, vips::VipWatcher},
    provoke::Provoker,
    server::{Sockets, StatusSources, loader::Loader},
};
use slb_config::model::Config;
use slb_control::targets::addresses;

/// A daemon that has started.
pub(super) struct Started {
    pub(super) event_loop: EventLoop<Kernel>,
    /// Dropping it stops the API.
    pub(super) api: JoinSet<()>,
}

/// Starts, and applies `config`, which was read from `file`. The API answers from then on, or already while the start
/// waits for servers. `lifetime` is that of the pins, `record` is the record of an earlier run.
///
/// # Errors
/// The program cannot be attached, or the configuration does not fit the maps.
pub(super) async fn start(
    file: PathBuf,
    config: Arc<Config>,
    pins: &Pins,
    lifetime: PinLifetime,
    record: InterfaceRecord,
) -> Result<Started> {
    let sockets = Sockets::bind(&config.daemon).await?;
    let links_changed = neigh::follow_links()?;
    let links = links().await?;
    let (vip_watcher, mut vip_states) = VipWatcher::spawn(addresses(&config)).await?;
    let vips = vip_states.borrow_and_update().clone();
    let store = Store::open(&config.daemon.state_dir);
    store.expect_api_document(config.documents.api.as_ref())?;
    let upgrade = Upgrade::begin(pins)?;
    let in_use = upgrade.as_ref().map_or_else(|| pins.clone(), Upgrade::pins);
    let config = seed::fill_in(config, seeds::seed_in_use(&in_use)?, store.directory())?;
    if let Some(directory) = store.directory() {
        record.persist_in(directory);
    }
    route_lookups::enable();
    let (reconciler, ports) = attach(&config, pins, upgrade, &links, jiffies_per_second()?, &vips, record)?;
    MissingResources::of(&config.daemon, &ports.known(&links)).log();
    let gc_thread = GcThread::spawn(PinnedFlowTable::open(pins)?, Provoker::new()?)?;
    let subscriptions = Subscriptions { links_changed, vip_watcher, vip_states };
    let failures = Failures::open(store.directory());
    let announcer = Announcer::spawn(pins, lifetime)?;
    let kernel = Kernel::new(ports, subscriptions, probes(&config), failures, gc_thread, announcer)?;
    let loader = Loader::new(file, config.daemon.seed());
    let mut event_loop = EventLoop::new(kernel, reconciler, config, store, loader, vips)?;
    event_loop.await_first_results().await?;
    let api = event_loop.serve(sockets, pins)?;
    event_loop.begin_forwarding().await?;
    INSTRUMENTS.configured();
    Ok(Started { event_loop, api })
}

impl EventLoop<Kernel> {
    /// Serves the API once the first snapshot is published.
    fn serve(&self, sockets: Sockets, pins: &Pins) -> Result<JoinSet<()>> {
        let shown = StatusSources {
            snapshots: self.snapshots.subscribe(),
            view: self.env.ports.view(),
            losses: self.env.losses.counted(),
            announced: self.env.announcer.announced(),
            last_run: self.last_run.subscribe(),
        };
        let mut first = self.snapshots.subscribe();
        let serving =
            sockets.serve(Maps::open(pins)?, self.loader.clone(), shown, self.request_sender.clone());
        let mut api = JoinSet::new();
        api.spawn(async move {
            if first.changed().await.is_ok() {
                serving.await;
            }
        });
        Ok(api)
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
