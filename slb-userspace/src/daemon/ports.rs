//! The interfaces the program is to run on: put there at the start and by changes of the configuration, and again where one
//! has gone away and come back.

mod attach;
pub(super) mod merged;
mod pinned;
mod renamed;
mod stacked;
mod table;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, mem,
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use tokio::sync::watch as channel;

use crate::clock::since_start;
use crate::{
    api::interfaces::{Shown, View},
    config::model::{Config, InterfaceRole, XdpMode},
    control::{
        desired::{Known, desired, vips_alone},
        ids::Surroundings,
        reconcile::Reconciler,
    },
    dataplane::bpf::{
        interfaces::InterfaceTable,
        link::Link as Pinned,
        loader::{self, Sizes},
        maps::Maps,
        pins::Pins,
        resize,
        xdp::{Attachment, Program},
    },
    devices::{self, Hook, Record},
    neigh::{self, Link, vips::Standings},
};

/// Interfaces by each of their names.
pub(super) type Links = BTreeMap<String, Link>;

/// The interfaces that there are now.
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

/// The configured interfaces, and the program that runs on them.
pub(super) struct Ports {
    program: Program,
    /// Its id in the kernel.
    id: u32,
    pins: Pins,
    mode: XdpMode,
    /// Why the generic hook is taken where `auto` would have taken the native one.
    why_generic: Option<String>,
    claim: pinned::Claim,
    /// Why pins are missing, if so.
    pins_trouble: Option<String>,
    ports: BTreeMap<String, Port>,
    /// Present names of interfaces that are known by another one.
    renamed: BTreeMap<String, String>,
    /// The interfaces that the program has been put on, by index.
    held: BTreeMap<u32, Held>,
    stacked: stacked::Stacked,
    /// What the program knows of interfaces.
    table: InterfaceTable,
    /// Roles by configured name, as in the configuration.
    roles: BTreeMap<String, InterfaceRole>,
    /// The interfaces as they were when the table was brought up to date last.
    seen: Links,
    /// Interfaces that the table has no slot for.
    clashes: Vec<(u32, u32)>,
    /// For the next run, and for `slbd detach`.
    record: Record,
    view: channel::Sender<Arc<View>>,
}

/// An interface that the program has been put on.
struct Held {
    /// As it was when that was found out last.
    link: Link,
    /// What binds the program to it.
    pinned: Pinned,
    hook: Hook,
    /// Why it would be refused now, if so: it has become a member of a bond or a VRF.
    misfit: Option<String>,
    /// Why it could not be found out at the last look what it can do, if so.
    trouble: Option<String>,
    /// Times in a row that it could not take part in native forwarding.
    misses: u8,
    /// Indexes of the interfaces below it, where it is in the generic hook: they must not merge frames.
    below: BTreeSet<u32>,
    /// What is special about it.
    notes: Vec<String>,
}

/// An interface, as far as the program is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Port {
    /// It runs the program.
    Attached(u32),
    /// It runs the program, and gets no packets.
    Unfit { index: u32, why: String },
    /// There is no interface of this name now.
    MissingResources,
    /// The program could not be put on it.
    Refused { index: u32, why: String },
}

impl Port {
    /// Index of the interface that runs the program.
    fn runs(&self) -> Option<u32> {
        match self {
            Self::Attached(index) | Self::Unfit { index, .. } => Some(*index),
            Self::MissingResources | Self::Refused { .. } => None,
        }
    }
}

