//! Polls what sends no notification.

use std::{collections::BTreeMap, mem};

use super::{super::environment::PollResult, ManagedInterface, PortState, Ports};
use crate::devices::{self, Hook, HookScope};

/// Consecutive failed polls after which an interface is unfit. One failure may be a veth peer that replaces its
/// program.
const MAX_FAILED_POLLS: u8 = 2;

impl Ports {
    /// Polls BPF links, pins and peers.
    pub(in crate::daemon) fn watch(&mut self) -> PollResult {
        let lost = self.held.keys().any(|index| !self.runs_on(*index));
        // If a link is lost, attaching again makes a new one with its own pin.
        let pins = !lost && self.restore_pins();
        let changed = self.update_states(false);
        if changed || pins {
            self.publish();
        }
        PollResult { changed, lost }
    }

    /// Marks interfaces that cannot deliver frames of native XDP as unfit, at once or after repeated polls, and marks
    /// them fit again.
    pub(super) fn update_states(&mut self, at_once: bool) -> bool {
        let native = self.held.values().any(|held| held.hook == Hook::Native);
        if !native {
            return false;
        }
        let scope = HookScope::of(self.held.len());
        let (mut changed, mut judgements) = (false, BTreeMap::new());
        for (name, port) in mem::take(&mut self.ports) {
            let held = port.runs().and_then(|index| self.held.get_mut(&index));
            let now = held.map_or_else(
                || port.clone(),
                |held| {
                    // Once per interface: it may have several names.
                    let judgement = judgements.entry(held.link.index);
                    judgement.or_insert_with(|| polled_state(&port, held, scope, at_once)).clone()
                },
            );
            changed |= now != port;
            self.ports.insert(name, now);
        }
        changed
    }
}

fn polled_state(port: &PortState, held: &mut ManagedInterface, scope: HookScope, at_once: bool) -> PortState {
    let (index, name) = (held.link.index, &held.link.name);
    let native = match devices::native(&held.link, true) {
        Ok(native) => native,
        Err(error) => {
            let error = format!("{error:#}");
            if held.trouble.as_ref() != Some(&error) {
                tracing::warn!(interface = name, error, "cannot read the XDP features of the interface");
                held.trouble = Some(error);
            }
            return port.clone();
        }
    };
    held.trouble = None;
    let Some(why) = devices::conflict(&native, scope) else {
        held.failed_polls = 0;
        if matches!(port, PortState::Unfit { .. }) {
            tracing::info!(interface = name, "the interface forwards again");
        }
        return PortState::Attached(index);
    };
    held.failed_polls = held.failed_polls.saturating_add(1);
    if held.failed_polls < MAX_FAILED_POLLS && !at_once {
        return port.clone();
    }
    let now = PortState::Unfit { index, why: why.to_owned() };
    if now != *port {
        tracing::error!(
            interface = name,
            why,
            "the interface does not forward any more: its packets are lost"
        );
    }
    now
}
