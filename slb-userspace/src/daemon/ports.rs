//! Interfaces with the XDP program. The daemon attaches at the start, when the configuration changes, and when an
//! interface reappears.

mod attach;
mod interfaces;
pub(super) mod merging;
mod pinned;
mod renamed;
mod stacked;
mod table;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use tokio::sync::watch as channel;

use super::environment::{Interfaces, Links};
use crate::clock::since_boot;
use crate::{
    dataplane::bpf::{
        interfaces::InterfaceTable,
        link::Link as Pinned,
        loader::{self, MapSizes},
        maps::Maps,
        pins::Pins,
        resize,
        upgrade::Upgrade,
        xdp::{Attachment, Program},
    },
    devices::{self, Hook, InterfaceRecord},
    neigh::{self, Link, vips::VipStates},
    server::interfaces::{AttachedInterface, InterfaceView},
};
use slb_config::model::{Config, InterfaceRole, XdpMode};
use slb_control::{
    desired::{ObservedInputs, desired, vips_without_listeners},
    ids::MapLimits,
    reconcile::Reconciler,
};

/// Reads the interfaces of this network namespace.
pub(super) async fn links() -> Result<Links> {
    Ok(by_names(neigh::links().await?))
}

fn by_names(links: Vec<Link>) -> Links {
    let names = |link: &Link| [link.name.clone()].into_iter().chain(link.altnames.clone());
    links
        .into_iter()
        .flat_map(|link| names(&link).map(move |name| (name, link.clone())).collect::<Vec<_>>())
        .collect()
}

/// The configured interfaces and the XDP program that is attached to them.
pub(super) struct Ports {
    program: Program,
    /// Program id in the kernel.
    id: u32,
    pins: Pins,
    mode: XdpMode,
    /// Why `auto` chose generic XDP instead of native XDP.
    why_generic: Option<String>,
    claim: pinned::Claim,
    /// Why pins are missing, if they are.
    pins_trouble: Option<String>,
    ports: BTreeMap<String, PortState>,
    /// Current names of renamed interfaces, by configured name.
    renamed: BTreeMap<String, String>,
    /// Interfaces that the program was attached to, by index.
    held: BTreeMap<u32, ManagedInterface>,
    stacked: stacked::Stacked,
    /// The data path's interface table.
    table: InterfaceTable,
    /// Roles by configured name, as in the configuration.
    roles: BTreeMap<String, InterfaceRole>,
    /// The interfaces as of the last update of the table.
    seen: Links,
    /// Pairs of interfaces that collide in the table.
    collisions: Vec<(u32, u32)>,
    /// State for the next run and for `slbd detach`.
    record: InterfaceRecord,
    view: channel::Sender<Arc<InterfaceView>>,
}

/// An interface that the program was attached to.
struct ManagedInterface {
    /// As last read from the kernel.
    link: Link,
    /// The pinned BPF link between program and interface.
    pinned: Pinned,
    hook: Hook,
    /// Why the next start would refuse it, if so. Example: it has become a member of a bond or a VRF.
    start_refusal: Option<String>,
    /// Why its capabilities could not be read at the last poll, if so.
    trouble: Option<String>,
    /// Consecutive polls in which it could not take part in native forwarding.
    failed_polls: u8,
    /// Indexes of its lower interfaces, for the generic hook. They must not merge frames (GRO).
    below: BTreeSet<u32>,
    /// Remarks that are shown for it.
    notes: Vec<String>,
}

/// State of a configured interface.
#[derive(Debug, Clone, PartialEq, Eq)]
enum PortState {
    /// It runs the program and forwards.
    Attached(u32),
    /// It runs the program and cannot forward.
    Unfit { index: u32, why: String },
    /// No interface has this name now.
    Absent,
    /// The program could not be attached.
    Refused { index: u32, why: String },
}

impl PortState {
    /// Index of the interface, if it runs the program.
    fn runs(&self) -> Option<u32> {
        match self {
            Self::Attached(index) | Self::Unfit { index, .. } => Some(*index),
            Self::Absent | Self::Refused { .. } => None,
        }
    }
}

