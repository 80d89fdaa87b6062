//! `slb-toa detach`.

use std::path::PathBuf;

use anyhow::Result;

use crate::{cli::arguments::ensure_root, dataplane::bpf::toa::ToaPins};

/// Detaches the programs and removes the pins. Applications see the local addresses then, also of open connections.
pub fn detach(pin_dir: PathBuf) -> Result<()> {
    ensure_root("detach")?;
    let pins = ToaPins::new(pin_dir);
    let _lock = if pins.root().exists() { Some(pins.lock()?) } else { None };
    println!("{}", if pins.remove()? { "detached" } else { "nothing to detach" });
    Ok(())
}
