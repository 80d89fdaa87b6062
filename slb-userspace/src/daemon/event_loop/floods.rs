//! Floods of SYNs: logs when a listener begins to answer SYNs by SYN cookies, and when it ends.

use std::collections::BTreeSet;

use super::EventLoop;
use crate::daemon::environment::Environment;

/// Listeners whose SYNs are answered by SYN cookies, by load balancer and name. A flood lasts for ten seconds at least,
/// so each listener logs twice in that time at most.
#[derive(Default)]
pub(super) struct Floods(BTreeSet<(String, String)>);

impl Floods {
    /// Updates which listeners answer by cookies. Returns those that have begun, and those that have ended.
    fn update(&mut self, flooded: BTreeSet<(String, String)>) -> [Vec<(String, String)>; 2] {
        let begun = flooded.difference(&self.0).cloned().collect();
        let ended = self.0.difference(&flooded).cloned().collect();
        self.0 = flooded;
        [begun, ended]
    }
}

impl<E: Environment> EventLoop<E> {
    /// Logs floods of SYNs that have begun or ended.
    pub(super) fn follow_floods(&mut self) {
        let [begun, ended] = self.floods.update(self.reconciler.flooded());
        for (load_balancer, listener) in begun {
            tracing::warn!(load_balancer, listener, "flood of SYNs: answering them by SYN cookies");
        }
        for (load_balancer, listener) in ended {
            tracing::info!(load_balancer, listener, "the flood of SYNs has ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flood_begins_and_ends_once() {
        let named =
            |names: &[&str]| names.iter().map(|name| ("shop".to_owned(), (*name).to_owned())).collect();
        let mut floods = Floods::default();
        for (now, begun, ended) in [
            (named(&["a"]), named(&["a"]), named(&[])),
            (named(&["a"]), named(&[]), named(&[])),
            (named(&["b"]), named(&["b"]), named(&["a"])),
            (named(&[]), named(&[]), named(&["b"])),
        ] {
            let changes = floods.update(now).map(BTreeSet::from_iter);
            assert_eq!(changes, [begun, ended]);
        }
    }
}
