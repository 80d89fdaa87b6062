//! What metrics are written from: one reading of the maps, and the state that the event loop published last.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use procfs::process::Process;
use slb_common::abi::{
    ids::{ServiceId, TableId},
    losses::Losses,
    service::Service,
};
use tokio::runtime::Handle;

use crate::{
    clock::since_boot,
    dataplane::bpf::losses::LossCounters,
    neigh,
    server::{
        Snapshot,
        interfaces::InterfaceView,
        status::{StatusContext, readings::Readings},
        status_source::StatusSource,
    },
};

/// Sources of one scrape. Concurrent scrapes share it.
pub(super) struct Collected {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) view: Arc<InterfaceView>,
    pub(super) interfaces: Vec<neigh::Link>,
    pub(super) readings: Readings,
    /// Packets lost by the kernel by interface; `None` if they are not counted.
    pub(super) losses: Option<Vec<(String, Losses)>>,
    /// Whether the file differs from the active configuration.
    pub(super) differs: bool,
    /// Time since the event loop last ran.
    pub(super) age: Duration,
    /// This process, if `/proc` can be read.
    pub(super) process: Option<ProcessUsage>,
    /// Time since boot.
    now: Duration,
    /// How long this took.
    pub(super) took: Duration,
}

/// Use of resources by this process.
pub(super) struct ProcessUsage {
    pub(super) started: SystemTime,
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: u64,
    pub(super) open_fds: usize,
    pub(super) max_fds: u64,
}

impl Collected {
    /// Reads the maps and the interfaces. Blocks.
    pub(super) fn of(source: &StatusSource, started: SystemTime) -> Result<Self> {
        let begun = Instant::now();
        let interfaces = Handle::current().block_on(neigh::links())?;
        let snapshot = Arc::clone(&source.shown.snapshots.borrow());
        let view = Arc::clone(&source.shown.view.borrow());
        let readings = Readings::of(&source.maps, &snapshot.state)?;
        Ok(Self {
            losses: source.shown.losses.as_ref().map(|counted| all_losses(counted, &view)),
            differs: source.file.difference(&snapshot.running.config).is_some(),
            age: source.shown.last_run.borrow().elapsed(),
            process: ProcessUsage::of_this(started).ok(),
            now: since_boot()?,
            took: begun.elapsed(),
            snapshot,
            view,
            interfaces,
            readings,
        })
    }

    /// Sources without interfaces.
    #[cfg(test)]
    pub(super) fn for_tests(snapshot: Snapshot, readings: Readings, losses: Vec<(String, Losses)>) -> Self {
        Self {
            snapshot: Arc::new(snapshot),
            view: Arc::default(),
            interfaces: Vec::new(),
            readings,
            losses: Some(losses),
            differs: false,
            age: Duration::ZERO,
            process: ProcessUsage::of_this(SystemTime::now()).ok(),
            now: Duration::ZERO,
            took: Duration::ZERO,
        }
    }

    /// The services of running listeners, by id.
    pub(super) fn services(&self) -> impl Iterator<Item = (ServiceId, &Service)> {
        let services = self.snapshot.state.services.iter();
        services.filter(|(_, service)| service.table() != TableId::NONE).map(|(id, service)| (*id, service))
    }

    /// The context of servers as the status document describes them.
    pub(super) fn context(&self) -> StatusContext<'_> {
        let Snapshot { details, set, outages, sources, running, .. } = &*self.snapshot;
        StatusContext {
            daemon: None,
            config: Some(&running.config),
            details,
            set,
            outages: Some(outages),
            sources,
            now: self.now,
            interfaces: &self.interfaces,
            view: Some(&self.view),
        }
    }
}

/// Lost packets of all interfaces that have been attached, also of those that have lost none.
fn all_losses(counted: &LossCounters, view: &InterfaceView) -> Vec<(String, Losses)> {
    view.held.iter().map(|(index, name)| (name.clone(), counted.at(*index))).collect()
}

impl ProcessUsage {
    fn of_this(started: SystemTime) -> Result<Self> {
        let process = Process::myself()?;
        let stat = process.stat()?;
        let ticks = procfs::ticks_per_second();
        let limits = process.limits()?;
        Ok(Self {
            started,
            cpu_seconds: (stat.utime + stat.stime) as f64 / ticks as f64,
            resident_bytes: stat.rss * procfs::page_size(),
            open_fds: process.fd_count().context("cannot count file descriptors")?,
            max_fds: match limits.max_open_files.soft_limit {
                procfs::process::LimitValue::Value(limit) => limit,
                procfs::process::LimitValue::Unlimited => u64::MAX,
            },
        })
    }
}
