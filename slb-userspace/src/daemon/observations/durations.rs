//! How long things have been in their state. The log line for a change of state includes how long the previous one
//! lasted.

use std::{collections::BTreeMap, time::Duration};

use crate::clock::rounded;

/// The state of each key, and when it began.
#[derive(Debug)]
pub(super) struct Durations<K, S>(BTreeMap<K, (S, Duration)>);

impl<K, S> Default for Durations<K, S> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord, S: PartialEq> Durations<K, S> {
    /// Sets a state. Returns how long a different previous state lasted, if there was one.
    pub(super) fn note(&mut self, key: K, state: S, now: Duration) -> Option<Duration> {
        let lasted = match self.0.get(&key) {
            Some((before, _)) if *before == state => return None,
            known => known.map(|(_, since)| rounded(now.saturating_sub(*since))),
        };
        self.0.insert(key, (state, now));
        lasted
    }

    /// Sets the state of a key that has none.
    pub(super) fn begin(&mut self, key: K, state: S, now: Duration) {
        self.0.entry(key).or_insert((state, now));
    }

    /// How long the current state has lasted, if there is one.
    pub(super) fn lasts(&self, key: &K, now: Duration) -> Option<Duration> {
        self.0.get(key).map(|(_, since)| rounded(now.saturating_sub(*since)))
    }

    /// Removes all other keys.
    pub(super) fn retain(&mut self, is_known: impl Fn(&K) -> bool) {
        self.0.retain(|key, _| is_known(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_lasts_from_its_first_note_to_the_next_state() {
        let mut since = Durations::default();
        let at = Duration::from_millis;
        assert_eq!(since.note("a", true, at(1000)), None, "not known before");
        assert_eq!(since.note("a", true, at(1500)), None, "no change");
        assert_eq!(since.note("a", false, at(3000)), Some(at(2000)));
        assert_eq!(since.note("b", false, at(3000)), None);
        since.begin("a", true, at(4000));
        assert_eq!(since.lasts(&"a", at(4500)), Some(at(1500)));
        since.retain(|key| *key == "b");
        assert_eq!(since.note("a", true, at(5000)), None);
    }
}
