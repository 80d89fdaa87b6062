//! `slb-decap detach`.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::{find, links};
use crate::{cli::arguments::ensure_root, dataplane::bpf::decap::DecapPins};

/// Detaches the program from an interface, or from all of them, and removes the pins.
///
/// # Errors
/// Without `force`: the pins belong to an interface of another network namespace. Nothing is removed.
pub fn detach(pin_dir: PathBuf, interface: Option<&str>, force: bool) -> Result<()> {
    ensure_root("detach")?;
    let pins = DecapPins::new(pin_dir);
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
    let here = links()?;
    for &index in indexes.iter().filter(|_| !force) {
        if pins.bound(index)?.is_some_and(|bound| bound.is_elsewhere(&here)) {
            bail!(
                "the pins of interface {index} in {} are of another network namespace: nothing was removed; run this there, \
                 or with --force to take the program off from here",
                pins.root().display()
            );
        }
    }
    let mut detached = false;
    for index in indexes {
        detached |= pins.remove(index)?;
    }
    println!("{what}: {}", if detached { "detached" } else { "nothing to detach" });
    Ok(())
}
