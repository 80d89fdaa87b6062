//! `slb-toa attach`.

use std::{net::IpAddr, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use slb_common::abi::{
    address_list::{AddressList, MAX_ADDRESSES},
    toa::ToaPolicy,
};
use slb_control::dataplane::state::to_address;

use super::{cgroup, listeners};
use crate::{
    cli::arguments::{ensure_root, host_addresses},
    dataplane::bpf::toa::ToaPins,
};

/// Attaches the programs to a cgroup, or replaces those that are attached, and has the kernel save the SYNs of sockets
/// that listen already.
///
/// # Errors
/// The message says whether the programs are attached.
pub fn attach(pin_dir: PathBuf, cgroup: Option<PathBuf>, from: &[IpAddr]) -> Result<()> {
    let policy = policy(from)?;
    ensure_root("attach")?;
    let cgroup = cgroup::open(cgroup)?;
    let pins = ToaPins::new(pin_dir);
    pins.create()?;
    let _lock = pins.lock()?;
    let was_attached = pins.are_attached();
    if let Err(error) = pins.attach(&cgroup.directory, &policy) {
        let state = match was_attached {
            true => "the programs that were attached before may be attached still: see `slb-toa status`"
                .to_owned(),
            false => match pins.remove() {
                Ok(_) => "nothing is attached".to_owned(),
                Err(error) => format!("pins are left: {error:#}"),
            },
        };
        return Err(error.context(state));
    }
    println!("{}: {}", cgroup.path.display(), if was_attached { "replaced" } else { "attached" });
    let found = listeners::save_syns(&cgroup.name)
        .context("attached, but sockets that listen already give no client addresses: attach again")?;
    println!("{} sockets listen already, and give client addresses from now on", found.saving());
    let failed = found.failed();
    match found.error {
        None => Ok(()),
        Some(error) => Err(error.context(format!(
            "attached, but {failed} sockets that listen already give no client addresses: restart their processes, or \
             attach again"
        ))),
    }
}

/// The policy that trusts these sources.
fn policy(from: &[IpAddr]) -> Result<ToaPolicy> {
    if from.is_empty() {
        bail!(
            "no source given: name the local addresses of the load balancers, for instance `--from 10.0.0.5`; \
             anyone else could claim to be any client"
        );
    }
    let from: Vec<_> = host_addresses("--from", from)?.into_iter().map(to_address).collect();
    let Some(sources) = AddressList::new(&from) else {
        bail!("{} addresses in --from: {MAX_ADDRESSES} is the most", from.len())
    };
    Ok(ToaPolicy { sources })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toa_without_source_or_with_too_many_is_refused() {
        let error = policy(&[]).unwrap_err().to_string();
        assert!(error.contains("--from 10.0.0.5"), "{error}");
        let many: Vec<IpAddr> = (1..=65).map(|n| [10, 0, 0, n].into()).collect();
        let error = policy(&many).unwrap_err().to_string();
        assert!(error.contains("65 addresses in --from"), "{error}");
        assert_eq!(policy(&many[1..]).unwrap().sources.as_slice().len(), 64);
        let error = policy(&["::1".parse().unwrap()]).unwrap_err().to_string();
        assert!(error.contains("--from ::1 is not the address of one machine"), "{error}");
    }
}
