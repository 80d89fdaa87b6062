//! Capabilities of the daemon: capabilities(7).

use std::collections::HashSet;

use anyhow::{Context as _, Result, bail};
use caps::{CapSet, Capability};
use nix::sys::prctl::set_no_new_privs;

/// Capabilities that `slbd run` cannot do without.
pub(crate) const REQUIRED: [Capability; 4] = [
    // Load and pin programs and maps; attach them to interfaces and tracepoints.
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_PERFMON,
    // Probe packets, announcements, and packets to clients in place of the kernel.
    Capability::CAP_NET_RAW,
];

/// Capabilities that `slbd detach` cannot do without.
pub(crate) const REQUIRED_TO_DETACH: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN];

/// Capabilities that the daemon keeps if it has them.
const OPTIONAL: [Capability; 3] = [
    // The network namespace of probes in the modes dsr, ipip and gue; mounting a BPF file system.
    Capability::CAP_SYS_ADMIN,
    // Raise the limit of open files.
    Capability::CAP_SYS_RESOURCE,
    // The configuration, and directories of state and sockets, may belong to other users.
    Capability::CAP_DAC_OVERRIDE,
];

/// Refuses to go on without these capabilities. `command` is the command line, as in `slbd run`.
///
/// # Errors
/// One is missing: the error names all missing ones, and how to give them.
pub(crate) fn expect(command: &str, needed: &[Capability]) -> Result<()> {
    let effective =
        caps::read(None, CapSet::Effective).context("cannot read the capabilities of this process")?;
    let missing: Vec<_> = needed.iter().filter(|needed| !effective.contains(needed)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("{}", refusal(command, &missing, needed));
}

fn refusal(command: &str, missing: &[&Capability], needed: &[Capability]) -> String {
    let names = |all: &mut dyn Iterator<Item = &Capability>, separator: &str| {
        all.map(ToString::to_string).collect::<Vec<_>>().join(separator)
    };
    let lacking = names(&mut missing.iter().copied(), ", ");
    let all = names(&mut needed.iter(), " ");
    let by_hand = names(&mut needed.iter(), ",").to_lowercase().replace("cap_", "+");
    format!(
        "{command} needs {lacking}, which this process does not have: run it as root, or give it the capabilities. systemd: \
         `AmbientCapabilities={all}` beside `User=` in the unit; containers: `--cap-add`; by hand, from root: `setpriv \
         --reuid USER --regid GROUP --init-groups --inh-caps {by_hand} --ambient-caps {by_hand} slbd run`"
    )
}

/// Drops all other capabilities of this process, and of programs that it would execute.
///
/// Capabilities belong to threads: call this before any thread is started.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn drop_unused() -> Result<()> {
    let kept: HashSet<_> = REQUIRED.into_iter().chain(OPTIONAL).collect();
    let held = |set| caps::read(None, set).context("cannot read the capabilities of this process");
    // First, because changing the bounding set needs CAP_SETPCAP, which other users than root do not have.
    if held(CapSet::Effective)?.contains(&Capability::CAP_SETPCAP) {
        for capability in held(CapSet::Bounding)?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability).context("cannot drop a capability")?;
        }
    }
    // The kernel then clears the ambient set, too.
    caps::clear(None, CapSet::Inheritable).context("cannot drop capabilities")?;
    for set in [CapSet::Effective, CapSet::Permitted] {
        let left = held(set)?.intersection(&kept).copied().collect();
        caps::set(None, set, &left).context("cannot drop capabilities")?;
    }
    set_no_new_privs().context("cannot renounce further privileges")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_names_missing_capabilities_and_how_to_give_all() {
        let said = refusal("slbd run", &[&Capability::CAP_BPF, &Capability::CAP_NET_RAW], &REQUIRED);
        assert!(said.starts_with("slbd run needs CAP_BPF, CAP_NET_RAW, which"), "{said}");
        assert!(
            said.contains("`AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_PERFMON CAP_NET_RAW`"),
            "{said}"
        );
        assert!(said.contains("--ambient-caps +bpf,+net_admin,+perfmon,+net_raw"), "{said}");
    }
}