/// Loads the program and puts it on the interfaces, once it is known that the maps have room for what is configured. An
/// interface that is not there gets it when it comes: a machine's may come after the daemon.
///
/// Returns the maps' keeper and the interfaces. `hz` is jiffies in a second, `vips` how VIPs stand on this host, `record` what an
/// earlier run has left.
///
/// # Errors
/// No interface is there. If one cannot be attached to, none is that was not before; where an earlier run's program has been replaced
/// already, the new one stays.
pub(super) fn attach(
    config: &Config,
    pins: &Pins,
    links: &Links,
    hz: u32,
    vips: &Standings,
    record: Record,
) -> Result<(Reconciler<Maps>, Ports)> {
    let renamed = renamed::since(&record, pins, &config.daemon.interfaces, links)?;
    let links = &renamed::under_old_names(&renamed, links);
    some_there(&config.daemon.interfaces, links)?;
    expect_fit(&[], &config.daemon.interfaces, links)?;
    let here: Vec<Link> = links.values().cloned().collect();
    pins.expect_here(&here).context(
        "set [daemon] pin_dir to another directory: each network namespace needs one of its own (where nothing of the other \
         one is needed any more, `slbd detach --force` removes its pins)",
    )?;
    let sizes = Sizes { flows: config.daemon.flow_table_entries, backends: config.daemon.max_servers };
    if let Err(error) = resize::begin(pins, sizes) {
        let error = format!("{error:#}");
        tracing::warn!(error, "[daemon] flow_table_entries: the flow table keeps its size");
    }
    let mut program = loader::load(pins, sizes)?;
    #[cfg(feature = "debug-log")]
    program.follow_log()?;
    let facts = program.facts()?;
    tracing::info!(
        verified_instructions = facts.verified_instructions,
        machine_code_bytes = facts.machine_code_bytes,
        "XDP program loaded"
    );
    let maps = Maps::open(pins)?;
    let max_backends = maps.max_backends();
    if let Some(room) = kept_room(config.daemon.max_servers, max_backends) {
        tracing::warn!("{room}");
    }
    let surroundings = Surroundings { interfaces: BTreeSet::new(), hz, max_backends };
    let mut reconciler = Reconciler::new(maps, surroundings);
    let checked = reconciler.check(&desired(config, Known { vips: Some(vips), ..Known::default() }));
    match kept_room(config.daemon.max_servers, max_backends) {
        Some(room) => checked.context(room)?,
        None => checked?,
    }
    if reconciler.held()?.services.is_empty() {
        reconciler.reconcile(&vips_alone(config, vips), since_start()?)?;
    }
    resize::migrate(pins, &mut program, hz)?;
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
        clashes: Vec::new(),
        record,
        view: channel::Sender::default(),
    };
    ports.add(&config.daemon.interfaces, links)?;
    loader::detach_others(pins, &ports.held.keys().copied().collect())?;
    loader::remove_unused_programs(&mut ports.program, pins)?;
    ports.merge_again();
    reconciler.set_interfaces(ports.exits(&[]), &BTreeSet::new());
    Ok((reconciler, ports))
}

/// What to do where the maps of an earlier run hold another number of servers than is configured.
fn kept_room(configured: u32, held: u32) -> Option<String> {
    (configured != held).then(|| {
        format!(
            "[daemon] max_servers = {configured} has no effect yet: the maps were made for {held} servers and are in use; for \
             it to take effect stop slbd, run `slbd detach`, which interrupts forwarding and ends connections of mode nat, and \
             start it again; or write `max_servers = {held}`"
        )
    })
}

/// Fails if there is no interface of any of these names.
pub(super) fn some_there(names: &[String], links: &Links) -> Result<()> {
    match names.first() {
        Some(name) if missing(names, links).len() == names.len() => {
            let names: Vec<_> = links.keys().map(String::as_str).collect();
            bail!("no interface {name}; there are: {}", names.join(", "))
        }
        _ => Ok(()),
    }
}

/// Fails if the program is of no use on interfaces of the names `new`, for a reason that the names `old` had not.
pub(super) fn expect_fit(old: &[String], new: &[String], links: &Links) -> Result<()> {
    devices::refusal(old, new, links).map_or(Ok(()), |why| bail!("[daemon] interfaces: {why}"))
}

/// Those of these names that there is no interface of.
pub(super) fn missing(names: &[String], links: &Links) -> Vec<String> {
    names.iter().filter(|name| !links.contains_key(*name)).cloned().collect()
}

impl Ports {
    /// Names of the interfaces that run the program and forward, by index.
    pub(super) fn attached(&self) -> BTreeMap<u32, String> {
        self.attached_without(&[])
    }

    /// Names, as configured, of the interfaces that run the program.
    pub(super) fn attached_names(&self) -> BTreeSet<String> {
        let attached = self.ports.iter().filter(|(_, port)| matches!(port, Port::Attached(_)));
        attached.map(|(name, _)| name.clone()).collect()
    }

