//! Capabilities of the daemon: capabilities(7).

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use caps::{CapSet, Capability};
use nix::sys::prctl::set_no_new_privs;

/// Capabilities that the daemon keeps.
const REQUIRED: [Capability; 7] = [
    // Load and pin programs and maps; attach them to interfaces and tracepoints.
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_PERFMON,
    // Probe packets in the modes dsr, ipip and gue, and their network namespace.
    Capability::CAP_NET_RAW,
    Capability::CAP_SYS_ADMIN,
    // Raise the limits of open files and, before Linux 5.11, of locked memory.
    Capability::CAP_SYS_RESOURCE,
    // The configuration, and directories of state and sockets, may belong to other users.
    Capability::CAP_DAC_OVERRIDE,
];

/// Drops all other capabilities of this process, and of programs that it would execute.
///
/// Capabilities belong to threads: call this before any thread is started.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn drop_unused() -> Result<()> {
    let kept = HashSet::from(REQUIRED);
    let held = |set| caps::read(None, set).context("cannot read the capabilities of this process");
    // First, because changing the bounding set needs CAP_SETPCAP. In a container it may be missing.
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
