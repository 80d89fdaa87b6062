//! Features that SLB has switched off at one interface, and their restoration.

use std::{collections::BTreeSet, fs, io, os::unix::fs::MetadataExt as _};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::{
    devices::netlink::link_in,
    neigh::{self, Link},
};

/// Features switched off at one interface. Index and network namespace identify it while the machine runs; its name may
/// change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SwitchedOff {
    /// Its name when the features were switched off.
    pub interface: String,
    /// Inode of the network namespace: indexes are unique only within one.
    #[serde(default)]
    pub namespace: u64,
    pub features: BTreeSet<String>,
}

/// The result of restoring features at one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreResult {
    /// Whether they are restored.
    pub outcome: RestoreOutcome,
    /// The result in words; on a failure with the command that restores them.
    pub said: String,
}

/// Whether features are restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreOutcome {
    /// They are on again.
    Restored,
    /// The interface no longer exists.
    Gone,
    /// They are still off.
    Failed,
}

impl SwitchedOff {
    pub(super) fn features(&self) -> Vec<String> {
        self.features.iter().cloned().collect()
    }

    /// Restores the features. `here` is the current network namespace, in which `find` looks up an interface.
    pub(super) fn restore_features(
        &self,
        index: u32,
        here: u64,
        find: impl Fn(u32) -> Result<Option<Link>>,
        switch_on: impl Fn(&Link, &[String]) -> Result<()>,
    ) -> RestoreResult {
        let (mut interface, features) = (self.interface.clone(), self.features());
        let restored = if self.namespace == here {
            match find(index) {
                Ok(Some(link)) => {
                    interface.clone_from(&link.name);
                    switch_on(&link, &features)
                        .map_err(|error| (RestoreOutcome::Failed, format!("{error:#}")))
                }
                Ok(None) => Err((RestoreOutcome::Gone, format!("interface {interface} is not there"))),
                Err(error) => Err((RestoreOutcome::Failed, format!("{error:#}"))),
            }
        } else {
            Err((RestoreOutcome::Failed, format!("interface {interface} is in another network namespace")))
        };
        let named = features.join(", ");
        let (outcome, said) = match restored {
            Ok(()) => (RestoreOutcome::Restored, format!("{interface}: switched on again: {named}")),
            Err((outcome, why)) => {
                let command = restore_command(&interface, &features);
                let off = format!("{interface}: SLB has switched off {named}: {why}");
                (outcome, format!("{off}; to restore it: {command}"))
            }
        };
        RestoreResult { outcome, said }
    }
}

/// The command that restores features.
pub fn restore_command(interface: &str, features: &[String]) -> String {
    format!("ethtool -K {interface} {} on", features.join(" on "))
}

/// The interface with this index in this network namespace, if there is one.
///
/// # Errors
/// The kernel cannot be queried.
pub(super) fn find(index: u32) -> Result<Option<Link>> {
    match link_in(None, index) {
        Ok(message) => Ok(neigh::link(message)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot look up interface {index}")),
    }
}

fn is_absent(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.and_then(io::Error::raw_os_error) == Some(nix::libc::ENODEV)
}

/// Inode of this process's network namespace; 0 if it cannot be read.
pub(super) fn namespace() -> u64 {
    fs::metadata("/proc/self/ns/net").map_or(0, |found| found.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_interface_is_distinguished_from_a_failed_query() {
        assert!(find(0x7fff_fff0).unwrap().is_none());
        assert_eq!(find(1).unwrap().unwrap().name, "lo");
        let failed = |number| anyhow::Error::from(io::Error::from_raw_os_error(number));
        assert!(is_absent(&failed(nix::libc::ENODEV)));
        assert!(!is_absent(&failed(nix::libc::EMFILE)));
    }
}
