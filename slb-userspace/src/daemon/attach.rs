//! Puts the program on the configured interfaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result, anyhow};

use crate::{
    config::model::{Config, XdpMode},
    control::{
        desired::{Known, desired},
        ids::Surroundings,
        reconcile::Reconciler,
    },
    dataplane::bpf::{
        loader::{self, Sizes},
        maps::Maps,
        pins::Pins,
        xdp::{self, Attachment, Occupied, Program},
    },
    neigh::{self, Link},
};

/// Loads the program and puts it on the interfaces, once it is known that the maps have room for what is configured.
///
/// Returns the maps' keeper and the names of the interfaces by index. `hz` is jiffies in a second.
///
/// # Errors
/// If one interface cannot be attached to, none is that was not before; where an earlier run's program has been replaced
/// already, the new one stays.
pub(super) async fn attach(
    config: &Config,
    pins: &Pins,
    hz: u32,
) -> Result<(Reconciler<Maps>, BTreeMap<u32, String>)> {
    let interfaces = configured(config).await?;
    let indexes: BTreeSet<u32> = interfaces.iter().map(|interface| interface.index).collect();
    // The links keep the program: nothing here needs to.
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
    let surroundings = Surroundings { interfaces: indexes.clone(), hz, max_backends: maps.max_backends() };
    let mut reconciler = Reconciler::new(maps, surroundings);
    reconciler.check(&desired(config, Known::default()))?;
    attach_all(&mut program, pins, &interfaces, config.daemon.xdp_mode)?;
    loader::detach_others(pins, &indexes)?;
    Ok((reconciler, interfaces.into_iter().map(|interface| (interface.index, interface.name)).collect()))
}

fn attach_all(program: &mut Program, pins: &Pins, interfaces: &[Link], mode: XdpMode) -> Result<()> {
    let mut new = Vec::new();
    for interface in interfaces {
        match program.attach(&pins.link(interface.index), interface.index, mode) {
            Ok(attachment) => {
                report(interface, attachment, mode);
                if attachment != Attachment::Replaced {
                    new.push(interface.index);
                }
            }
            Err(error) => {
                for index in new {
                    fs::remove_file(pins.link(index))?;
                }
                let error = if error.is::<Occupied>() {
                    anyhow!("{error}, or leave the interface out of [daemon] interfaces")
                } else {
                    error
                };
                let occupant = interface.xdp.map_or_else(String::new, |on| {
                    let name = xdp::name_of(on.program).unwrap_or_default();
                    format!(" (it runs program {} {name})", on.program)
                });
                return Err(error.context(format!("cannot attach to {}{occupant}", interface.name)));
            }
        }
    }
    Ok(())
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