    /// [`Self::attached`] without these names: an interface may have several.
    pub(super) fn attached_without(&self, names: &[String]) -> BTreeMap<u32, String> {
        let attached = |(name, port): (&String, &Port)| match port {
            Port::Attached(index) => Some((*index, name.clone())),
            _ => None,
        };
        self.ports.iter().filter(|(name, _)| !names.contains(name)).filter_map(attached).collect()
    }

    /// Interfaces that are there and do not forward, by index, and why not.
    pub(super) fn refused(&self) -> BTreeMap<u32, String> {
        let refused = |port: &Port| match port {
            Port::Refused { index, why } | Port::Unfit { index, why } => Some((*index, why.clone())),
            _ => None,
        };
        self.ports.values().filter_map(refused).collect()
    }

    /// What is shown of the interfaces, whenever it changes.
    pub(super) fn view(&self) -> channel::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Why pins are missing, if so.
    pub(super) fn pins_trouble(&self) -> Option<&str> {
        self.pins_trouble.as_deref()
    }

    /// Keeps for the next run, and for `slbd detach`, what they must know.
    pub(super) fn keep_record_in(&self, directory: &Path) {
        self.record.keep_in(directory);
    }

    fn publish(&mut self) {
        let running = self.ports.iter().filter_map(|(name, port)| Some((name.clone(), port.runs()?)));
        self.record.note_names(running.collect());
        let mut view = View { pins_trouble: self.pins_trouble.clone(), ..View::default() };
        for (name, port) in &self.ports {
            match port {
                Port::Attached(index) => {
                    view.attached.extend(self.held.get(index).map(|held| (*index, self.shown(name, held))));
                }
                Port::Unfit { why, .. } | Port::Refused { why, .. } => {
                    view.without.insert(name.clone(), why.clone());
                }
                Port::MissingResources => {}
            }
        }
        view.held = self.held.iter().map(|(index, held)| (*index, held.link.name.clone())).collect();
        self.view.send_replace(Arc::new(view));
    }

    fn shown(&self, name: &str, held: &Held) -> Shown {
        let why = self.why_generic.iter().filter(|_| held.hook == Hook::Generic).cloned();
        let renamed = self.renamed.get(name).map(|now| renamed::advice(name, now));
        let members = self.note_on_members(held.link.index);
        let notes = why.chain(renamed).chain(held.misfit.clone()).chain(members).chain(held.notes.clone());
        let notes = notes.collect();
        Shown { name: name.to_owned(), hook: held.hook, notes }
    }

    /// Names of interfaces that are not there.
    pub(super) fn absent(&self) -> BTreeSet<String> {
        let absent = self.ports.iter().filter(|(_, port)| **port == Port::MissingResources);
        absent.map(|(name, _)| name.clone()).collect()
    }

    /// Whether an interface that is there does not run the program.
    pub(super) fn are_refused(&self) -> bool {
        self.ports.values().any(|port| matches!(port, Port::Refused { .. }))
    }

    /// Puts the program on more interfaces. One that is not there gets it when it comes.
    ///
    /// # Errors
    /// If one cannot be attached to, none is that was not before.
    pub(super) fn add(&mut self, names: &[String], links: &Links) -> Result<()> {
        // By index: several names may be one interface's.
        let present = names.iter().filter_map(|name| links.get(name)).map(|link| (link.index, link));
        let present: Vec<&Link> = present.collect::<BTreeMap<_, _>>().into_values().collect();
        self.note_interfaces(&present, links)?;
        self.attach_together(&present)?;
        for name in names {
            let port = links.get(name).map_or(Port::MissingResources, |link| Port::Attached(link.index));
            self.ports.insert(name.clone(), port);
        }
        self.survey(links);
        self.judge(true);
        self.unmerge(links);
        self.publish();
        Ok(())
    }

    /// Puts the program on more interfaces, and on one where that cannot be now as soon as it can. Returns what [`Self::follow`]
    /// does.
    pub(super) fn restore(&mut self, names: &[String], links: &Links) -> BTreeSet<u32> {
        self.ports.extend(names.iter().map(|name| (name.clone(), Port::MissingResources)));
        self.follow(links).unwrap_or_default()
    }

