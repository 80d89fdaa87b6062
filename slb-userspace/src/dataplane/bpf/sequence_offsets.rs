//! The map of sequence offsets of flows that began with a SYN cookie: erases those of flows that have ended.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::maps::{HashMap as BpfHashMap, MapData, MapError, MapInfo};
use slb_common::{abi::syn_cookie::OffsetKey, datapath::flow_gc::GcEntry};

use super::{access_lists::is_missing, map_shapes::SEQUENCE_OFFSETS, pinned_map, pins::Pins};

/// Time for which an offset stays without its flow: it may be about to begin, or its entry was evicted or flushed, and
/// the next segment picks it up.
const GRACE: Duration = Duration::from_secs(60);

/// Flows that began with a SYN cookie, and whose entries a GC pass has seen.
#[derive(Debug, Default)]
pub(super) struct CookieFlows(HashSet<OffsetKey>);

impl CookieFlows {
    /// Takes note of a flow, if it began with a SYN cookie.
    pub(super) fn see(&mut self, GcEntry { client, flow, .. }: &GcEntry<'_>) {
        if flow.source.is_of_cookie() {
            self.0.insert(OffsetKey::new(client, flow.tag()));
        }
    }
}

/// The map.
pub(super) struct SequenceOffsets {
    map: BpfHashMap<MapData, [u64; 4], Value>,
    max_entries: usize,
    absences: Absences,
}

impl SequenceOffsets {
    /// Opens the map behind its pin.
    pub(super) fn open(pins: &Pins) -> Result<Self> {
        let max_entries = MapInfo::from_pin(pins.map(SEQUENCE_OFFSETS))?.max_entries() as usize;
        let map = pinned_map::open(pins, SEQUENCE_OFFSETS)?;
        Ok(Self { map, max_entries, absences: Absences::default() })
    }

    /// Erases the offsets of flows that have had no entry for [`GRACE`]. `flows` are those of a complete GC pass.
    ///
    /// # Errors
    /// The map cannot be read or written.
    pub(super) fn erase_ended(&mut self, flows: &CookieFlows) -> Result<()> {
        // The kernel begins again where packets have erased the offset that was read last.
        let most = self.max_entries * 2;
        let read: Result<Vec<_>, MapError> = self.map.iter().take(most).collect();
        let read = read.context("cannot read the sequence offsets")?.into_iter();
        let read = read.map(|(key, value)| (OffsetKey(key), value));
        for (OffsetKey(key), value) in self.absences.update(read, flows, Instant::now()) {
            // A connection has begun, or was picked up, since.
            if !self.map.get(&key, 0).is_ok_and(|now| now == value) {
                continue;
            }
            match self.map.remove(&key) {
                // A new connection of the endpoint has erased it.
                Err(error) if is_missing(&error) => {}
                removed => removed.context("cannot erase a sequence offset")?,
            }
        }
        Ok(())
    }
}

/// A value of the map.
type Value = [u32; 4];

/// Offsets without a flow, and since when.
#[derive(Debug, Default)]
struct Absences(HashMap<OffsetKey, (Value, Instant)>);

impl Absences {
    /// Updates which of these offsets have no flow at `now`. Returns those that have had none, and have not changed, for
    /// [`GRACE`].
    fn update(
        &mut self,
        offsets: impl Iterator<Item = (OffsetKey, Value)>,
        flows: &CookieFlows,
        now: Instant,
    ) -> Vec<(OffsetKey, Value)> {
        let (mut ended, mut absent) = (Vec::new(), HashMap::new());
        for (key, value) in offsets.filter(|(key, _)| !flows.0.contains(key)) {
            let known = self.0.get(&key).filter(|(was, _)| *was == value);
            let since = known.map_or(now, |(_, since)| *since);
            if now.duration_since(since) >= GRACE {
                ended.push((key, value));
            } else {
                absent.insert(key, (value, since));
            }
        }
        self.0 = absent;
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_outlives_its_flow_for_a_minute() {
        let key = |n| OffsetKey([n, 0, 0, 0]);
        let value = [7, 0, 0, 0];
        let mut absences = Absences::default();
        let start = Instant::now();
        let mut pass = |flows: &[u64], seconds| {
            let flows = CookieFlows(flows.iter().map(|&n| key(n)).collect());
            let now = start + Duration::from_secs(seconds);
            absences.update([(key(1), value), (key(2), value)].into_iter(), &flows, now)
        };
        assert_eq!(pass(&[1, 2], 0), []);
        assert_eq!(pass(&[1], 10), []);
        // The flow was picked up, and has ended again.
        assert_eq!(pass(&[1, 2], 69), []);
        assert_eq!(pass(&[1], 70), []);
        assert_eq!(pass(&[1], 129), []);
        assert_eq!(pass(&[1], 130), [(key(2), value)]);
        assert_eq!(pass(&[1], 140), []);
        let changed = absences.update(
            [(key(2), [8, 0, 0, 0])].into_iter(),
            &CookieFlows::default(),
            start + 2 * GRACE + GRACE,
        );
        assert_eq!(changed, []);
    }
}