/// Loads the program and attaches it to the interfaces, after checking that the configuration fits the maps. An absent
/// interface is attached when it appears: at boot it may come up after the daemon.
///
/// Returns the reconciler and the interfaces. `hz` is the kernel's jiffies per second, `vips` the state of VIPs on this
/// host, `record` the record of an earlier run. `upgrade` is that of the pins, if they are of an older version.
///
/// # Errors
/// None of the interfaces exists, or the configuration does not fit the maps. If one interface cannot be attached, no
/// new attachment stays. A program of an earlier run that has already been replaced stays replaced.
pub(super) fn attach(
    config: &Config,
    pins: &Pins,
    mut upgrade: Option<Upgrade>,
    links: &Links,
    hz: u32,
    vips: &VipStates,
    record: InterfaceRecord,
) -> Result<(Reconciler<Maps>, Ports)> {
    let in_use = &upgrade.as_ref().map_or_else(|| pins.clone(), Upgrade::pins);
    let renamed = renamed::read_renamed(&record, in_use, &config.daemon.interfaces, links)?;
    let links = &renamed::under_old_names(&renamed, links);
    expect_any_exists(&config.daemon.interfaces, links)?;
    expect_fit(&[], &config.daemon.interfaces, links)?;
    let here: Vec<Link> = links.values().cloned().collect();
    pins.expect_here(&here).context(
        "set [daemon] pin_dir to another directory: each network namespace needs one of its own (where nothing of the other \
         one is needed any more, `slbd detach --force` removes its pins)",
    )?;
    let sizes = MapSizes { flows: config.daemon.flow_table_entries, backends: config.daemon.max_servers };
    if let Err(error) = resize::begin(in_use, sizes) {
        let error = format!("{error:#}");
        tracing::warn!(error, "[daemon] flow_table_entries: the flow table keeps its size");
    }
    let had_sources = resize::has_sources(in_use);
    let mut program = loader::load(in_use, sizes)?;
    #[cfg(feature = "debug-log")]
    program.follow_log()?;
    for facts in program.stats()? {
        tracing::info!(
            program = facts.name,
            verified_instructions = facts.verified_instructions,
            machine_code_bytes = facts.machine_code_bytes,
            "XDP program loaded"
        );
    }
    let maps = Maps::open(in_use)?;
    let max_backends = maps.max_backends();
    if let Some(room) = kept_size_notice(config.daemon.max_servers, max_backends) {
        tracing::warn!("{room}");
    }
    let limits = MapLimits { interfaces: BTreeSet::new(), hz, max_backends };
    let mut reconciler = Reconciler::new(maps, limits);
    let checked =
        reconciler.check(&desired(config, ObservedInputs { vips: Some(vips), ..ObservedInputs::default() }));
    match kept_size_notice(config.daemon.max_servers, max_backends) {
        Some(room) => checked.context(room)?,
        None => checked?,
    }
    if let Some(upgrade) = &mut upgrade {
        upgrade.commit()?;
    }
    resize::migrate(pins, &mut program, hz, had_sources)?;
    if let Some(upgrade) = upgrade {
        upgrade.finish(&mut program)?;
    }
    if reconciler.actual()?.services.is_empty() {
        reconciler.reconcile(&vips_without_listeners(config, vips), since_boot()?)?;
    }
    let mut ports = Ports {
        id: program.id()?,
        program,
        pins: pins.clone(),
        mode: config.daemon.xdp_mode,
        why_generic: None,
        claim: pinned::Claim::of(pins.identity()),
        pins_trouble: None,
        ports: BTreeMap::new(),
        renamed,
        held: BTreeMap::new(),
        stacked: stacked::Stacked::default(),
        table: InterfaceTable::open(pins)?,
        roles: config.daemon.roles.clone(),
        seen: Links::new(),
        collisions: Vec::new(),
        record,
        view: channel::Sender::default(),
    };
    ports.add(&config.daemon.interfaces, links)?;
    loader::detach_others(pins, &ports.held.keys().copied().collect())?;
    loader::remove_unused_programs(&mut ports.program, pins)?;
    ports.restore_merging();
    reconciler.set_interfaces(ports.exits(&[]), &BTreeSet::new());
    Ok((reconciler, ports))
}

/// Explains how to change `max_servers` if the existing maps have another capacity.
fn kept_size_notice(configured: u32, held: u32) -> Option<String> {
    (configured != held).then(|| {
        format!(
            "[daemon] max_servers = {configured} has no effect yet: the maps were made for {held} servers and are in use; for \
             it to take effect stop slbd, run `slbd detach`, which interrupts forwarding and ends connections of mode nat, and \
             start it again; or write `max_servers = {held}`"
        )
    })
}

/// Fails if none of the named interfaces exists.
pub(super) fn expect_any_exists(names: &[String], links: &Links) -> Result<()> {
    match names.first() {
        Some(name) if missing(names, links).len() == names.len() => {
            let names: Vec<_> = links.keys().map(String::as_str).collect();
            bail!("no interface {name}; there are: {}", names.join(", "))
        }
        _ => Ok(()),
    }
}

/// Fails if the program cannot work on interfaces `new`, for a reason that does not apply to `old`.
pub(super) fn expect_fit(old: &[String], new: &[String], links: &Links) -> Result<()> {
    devices::refusal(old, new, links).map_or(Ok(()), |why| bail!("[daemon] interfaces: {why}"))
}

/// Names without an interface.
pub(super) fn missing(names: &[String], links: &Links) -> Vec<String> {
    names.iter().filter(|name| !links.contains_key(*name)).cloned().collect()
}

