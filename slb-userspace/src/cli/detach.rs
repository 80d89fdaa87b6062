//! `slbd detach`.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    announce::{self, Ended},
    dataplane::bpf::{answers::PRIORITY, maps::Maps, pins::Pins},
    devices::InterfaceRecord,
    neigh, privileges, state_file,
};
use slb_config as config;
use slb_config::Config;
use slb_control::dataplane::{DataPlane as _, state::to_ip};

/// Detaches the program from all interfaces and removes all pins in `pin_dir`, or else in the configured directory.
///
/// # Errors
/// Without `force`: the pins belong to another network namespace, or a VIP is a local address, whose connections the
/// kernel would reset. In any case: the pins are in use, are not SLB's, or cannot be removed.
pub fn detach(config: &Path, pin_dir: Option<PathBuf>, force: bool) -> Result<()> {
    let (pins, config) = match pin_dir {
        Some(directory) => (Pins::new(directory), None),
        None => match config::load(config) {
            Ok(loaded) => (Pins::new(loaded.config.daemon.pin_dir.clone()), Some(loaded.config)),
            Err(rejected) => {
                bail!("{rejected}\nwithout a readable configuration, name the pins: --pin-dir DIR")
            }
        },
    };
    privileges::expect("slbd detach", &privileges::REQUIRED_TO_DETACH)?;
    if !pins.root().exists() {
        println!("{}: nothing to detach", pins.root().display());
        // The pins may have vanished with their file system, perhaps while slbd runs.
        let state_dir = config.map(|config| config.daemon.state_dir);
        if let Some(claimed) = state_dir.as_ref().filter(|directory| state_file::is_claimed(directory)) {
            println!("slbd is running with the state in {}: its announcements stay", claimed.display());
            return Ok(());
        }
        end_announcements(&pins);
        if let Some(directory) = state_dir {
            restore_features(&directory, pins.root());
        }
        return Ok(());
    }
    let Some(_lock) = pins.lock()? else {
        bail!("slbd is running with the pins in {}: stop it first", pins.root().display());
    };
    pins.expect_own()?;
    let here = pins.expect_here(&neigh::links_now()?);
    if force {
        if here.is_err() {
            println!(
                "the pins belong to another network namespace: filters that answer for VIPs stay there. In it, \
                 `tc filter show dev NAME ingress` shows slb_answer, `tc filter del dev NAME ingress pref {PRIORITY}` \
                 removes it"
            );
        }
    } else {
        here.context(
            "nothing was removed: run `slbd detach` in that namespace, or with --force to end its forwarding from here",
        )?;
        refuse_local(&vips(&pins, config.as_ref()))?;
    }
    end_announcements(&pins);
    pins.remove()?;
    println!("{}: detached from all interfaces, pins removed", pins.root().display());
    match config {
        Some(config) => restore_features(&config.daemon.state_dir, pins.root()),
        None => println!(
            "what SLB has switched off at interfaces stays so: interfaces.json in [daemon] state_dir names it, if there is one"
        ),
    }
    Ok(())
}

/// Ends the answers for VIPs: hosts must not send packets to where nothing forwards them.
fn end_announcements(pins: &Pins) {
    let ended =
        announce::end(pins).unwrap_or_else(|error| Ended { failures: vec![error], ..Ended::default() });
    if !ended.interfaces.is_empty() {
        println!("VIPs are no longer announced on {}", ended.interfaces.join(", "));
    }
    for error in ended.failures {
        println!(
            "VIPs may still be announced, `tc filter show dev NAME ingress` shows slb_answer: {error:#}"
        );
    }
}

/// Restores features that SLB has switched off, and prints the results.
fn restore_features(directory: &Path, pins: &Path) {
    let record = match InterfaceRecord::read(directory, pins) {
        Ok(record) => record,
        Err(error) => {
            println!(
                "what SLB has switched off at interfaces (`ethtool -k NAME` shows generic-receive-offload, \
                 rx-gro-hw, large-receive-offload) stays so: {error:#}"
            );
            return;
        }
    };
    for undone in record.restore_features() {
        println!("{}", undone.said);
    }
    record.forget(directory);
}

/// VIPs in the maps, or the configured ones if the maps have another version.
fn vips(pins: &Pins, config: Option<&Config>) -> BTreeSet<IpAddr> {
    let has_pins = pins.exist().unwrap_or(false);
    let state = has_pins.then(|| Maps::open(pins).and_then(|maps| maps.observe()).ok()).flatten();
    match state {
        Some(state) => state.services.values().map(|service| to_ip(&service.address)).collect(),
        None => {
            let balancers = config.into_iter().flat_map(|config| &config.load_balancers);
            balancers.flat_map(|balancer| balancer.addresses.iter().copied()).collect()
        }
    }
}

/// Refuses to detach while a VIP is local: the kernel knows none of its connections and would reset them.
fn refuse_local(vips: &BTreeSet<IpAddr>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let local = runtime.block_on(neigh::local_among(vips))?;
    let Some(first) = local.first() else { return Ok(()) };
    let all = local.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
    let length = if first.is_ipv4() { 32 } else { 128 };
    bail!(
        "nothing was detached: {all} {is} of this host, whose kernel would reset every connection to {them} as soon as the \
         program is gone. Let another machine have {them} first, then remove {them} here (for example `ip addr del \
         {first}/{length} dev lo`), and run `slbd detach` again; or run `slbd detach --force`",
        is = if local.len() == 1 { "is an address" } else { "are addresses" },
        them = if local.len() == 1 { "it" } else { "them" },
    )
}