    /// Takes the program off interfaces.
    pub(super) fn remove(&mut self, names: &[String]) {
        for name in names {
            if let Some(index) = self.ports.remove(name).as_ref().and_then(Port::runs)
                && !self.ports.values().any(|port| port.runs() == Some(index))
            {
                self.unpin(name, index);
            }
        }
        self.merge_again();
        self.publish();
    }

    /// Takes notice of interfaces that have come, gone, or come back. Returns the indexes of those that have gone, even if
    /// they are back; `None` if nothing has changed.
    pub(super) fn follow(&mut self, links: &Links) -> Option<BTreeSet<u32>> {
        let links = &self.with_renamed(links);
        // Before programs are attached, which may take long.
        self.note_addresses(links);
        let (mut changed, mut gone) = (false, BTreeSet::new());
        for (name, port) in mem::take(&mut self.ports) {
            let link = links.get(&name);
            let now = if self.holds(&port, link) {
                port.clone()
            } else {
                self.followed(&name, &port, link, links, &mut gone)
            };
            changed |= now != port;
            self.ports.insert(name, now);
        }
        gone.extend(self.gone_members(links));
        changed |= self.survey(links);
        self.unmerge(links);
        self.merge_again();
        self.publish();
        (changed || !gone.is_empty()).then_some(gone)
    }

    fn followed(
        &mut self,
        name: &str,
        port: &Port,
        link: Option<&Link>,
        links: &Links,
        gone: &mut BTreeSet<u32>,
    ) -> Port {
        let before = port.runs();
        // One of the same index may be the same: then its link still holds, and is kept.
        if let Some(index) = before.filter(|index| link.is_none_or(|link| link.index != *index)) {
            self.unpin(name, index);
            gone.insert(index);
        }
        let Some(link) = link else {
            if *port != Port::MissingResources {
                tracing::warn!(interface = name, "the interface is gone: attached again when it comes back");
            }
            return Port::MissingResources;
        };
        self.say_taken(port, link);
        let ready = self.expect_fit(link, links).and_then(|()| self.note_interfaces(&[link], links));
        match ready.and_then(|()| self.attach_later(link)) {
            Ok(Attachment::Replaced) => Port::Attached(link.index),
            Ok(_) => {
                gone.extend(before);
                Port::Attached(link.index)
            }
            Err(error) => {
                self.held.remove(&link.index);
                gone.extend(before);
                let now = Port::Refused { index: link.index, why: format!("{error:#}") };
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

    /// The pin of a link goes, and with it the link.
    fn unpin(&mut self, name: &str, index: u32) {
        self.held.remove(&index);
        match fs::remove_file(self.pins.link(index)) {
            Ok(()) => tracing::info!(interface = name, "detached"),
            Err(error) => tracing::warn!(interface = name, %error, "cannot remove the pin of the link"),
        }
    }

    /// Whether nothing need be done about an interface.
    fn holds(&self, port: &Port, link: Option<&Link>) -> bool {
        match port {
            Port::Attached(index) | Port::Unfit { index, .. } => {
                link.is_some_and(|link| link.index == *index) && self.runs_on(*index)
            }
            Port::MissingResources => link.is_none(),
            Port::Refused { .. } => false,
        }
    }

    /// Says how an interface that is still there has lost the program.
    fn say_taken(&self, port: &Port, link: &Link) {
        let held = port.runs().filter(|index| link.index == *index).and_then(|index| self.held.get(&index));
        let Some(held) = held else { return };
        let interface = &link.name;
        match held.pinned.bound() {
            Ok(bound) if bound.interface.is_none() => {
                tracing::warn!(interface, "SLB's program was taken off the interface: putting it back");
            }
            Ok(bound) if bound.program != self.id => {
                tracing::error!(
                    interface,
                    program = bound.program,
                    "another program has been put into SLB's link"
                );
            }
            _ => {}
        }
    }

    /// Whether the program that runs on an interface is this one.
    fn runs_on(&self, index: u32) -> bool {
        let bound = self.held.get(&index).and_then(|held| held.pinned.bound().ok());
        bound.is_some_and(|bound| bound.interface == Some(index) && bound.program == self.id)
    }
}

#[cfg(test)]
mod tests;
