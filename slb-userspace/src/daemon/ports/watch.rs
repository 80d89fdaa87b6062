//! Polls what sends no notification.

use std::{collections::BTreeMap, mem};

use super::{Held, Port, Ports};
use crate::devices::{self, Hook, Role};

/// The result of a poll.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Found {
    /// An interface has become able or unable to forward.
    pub(in crate::daemon) changed: bool,
    /// An interface has lost the program.
    pub(in crate::daemon) lost: bool,
}

/// Consecutive failed polls after which an interface is unfit. One failure may be a veth peer that replaces its
/// program.
const MISSES: u8 = 2;

impl Ports {
    /// Polls BPF links, pins and peers.
    pub(in crate::daemon) fn watch(&mut self) -> Found {
        let lost = self.held.keys().any(|index| !self.runs_on(*index));
        // If a link is lost, attaching again makes a new one with its own pin.
        let pins = !lost && self.keep_pins();
        let changed = self.judge(false);
        if changed || pins {
            self.publish();
        }
        Found { changed, lost }
    }

    /// Marks interfaces that cannot deliver frames of native XDP as unfit, at once or after repeated polls, and marks
    /// them fit again.
    pub(super) fn judge(&mut self, at_once: bool) -> bool {
        let native = self.held.values().any(|held| held.hook == Hook::Native);
        if !native {
            return false;
        }
        let role = Role::of(self.held.len());
        let (mut changed, mut judgements) = (false, BTreeMap::new());
        for (name, port) in mem::take(&mut self.ports) {
            let held = port.runs().and_then(|index| self.held.get_mut(&index));
            let now = held.map_or_else(
                || port.clone(),
                |held| {
                    // Once per interface: it may have several names.
                    let judgement = judgements.entry(held.link.index);
                    judgement.or_insert_with(|| judged(&port, held, role, at_once)).clone()
                },
            );
            changed |= now != port;
            self.ports.insert(name, now);
        }
        changed
    }
}

fn judged(port: &Port, held: &mut Held, role: Role, at_once: bool) -> Port {
    let (index, name) = (held.link.index, &held.link.name);
    let native = match devices::native(&held.link, true) {
        Ok(native) => native,
        Err(error) => {
            let error = format!("{error:#}");
            if held.trouble.as_ref() != Some(&error) {
                tracing::warn!(interface = name, error, "cannot find out what it can do");
                held.trouble = Some(error);
            }
            return port.clone();
        }
    };
    held.trouble = None;
    let Some(why) = devices::conflict(&native, role) else {
        held.misses = 0;
        if matches!(port, Port::Unfit { .. }) {
            tracing::info!(interface = name, "the interface forwards again");
        }
        return Port::Attached(index);
    };
    held.misses = held.misses.saturating_add(1);
    if held.misses < MISSES && !at_once {
        return port.clone();
    }
    let now = Port::Unfit { index, why: why.to_owned() };
    if now != *port {
        tracing::error!(
            interface = name,
            why,
            "the interface does not forward any more: its packets are lost"
        );
    }
    now
}
