//! Keeps frames whole below interfaces that run the program in the generic hook.

use super::{Held, Links, Ports};
use crate::{
    devices::{self, Hook},
    neigh::Link,
};

/// Kinds whose frames come from containers or virtual machines, with checksums and segmentation left to a NIC.
const GUESTS: [&str; 2] = ["veth", "tun"];

impl Ports {
    /// Switches off what merges frames below interfaces of the generic hook: a merged frame is larger than any MTU.
    pub(super) fn unmerge(&mut self, links: &Links) {
        for held in self.held.values_mut().filter(|held| held.hook == Hook::Generic) {
            let Some(link) = links.values().find(|link| link.index == held.link.index) else { continue };
            held.link = link.clone();
            for (lower, features) in held.note_below(links) {
                self.record.note_switched_off(&lower, &features);
            }
        }
    }
}

impl Held {
    /// Switches merging off below it. Returns where, and which features that were.
    fn note_below(&mut self, links: &Links) -> Vec<(Link, Vec<String>)> {
        let mut switched_off = Vec::new();
        let below = devices::below(&self.link, links);
        for lower in &below {
            match devices::switch_off(lower) {
                Ok(features) if features.is_empty() => {}
                Ok(features) => {
                    switched_off.push(((*lower).clone(), features.clone()));
                    let features = features.join(", ");
                    tracing::warn!(
                        interface = self.link.name,
                        below = lower.name,
                        features,
                        "merged frames cannot be forwarded: merging is switched off (`slbd detach` switches it on again)"
                    );
                    self.note(format!("merging switched off: {} ({features})", lower.name));
                }
                Err(error) => {
                    self.note(format!("{error:#}: large transfers fail; switch it off with `ethtool -K`"));
                }
            }
        }
        let of_guests = |kind: Option<&str>| kind.is_some_and(|kind| GUESTS.contains(&kind));
        if below.iter().any(|lower| of_guests(lower.kind.as_deref())) {
            self.note(
                "containers and virtual machines behind it need `ethtool -K NAME tx off` on their own end, or their TCP stalls"
                    .to_owned(),
            );
        }
        switched_off
    }

    /// Shows a note, and logs it the first time.
    fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            tracing::warn!(interface = self.link.name, "{note}");
            self.notes.push(note);
        }
    }
}