impl Ports {
    /// Publishes the interfaces as the API shows them, at each change.
    pub(super) fn view(&self) -> channel::Receiver<Arc<InterfaceView>> {
        self.view.subscribe()
    }

    fn publish(&mut self) {
        let running = self.ports.iter().filter_map(|(name, port)| Some((name.clone(), port.runs()?)));
        self.record.note_names(running.collect());
        let mut view = InterfaceView { pins_trouble: self.pins_trouble.clone(), ..InterfaceView::default() };
        for (name, port) in &self.ports {
            match port {
                PortState::Attached(index) => {
                    view.attached.extend(self.held.get(index).map(|held| (*index, self.shown(name, held))));
                }
                PortState::Unfit { why, .. } | PortState::Refused { why, .. } => {
                    view.without.insert(name.clone(), why.clone());
                }
                PortState::Absent => {}
            }
        }
        view.held = self.held.iter().map(|(index, held)| (*index, held.link.name.clone())).collect();
        self.view.send_replace(Arc::new(view));
    }

    fn shown(&self, name: &str, held: &ManagedInterface) -> AttachedInterface {
        let why = self.why_generic.iter().filter(|_| held.hook == Hook::Generic).cloned();
        let renamed = self.renamed.get(name).map(|now| renamed::advice(name, now));
        let members = self.note_on_members(held.link.index);
        let notes =
            why.chain(renamed).chain(held.start_refusal.clone()).chain(members).chain(held.notes.clone());
        let notes = notes.collect();
        AttachedInterface { name: name.to_owned(), hook: held.hook, notes }
    }

    fn followed(
        &mut self,
        name: &str,
        port: &PortState,
        link: Option<&Link>,
        links: &Links,
        gone: &mut BTreeSet<u32>,
    ) -> PortState {
        let before = port.runs();
        // The same index may be the same interface. Then its BPF link is still valid and is kept.
        if let Some(index) = before.filter(|index| link.is_none_or(|link| link.index != *index)) {
            self.unpin(name, index);
            gone.insert(index);
        }
        let Some(link) = link else {
            if *port != PortState::Absent {
                tracing::warn!(interface = name, "the interface is gone: attached again when it reappears");
            }
            return PortState::Absent;
        };
        self.log_occupied(port, link);
        let ready = self.expect_fit(link, links).and_then(|()| self.note_interfaces(&[link], links));
        match ready.and_then(|()| self.attach_later(link)) {
            Ok(Attachment::Replaced) => PortState::Attached(link.index),
            Ok(_) => {
                gone.extend(before);
                PortState::Attached(link.index)
            }
            Err(error) => {
                self.held.remove(&link.index);
                gone.extend(before);
                let now = PortState::Refused { index: link.index, why: format!("{error:#}") };
                if now != *port {
                    tracing::error!(
                        interface = name,
                        error = format!("{error:#}"),
                        "XDP program not attached; retrying"
                    );
                }
                now
            }
        }
    }

    /// Removes the pin of a BPF link, which detaches the program.
    fn unpin(&mut self, name: &str, index: u32) {
        self.held.remove(&index);
        match fs::remove_file(self.pins.link(index)) {
            Ok(()) => tracing::info!(interface = name, "detached"),
            Err(error) => tracing::warn!(interface = name, %error, "cannot remove the pin of the link"),
        }
    }

    /// Whether the state of an interface needs no action.
    fn is_unchanged(&self, port: &PortState, link: Option<&Link>) -> bool {
        match port {
            PortState::Attached(index) | PortState::Unfit { index, .. } => {
                link.is_some_and(|link| link.index == *index) && self.runs_on(*index)
            }
            PortState::Absent => link.is_none(),
            PortState::Refused { .. } => false,
        }
    }

    /// Logs how an existing interface has lost the program.
    fn log_occupied(&self, port: &PortState, link: &Link) {
        let held = port.runs().filter(|index| link.index == *index).and_then(|index| self.held.get(&index));
        let Some(held) = held else { return };
        let interface = &link.name;
        match held.pinned.bound() {
            Ok(bound) if bound.interface.is_none() => {
                tracing::warn!(
                    interface,
                    "SLB's program was detached from the interface: attaching it again"
                );
            }
            Ok(bound) if bound.program != self.id => {
                tracing::error!(
                    interface,
                    program = bound.program,
                    "another program has replaced SLB's in its link"
                );
            }
            _ => {}
        }
    }

    /// Whether the interface runs this program.
    fn runs_on(&self, index: u32) -> bool {
        let bound = self.held.get(&index).and_then(|held| held.pinned.bound().ok());
        bound.is_some_and(|bound| bound.interface == Some(index) && bound.program == self.id)
    }
}

#[cfg(test)]
mod tests;
