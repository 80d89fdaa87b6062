//! The interfaces the program is to run on: put there at the start and by changes of the configuration, and again where one
//! has gone away and come back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, mem,
};

use anyhow::{Result, anyhow, bail};

use super::clock::since_start;
use crate::{
    config::model::{Config, XdpMode},
    control::{
        desired::{Known, desired, vips_alone},
        ids::Surroundings,
        reconcile::Reconciler,
    },
    dataplane::bpf::{
        loader::{self, Sizes},
        maps::Maps,
        pins::Pins,
        xdp::{self, Attachment, Occupied, Program},
    },
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
    pins: Pins,
    mode: XdpMode,
    ports: BTreeMap<String, Port>,
    /// Present names of interfaces that are known by another one.
    renamed: BTreeMap<String, String>,
}

/// An interface, as far as the program is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Port {
    /// It runs the program.
    Attached(u32),
    /// There is no interface of this name now.
    Absent,
    /// The program could not be put on it.
    Refused { index: u32, why: String },
}

/// Loads the program and puts it on the interfaces, once it is known that the maps have room for what is configured. An
/// interface that is not there gets it when it comes: a machine's may come after the daemon.
///
/// Returns the maps' keeper and the interfaces. `hz` is jiffies in a second, `vips` how VIPs stand on this host.
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
) -> Result<(Reconciler<Maps>, Ports)> {
    some_there(&config.daemon.interfaces, links)?;
    let sizes = Sizes { flows: config.daemon.flow_table_entries, backends: config.daemon.max_servers };
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
    let surroundings = Surroundings { interfaces: BTreeSet::new(), hz, max_backends: maps.max_backends() };
    let mut reconciler = Reconciler::new(maps, surroundings);
    reconciler.check(&desired(config, Known { vips: Some(vips), ..Known::default() }))?;
    if reconciler.held()?.services.is_empty() {
        reconciler.reconcile(&vips_alone(config, vips), since_start()?)?;
    }
    let mode = config.daemon.xdp_mode;
    let mut ports =
        Ports { program, pins: pins.clone(), mode, ports: BTreeMap::new(), renamed: BTreeMap::new() };
    ports.add(&config.daemon.interfaces, links)?;
    let indexes: BTreeSet<u32> = ports.attached().into_keys().collect();
    loader::detach_others(pins, &indexes)?;
    reconciler.set_interfaces(indexes, &BTreeSet::new());
    Ok((reconciler, ports))
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

/// Those of these names that there is no interface of.
pub(super) fn missing(names: &[String], links: &Links) -> Vec<String> {
    names.iter().filter(|name| !links.contains_key(*name)).cloned().collect()
}

impl Ports {
    /// Names of the interfaces that run the program, by index.
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

    /// Interfaces that are there and do not run the program, by index, and why not.
    pub(super) fn refused(&self) -> BTreeMap<u32, String> {
        let refused = |port: &Port| match port {
            Port::Refused { index, why } => Some((*index, why.clone())),
            _ => None,
        };
        self.ports.values().filter_map(refused).collect()
    }

    /// Names of interfaces that are not there.
    pub(super) fn absent(&self) -> BTreeSet<String> {
        let absent = self.ports.iter().filter(|(_, port)| **port == Port::Absent);
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
        let mut added: Vec<(&String, Port)> = Vec::new();
        let mut new = Vec::new();
        for name in names {
            let Some(link) = links.get(name) else {
                added.push((name, Port::Absent));
                continue;
            };
            match self.attach(link) {
                Ok(attachment) => {
                    report(link, attachment, self.mode);
                    added.push((name, Port::Attached(link.index)));
                    if attachment != Attachment::Replaced {
                        new.push(link.index);
                    }
                }
                Err(error) => {
                    for index in new {
                        fs::remove_file(self.pins.link(index))?;
                    }
                    return Err(error);
                }
            }
        }
        self.ports.extend(added.into_iter().map(|(name, port)| (name.clone(), port)));
        Ok(())
    }

    /// Puts the program on more interfaces, and on one where that cannot be now as soon as it can. Returns what [`Self::follow`]
    /// does.
    pub(super) fn restore(&mut self, names: &[String], links: &Links) -> BTreeSet<u32> {
        self.ports.extend(names.iter().map(|name| (name.clone(), Port::Absent)));
        self.follow(links).unwrap_or_default()
    }

    /// Takes the program off interfaces.
    pub(super) fn remove(&mut self, names: &[String]) {
        for name in names {
            if let Some(Port::Attached(index)) = self.ports.remove(name)
                && !self.attached().contains_key(&index)
            {
                self.unpin(name, index);
            }
        }
    }

    /// Takes notice of interfaces that have come, gone, or come back. Returns the indexes of those that have gone, even if
    /// they are back; `None` if nothing has changed.
    pub(super) fn follow(&mut self, links: &Links) -> Option<BTreeSet<u32>> {
        let links = &self.with_renamed(links);
        let (mut changed, mut gone) = (false, BTreeSet::new());
        for (name, port) in mem::take(&mut self.ports) {
            let link = links.get(&name);
            let now =
                if holds(&port, link) { port.clone() } else { self.followed(&name, &port, link, &mut gone) };
            changed |= now != port;
            self.ports.insert(name, now);
        }
        (changed || !gone.is_empty()).then_some(gone)
    }

    /// The interfaces, those that have been renamed under their old names as well: program, index and addresses stay.
    fn with_renamed(&mut self, links: &Links) -> Links {
        let mut all = links.clone();
        for (index, name) in self.attached() {
            if links.contains_key(&name) {
                self.renamed.remove(&name);
            } else if let Some(link) = links.values().find(|link| link.index == index) {
                if self.renamed.insert(name.clone(), link.name.clone()).as_ref() != Some(&link.name) {
                    tracing::warn!(
                        interface = name,
                        now = link.name,
                        "interface renamed: change [daemon] interfaces before the next start"
                    );
                }
                all.insert(name, link.clone());
            }
        }
        all
    }

    fn followed(&mut self, name: &str, port: &Port, link: Option<&Link>, gone: &mut BTreeSet<u32>) -> Port {
        let before = match port {
            Port::Attached(index) => Some(*index),
            _ => None,
        };
        // One of the same index may be the same: then its link still holds, and is kept.
        if let Some(index) = before.filter(|index| link.is_none_or(|link| link.index != *index)) {
            self.unpin(name, index);
            gone.insert(index);
        }
        let Some(link) = link else {
            if *port != Port::Absent {
                tracing::warn!(interface = name, "the interface is gone: attached again when it comes back");
            }
            return Port::Absent;
        };
        match self.attach(link) {
            Ok(Attachment::Replaced) => Port::Attached(link.index),
            Ok(attachment) => {
                report(link, attachment, self.mode);
                gone.extend(before);
                Port::Attached(link.index)
            }
            Err(error) => {
                gone.extend(before);
                let now = Port::Refused { index: link.index, why: format!("{error:#}") };
                if now != *port {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "an interface is without SLB; trying again"
                    );
                }
                now
            }
        }
    }

    /// The pin of a link goes, and with it the link.
    fn unpin(&self, name: &str, index: u32) {
        match fs::remove_file(self.pins.link(index)) {
            Ok(()) => tracing::info!(interface = name, "detached"),
            Err(error) => tracing::warn!(interface = name, %error, "cannot remove the pin of the link"),
        }
    }

    fn attach(&mut self, link: &Link) -> Result<Attachment> {
        let attached = self.program.attach(&self.pins.link(link.index), link.index, self.mode);
        attached.map_err(|error| {
            let error = if error.is::<Occupied>() {
                anyhow!("{error}, or leave the interface out of [daemon] interfaces")
            } else {
                error
            };
            let occupant = link.xdp.map_or_else(String::new, |on| {
                let name = xdp::name_of(on.program).unwrap_or_default();
                format!(" (it runs program {} {name})", on.program)
            });
            error.context(format!("cannot attach to {}{occupant}", link.name))
        })
    }
}

/// Whether nothing need be done about an interface.
fn holds(port: &Port, link: Option<&Link>) -> bool {
    match port {
        // A program that runs is SLB's: it is not taken off but with the pin of its link.
        Port::Attached(index) => link.is_some_and(|link| link.index == *index && link.xdp.is_some()),
        Port::Absent => link.is_none(),
        Port::Refused { .. } => false,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_has_all_its_names() {
        let link = |index, name: &str, altnames: &[&str]| Link {
            index,
            name: name.to_owned(),
            altnames: altnames.iter().map(|name| (*name).to_owned()).collect(),
            mac: None,
            up: true,
            kind: None,
            xdp: None,
            mtu: 1500,
        };
        let links = by_names(vec![link(1, "lo", &[]), link(2, "eth0", &["enp9s0", "uplink"])]);
        let found: Vec<_> = links.iter().map(|(name, link)| (name.as_str(), link.index)).collect();
        assert_eq!(found, [("enp9s0", 2), ("eth0", 2), ("lo", 1), ("uplink", 2)]);
        assert_eq!(missing(&["uplink".to_owned(), "eth1".to_owned()], &links), ["eth1"]);
    }
}
