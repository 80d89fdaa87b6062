//! `slb-decap detach`.

use std::path::PathBuf;

use anyhow::Result;

use super::{ensure_root, find, links};
use crate::dataplane::bpf::decap::Pins;

/// Takes the program off an interface, or off all of them, and removes the pins.
pub fn detach(pin_dir: PathBuf, interface: Option<&str>) -> Result<()> {
    ensure_root("detach")?;
    let pins = Pins::new(pin_dir);
    let indexes = match interface {
        Some(name) => vec![find(&links()?, name)?.index],
        None => pins.interfaces()?,
    };
    let what = interface.unwrap_or("all interfaces");
    if !pins.root().exists() {
        println!("{what}: nothing to detach");
        return Ok(());
    }
    let _lock = pins.lock()?;
    let mut detached = false;
    for index in indexes {
        detached |= pins.remove(index)?;
    }
    println!("{what}: {}", if detached { "detached" } else { "nothing to detach" });
    Ok(())
}
