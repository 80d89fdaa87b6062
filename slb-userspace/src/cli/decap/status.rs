//! `slb-decap status`.

use std::{fmt::Write as _, net::IpAddr, path::PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::links;
use crate::{
    cli::{arguments::ensure_root, status::Output, table::reasons},
    dataplane::bpf::decap::{self, DecapPins},
    neigh::Link,
};
use slb_api::types::{AttachMode, ReasonCount};
use slb_control::dataplane::state::to_ip;

/// The decapsulators of this network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecapStatus {
    /// Interfaces by index.
    pub interfaces: Vec<DecapInterface>,
}

/// An interface with a decapsulator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecapInterface {
    /// Name; `None` if the interface does not run the pinned program: it is gone or in another namespace.
    pub name: Option<String>,
    /// Index in the kernel.
    pub index: u32,
    /// The active XDP mode; `None` without a name.
    pub mode: Option<AttachMode>,
    /// Id of the program.
    pub program: u32,
    /// Outer sources whose packets are decapsulated.
    pub sources: Vec<IpAddr>,
    /// Accepted inner destinations; empty for any.
    pub vips: Vec<IpAddr>,
    /// UDP destination port of GUE tunnel packets; `None` if UDP is not decapsulated.
    pub gue_port: Option<u16>,
    /// Frames by reason since the first attach. Each frame is counted under one reason. The verdict is `strip`, `pass`
    /// or `drop`.
    pub reasons: Vec<ReasonCount>,
}

/// Prints the status of the decapsulators.
pub fn status(pin_dir: PathBuf, output: Output) -> Result<()> {
    ensure_root("status")?;
    let pins = DecapPins::new(pin_dir);
    let status = read(&pins, &links()?)?;
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        Output::Table if status.interfaces.is_empty() => {
            println!("no interface runs slb-decap (no pins in {})", pins.root().display());
        }
        Output::Table => print!("{}", render(&status)?),
    }
    Ok(())
}

fn read(pins: &DecapPins, links: &[Link]) -> Result<DecapStatus> {
    let mut interfaces = Vec::new();
    for index in pins.interfaces()? {
        let Some(program) = pins.program(index)? else { continue };
        let state = decap::read(program).with_context(|| format!("interface {index}"))?;
        let link = links.iter().find(|link| link.index == index);
        let on = link.and_then(|link| Some((link, link.xdp.filter(|xdp| xdp.program == program)?)));
        let mode = |native| if native { AttachMode::Native } else { AttachMode::Generic };
        let reasons = state.tally.iter().map(|&(reason, packets)| ReasonCount {
            verdict: reason.action().name().to_owned(),
            reason: reason.name().to_owned(),
            packets,
        });
        interfaces.push(DecapInterface {
            name: on.map(|(link, _)| link.name.clone()),
            index,
            mode: on.map(|(_, xdp)| mode(xdp.native)),
            program,
            sources: state.policy.sources().iter().map(to_ip).collect(),
            vips: state.policy.destinations().iter().map(to_ip).collect(),
            gue_port: state.policy.gue_port(),
            reasons: reasons.collect(),
        });
    }
    Ok(DecapStatus { interfaces })
}

fn render(status: &DecapStatus) -> Result<String> {
    let mut text = String::new();
    for interface in &status.interfaces {
        let list =
            |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let vips = if interface.vips.is_empty() { "any".to_owned() } else { list(&interface.vips) };
        match (&interface.name, interface.mode) {
            (Some(name), Some(AttachMode::Native)) => writeln!(text, "interface {name}: XDP native")?,
            (Some(name), Some(AttachMode::Generic)) => writeln!(text, "interface {name}: XDP generic")?,
            _ => writeln!(
                text,
                "interface {}: gone, or in another network namespace; `slb-decap detach --all` forgets it",
                interface.index
            )?,
        }
        writeln!(text, "  from {}", list(&interface.sources))?;
        writeln!(text, "  to   {vips}")?;
        if let Some(port) = interface.gue_port {
            writeln!(text, "  gue  port {port}")?;
        }
        if interface.reasons.is_empty() {
            writeln!(text, "  no frame yet")?;
            continue;
        }
        writeln!(text, "{}", reasons(&interface.reasons))?;
    }
    Ok(text)
}
