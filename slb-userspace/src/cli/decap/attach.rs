//! `slb-decap attach`.

use std::{net::IpAddr, path::PathBuf};

use anyhow::{Result, anyhow, bail};
use clap::ValueEnum;
use slb_common::abi::decap::DecapPolicy;

pub use super::addresses::Vips;
use super::{addresses, find, links};
use crate::{
    cli::arguments::ensure_root,
    dataplane::bpf::{
        decap::{self, DecapPins},
        xdp::{self, Attachment, HookOccupied},
    },
    neigh::Link,
};
use slb_config::model;

/// XDP mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum XdpMode {
    /// Native XDP where the driver supports it, otherwise generic XDP.
    Auto,
    /// Native XDP only.
    Native,
    /// Generic XDP only.
    Generic,
}

/// Attaches the program to an interface, or replaces the attached program and its addresses.
///
/// # Errors
/// Neither the interface nor the pins have changed.
pub fn attach(
    pin_dir: PathBuf,
    interface: &str,
    from: &[IpAddr],
    vips: &Vips,
    gue_port: Option<u16>,
    mode: XdpMode,
) -> Result<()> {
    let policy = addresses::policy(from, vips, gue_port)?;
    ensure_root("attach")?;
    let links = links()?;
    let link = find(&links, interface)?;
    let pins = DecapPins::new(pin_dir);
    pins.create()?;
    let _lock = pins.lock()?;
    let pinned = pins.program(link.index)?;
    let running = link.xdp.map(|xdp| xdp.program);
    // An interface index is valid in one network namespace, but all of them share the pin directory.
    if pinned.is_some() && pinned != running {
        bail!(
            "the pins in {} are not those of {interface}, but of an interface that is gone or in another network \
             namespace: remove them with `slb-decap detach --interface {interface}`, or name another --pin-dir",
            pins.root().display()
        );
    }
    let attachment = match start(&pins, link, &policy, mode) {
        Ok(attachment) => attachment,
        Err(error) => {
            if pinned.is_none() {
                pins.remove(link.index)?;
            }
            return Err(explain(error, link));
        }
    };
    println!("{interface}: {}", describe(attachment, link, mode));
    Ok(())
}

fn start(pins: &DecapPins, link: &Link, policy: &DecapPolicy, mode: XdpMode) -> Result<Attachment> {
    let mode = match mode {
        XdpMode::Auto => model::XdpMode::Auto,
        XdpMode::Native => model::XdpMode::Native,
        XdpMode::Generic => model::XdpMode::Generic,
    };
    decap::load(pins, link.index, policy)?.attach(&pins.link(link.index), link.index, mode)
}

fn explain(error: anyhow::Error, link: &Link) -> anyhow::Error {
    let occupant = link.xdp.map(|on| {
        let name = xdp::name_of(on.program).unwrap_or_else(|| "without a name".to_owned());
        format!(" (it runs program {} {name})", on.program)
    });
    let error = if error.is::<HookOccupied>() {
        anyhow!("{error}, or attach to another interface; `slbd` and `slb-decap` cannot share one")
    } else {
        error
    };
    error.context(format!("cannot attach to {}{}", link.name, occupant.unwrap_or_default()))
}

fn describe(attachment: Attachment, link: &Link, wanted: XdpMode) -> String {
    let hook = |native| if native { "native" } else { "generic" };
    match attachment {
        Attachment::Native => "attached, XDP native".to_owned(),
        Attachment::Generic => "attached, XDP generic".to_owned(),
        Attachment::Replaced => {
            let native = link.xdp.is_some_and(|xdp| xdp.native);
            let note = match wanted {
                XdpMode::Native if !native => "; --xdp-mode native takes effect after `slb-decap detach`",
                XdpMode::Generic if native => "; --xdp-mode generic takes effect after `slb-decap detach`",
                _ => "",
            };
            format!("replaced, XDP {}{note}", hook(native))
        }
    }
}
