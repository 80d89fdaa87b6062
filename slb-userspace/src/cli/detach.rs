//! `slbd detach`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::{config, dataplane::bpf::pins::Pins};

/// Takes the program off all interfaces and removes every pin under `pin_dir`, or under what the configuration names.
pub fn detach(config: &Path, pin_dir: Option<PathBuf>) -> Result<()> {
    let pins = Pins::new(match pin_dir {
        Some(directory) => directory,
        None => match config::load(config) {
            Ok(loaded) => loaded.config.daemon.pin_dir,
            Err(rejected) => {
                bail!("{rejected}\nwithout a readable configuration, name the pins: --pin-dir DIR")
            }
        },
    });
    if !nix::unistd::geteuid().is_root() {
        bail!("slbd detach needs root: it takes an XDP program off interfaces and removes its maps");
    }
    if !pins.root().exists() {
        println!("{}: nothing to detach", pins.root().display());
        return Ok(());
    }
    let Some(_lock) = pins.lock()? else {
        bail!("slbd is running with the pins in {}: stop it first", pins.root().display());
    };
    pins.remove()?;
    println!("{}: detached from all interfaces, pins removed", pins.root().display());
    Ok(())
}
