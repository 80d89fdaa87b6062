//! A flow table whose entries are copied to another one. Its entries have the layout of this ABI version, or of an older
//! one; those are translated.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::MapInfo;
use slb_common::{
    abi::{flow::WORDS, shared_word::SharedWord},
    datapath::flow_gc::{Clock, CopyResult, FlowTable},
};

use super::super::mapped_array::MappedArray;

/// Number of words of an entry in an older ABI version, and a function that translates the words to those of this
/// version. Word 0 is the sequence word in all versions. The hop bitmap is not used.
pub type OldEntry = (usize, fn(&[u64]) -> [u64; WORDS]);

/// Entries translated at a time. A power of two, as every flow table.
const PART: usize = 1 << 16;
/// Reads of an entry that packets change each time. Then a later pass copies it.
const TRIES: u32 = 1000;

/// A flow table, mapped into memory.
pub(super) enum OldTable {
    /// Its entries have the layout of this version.
    Same(MappedArray),
    /// The words of its entries, which have the layout of an older version.
    Older(MappedArray<SharedWord>, OldEntry),
}

impl OldTable {
    /// Maps the flow table behind a pin. The size of its entries decides which layout they have: that of this version,
    /// or one of `old_entries`.
    pub(super) fn open(pin: &Path, old_entries: &[OldEntry]) -> Result<Self> {
        let info =
            MapInfo::from_pin(pin).with_context(|| format!("cannot open the map {}", pin.display()))?;
        let bytes = info.value_size() as usize;
        let older = old_entries.iter().find(|(words, _)| words * size_of::<SharedWord>() == bytes);
        match older {
            Some(entry) => Ok(Self::Older(MappedArray::open_parts(pin)?, *entry)),
            None => Ok(Self::Same(MappedArray::open(pin)?)),
        }
    }

    /// As [`FlowTable::copy_from`].
    pub(super) fn copy_to(&self, new: &FlowTable<'_>, clock: Clock, within: Option<u32>) -> CopyResult {
        let (words, (entry_words, translate)) = match self {
            Self::Same(table) => return new.copy_from(table.slots(), clock, within),
            Self::Older(words, entry) => (words.slots(), entry),
        };
        let mut sum = CopyResult::default();
        let mut entry = vec![0; *entry_words];
        for part in words.chunks(PART * entry_words) {
            let translated: Vec<_> = part
                .chunks_exact(*entry_words)
                .map(|shared| {
                    read(shared, &mut entry);
                    translate(&entry).map(SharedWord::new)
                })
                .collect();
            let copied = new.copy_from(&translated, clock, within);
            sum.entries += copied.entries;
            sum.dropped += copied.dropped;
        }
        sum
    }
}

/// Reads the words of an entry while its sequence word stays the same; zeros, as of a free entry, if it never does. An
/// entry that is locked is locked in the copy, too.
fn read(shared: &[SharedWord], entry: &mut [u64]) {
    let Some(sequence_word) = shared.first() else { return };
    for _ in 0..TRIES {
        let before = sequence_word.load();
        entry.iter_mut().zip(shared).for_each(|(word, shared)| *word = shared.load());
        if entry.first() == Some(&before) && sequence_word.load() == before {
            return;
        }
    }
    entry.fill(0);
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use aya::maps::MapData;
    use slb_common::abi::{
        Address, Handle,
        flow::{Client, Flow, FlowEntry, idle_units, state},
    };

    use super::{
        super::super::{bpffs, syscall},
        *,
    };

    const CLOCK: Clock = Clock { now: 10_000, hz: 100 };
    const SLOTS: u32 = 256;
    /// An entry of ten words: word 0, another one, the rest of today's words, another one.
    const LONG: OldEntry = (10, |words| std::array::from_fn(|n| words[if n == 0 { 0 } else { n + 1 }]));

    fn client(port: u16) -> Client {
        Client::new(&Address::v4([192, 0, 2, 1]), port, 6)
    }

    /// The words of a flow of the client with server 7, seen a second ago.
    fn long_entry(port: u16) -> [u64; 10] {
        let words = [const { SharedWord::new(0) }; WORDS];
        let there = FlowEntry::new(&words);
        let flow = Flow { service: 3, backend: Handle::new(7, 1), ..Flow::default() };
        let bits = state::ANSWERED | state::ASSURED;
        there.publish(
            there.sequence_word(),
            &client(port),
            &flow,
            CLOCK.now - CLOCK.hz,
            bits,
            idle_units(900),
        );
        let mut long = [u64::MAX; 10];
        for (n, word) in words.iter().enumerate() {
            long[if n == 0 { 0 } else { n + 1 }] = word.load();
        }
        long
    }

    #[test]
    fn entries_of_another_layout_are_translated_and_copied() {
        bpffs::in_own_bpf_fs(|directory| {
            let pin = directory.join("LONG_FLOWS");
            let map = syscall::mmapable_array("LONG_FLOWS", size_of::<[u64; 10]>(), SLOTS).unwrap();
            let keys: Vec<u32> = (0..100).collect();
            let entries: Vec<_> = keys.iter().map(|key| long_entry(*key as u16)).collect();
            syscall::update_batch(map.as_fd(), &keys, &entries).unwrap();
            MapData::from_fd(map).unwrap().pin(&pin).unwrap();

            let new: Vec<[SharedWord; WORDS]> = (0..2 * SLOTS).map(|_| Default::default()).collect();
            let new = FlowTable::new(&new, 1);
            let table = OldTable::open(&pin, &[(9, |_| [0; WORDS]), LONG]).unwrap();
            let copied = table.copy_to(&new, CLOCK, None);
            assert_eq!(copied, CopyResult { entries: keys.len(), dropped: 0 });
            assert!(new.is_sound());
            let mut flows = Vec::new();
            let usage = new.live(CLOCK, &mut |flow| flows.push((flow.service, flow.backend)));
            assert_eq!(usage.assured, keys.len());
            assert!(flows.iter().all(|flow| *flow == (3, Handle::new(7, 1))), "{flows:?}");
            // A second pass, of what has changed since, finds the same entries.
            assert_eq!(table.copy_to(&new, CLOCK, Some(5)).entries, keys.len());
            assert!(OldTable::open(&pin, &[]).is_err(), "a size that no version has");
        });
    }
}
