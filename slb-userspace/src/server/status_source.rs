//! The status document, made of what the event loop publishes, the interfaces, and one reading of the maps.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use anyhow::Result;
use tokio::{runtime::Handle, sync::watch, time::Instant};

use super::{
    file::ConfigFile,
    interfaces::InterfaceView,
    snapshot::{ActiveConfig, PendingChange, Snapshot},
    status::{StatusContext, readings::Readings, status},
    status_cache::StatusTexts,
};
use crate::{
    announce::Announced,
    clock::since_boot,
    dataplane::bpf::{losses::LossCounters, maps::Maps},
    neigh::{self, vips::VipStates},
    supervised, telemetry,
};
use slb_api::types::{
    ApiUnmatched, ConfigurationStatus, DaemonStatus, InactiveInterface, InterfaceLosses, VipAtInterface,
    VipStatus,
};
use slb_config::{
    Config,
    model::{self, LoadBalancer},
};
use slb_control::desired::unmatched;

/// Sources of status besides the maps.
pub struct StatusSources {
    /// State that the event loop published last.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// The interfaces.
    pub view: watch::Receiver<Arc<InterfaceView>>,
    /// Packets lost by the kernel, if they are counted.
    pub losses: Option<Arc<LossCounters>>,
    /// What is announced.
    pub announced: Announced,
    /// When the event loop last ran.
    pub last_run: watch::Receiver<Instant>,
}

/// Sources of the status document.
pub(super) struct StatusSource {
    pub(super) maps: Maps,
    pub(super) file: ConfigFile,
    pub(super) shown: StatusSources,
    pub(super) started: Instant,
}

impl StatusSource {
    /// Makes the status document. Blocks, and takes long with many tables.
    pub(super) fn document(&self) -> Result<StatusTexts> {
        let interfaces = Handle::current().block_on(neigh::links())?;
        let snapshot = Arc::clone(&self.shown.snapshots.borrow());
        let view = Arc::clone(&self.shown.view.borrow());
        let ActiveConfig {
            config,
            confirm_deadline,
            pending,
            overrides,
            overrides_trouble,
            vips: vip_states,
            attached,
        } = &snapshot.running;
        let daemon = DaemonStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            age_seconds: self.shown.last_run.borrow().elapsed().as_secs(),
            lost_log_lines: telemetry::lost(),
            restarted_tasks: supervised::restarts(),
            configuration: ConfigurationStatus {
                file: self.file.path().display().to_string(),
                difference: self.file.difference(config),
                confirm_within_seconds: confirm_deadline
                    .map(|ends| ends.saturating_duration_since(Instant::now()).as_secs()),
                pending: pending.as_ref().map(PendingChange::document),
            },
            interfaces_without: without(&config.daemon.interfaces, attached, &interfaces, &view),
            pins_trouble: view.pins_trouble.clone(),
            losses: self.shown.losses.as_ref().map(|counted| losses(counted, &view)),
            vips: vips(config, vip_states, &self.shown.announced),
            overrides: overrides.clone(),
            overrides_trouble: overrides_trouble.clone(),
        };
        let Snapshot { details, set, outages, sources, .. } = &*snapshot;
        let context = StatusContext {
            daemon: Some(daemon),
            config: Some(config),
            details,
            set,
            outages: Some(outages),
            sources,
            now: since_boot()?,
            interfaces: &interfaces,
            view: Some(&view),
        };
        let readings = Readings::of(&self.maps, &snapshot.state)?;
        StatusTexts::new(status(&snapshot.state, &readings, context))
    }
}

fn vips(config: &Config, vip_states: &VipStates, announced: &Announced) -> Vec<VipStatus> {
    let announcements = announced.vips();
    let of = |balancer: &LoadBalancer, address: IpAddr| {
        let standing = vip_states.get(&address).cloned().unwrap_or_default();
        let announcement = announcements.get(&address);
        let at = |(index, name): (&u32, &String)| VipAtInterface {
            interface: name.clone(),
            answers: announced.answers((*index, address)),
        };
        VipStatus {
            address,
            load_balancer: balancer.name.to_string(),
            load_balancer_id: Some(balancer.id.to_string()),
            is_local: standing.is_local,
            unmatched: match unmatched(balancer, address, Some(vip_states)) {
                model::Unmatched::Drop => ApiUnmatched::Drop,
                model::Unmatched::Reject => ApiUnmatched::Reject,
                model::Unmatched::Pass => ApiUnmatched::Pass,
            },
            unanswered: standing.unanswered,
            announced: announcement.map(|announcement| announcement.interfaces.iter().map(at).collect()),
            announcement_troubles: announcement.map_or_else(Vec::new, |found| found.troubles.clone()),
        }
    };
    let all = config.load_balancers.iter();
    all.flat_map(|balancer| balancer.addresses.iter().map(move |address| of(balancer, *address))).collect()
}

/// The configured interfaces that do not forward.
pub(super) fn without(
    configured: &[String],
    attached: &BTreeSet<String>,
    interfaces: &[neigh::Link],
    view: &InterfaceView,
) -> Vec<InactiveInterface> {
    let exists =
        |name: &String| interfaces.iter().any(|link| link.name == *name || link.altnames.contains(name));
    // The view changes at once; `attached` changes with the data plane.
    let is_without = |name: &&String| !attached.contains(*name) || view.without.contains_key(*name);
    let without = configured.iter().filter(is_without);
    let why = |name| view.without.get(name).cloned();
    without
        .map(|name| InactiveInterface { name: name.clone(), exists: exists(name), why: why(name) })
        .collect()
}

/// Lost packets, of interfaces that have lost any.
fn losses(counted: &LossCounters, view: &InterfaceView) -> Vec<InterfaceLosses> {
    let losses = view.held.iter().map(|(index, name)| {
        let losses = counted.at(*index);
        InterfaceLosses {
            interface: name.clone(),
            redirect: losses.redirect,
            transmit: losses.transmit,
            exception: losses.exception,
        }
    });
    losses.filter(|loss| loss.redirect + loss.transmit + loss.exception > 0).collect()
}
