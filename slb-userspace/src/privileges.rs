//! What the daemon may do: capabilities(7).

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use caps::{CapSet, Capability};
use nix::sys::prctl::set_no_new_privs;

/// Capabilities that the daemon keeps.
const KEPT: [Capability; 7] = [
    // Loads and pins programs and maps, and attaches them to interfaces and tracepoints.
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_PERFMON,
    // Packets of health checks in the modes dsr and ipip, and the network namespace that they come from.
    Capability::CAP_NET_RAW,
    Capability::CAP_SYS_ADMIN,
    // Open files, and locked memory before kernel 5.11.
    Capability::CAP_SYS_RESOURCE,
    // A configuration, and directories of state and sockets, may belong to other users.
    Capability::CAP_DAC_OVERRIDE,
];

/// Gives up all other capabilities of this process, and those of programs that it would execute.
///
/// Threads have capabilities of their own: call it before the first thread is started.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn drop_unused() -> Result<()> {
    let kept = HashSet::from(KEPT);
    let held = |set| caps::read(None, set).context("cannot read the capabilities of this process");
    // The bounding set needs CAP_SETPCAP, so it is first. Who runs in a container may lack that.
    if held(CapSet::Effective)?.contains(&Capability::CAP_SETPCAP) {
        for capability in held(CapSet::Bounding)?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability).context("cannot drop a capability")?;
        }
    }
    caps::clear(None, CapSet::Inheritable).context("cannot drop capabilities")?;
    for set in [CapSet::Effective, CapSet::Permitted] {
        let left = held(set)?.intersection(&kept).copied().collect();
        caps::set(None, set, &left).context("cannot drop capabilities")?;
    }
    set_no_new_privs().context("cannot renounce further privileges")
}
