//! What the commands for servers, `slb-decap` and `slb-toa`, require.

use std::net::IpAddr;

use anyhow::{Result, bail};

/// Refuses addresses that no host can have, and removes duplicates.
pub(super) fn host_addresses(option: &str, addresses: &[IpAddr]) -> Result<Vec<IpAddr>> {
    let mut checked = Vec::new();
    for &address in addresses {
        if let IpAddr::V6(six) = address
            && let Some(four) = six.to_ipv4_mapped()
        {
            bail!("{option} {address} never stands in a packet: write {option} {four}");
        }
        let broadcast = matches!(address, IpAddr::V4(four) if four.is_broadcast());
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast {
            bail!("{option} {address} is not the address of one machine on the network");
        }
        if !checked.contains(&address) {
            checked.push(address);
        }
    }
    Ok(checked)
}

/// Refuses other users than root. `what` is the command.
pub(super) fn ensure_root(what: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("{what} needs root: it deals with BPF programs and their maps");
    }
    Ok(())
}
