use super::{
    super::{CopyResult, tests},
    *,
};
use crate::abi::{
    flow::{WORDS, idle_units, state},
    shared_word::SharedWord,
    source::{BUCKET, Source},
};

const SEED: u64 = 7;
const SLOTS: u32 = 64;

fn buckets(number: u32) -> Vec<SourceBucket> {
    (0..number).map(|_| Default::default()).collect()
}

/// The hash of a server's endpoint: all but server 99 exist.
fn server(handle: Handle, _: u16) -> Option<u64> {
    (handle.id() != 99).then(|| u64::from(handle.id()) << 40)
}

/// A table of flows with these servers and sources, each with the client of its position.
fn table(flows: &[(u32, Source)]) -> Vec<[SharedWord; WORDS]> {
    let slots = tests::table(flows.len() as u16, state::ASSURED);
    for slot in &slots {
        let entry = crate::abi::flow::FlowEntry::new(slot);
        let sequence_word = entry.sequence_word();
        if let Some(flow) = entry.read(sequence_word).filter(|_| sequence_word.is_used()) {
            let client = entry.client();
            let (id, source) = flows[usize::from(client.parts().1)];
            assert!(entry.lock(sequence_word));
            let flow = Flow { backend: Handle::new(id, 1), source, ..flow };
            entry.publish(sequence_word, &client, &flow, 0, state::ASSURED, idle_units(900));
        }
    }
    slots
}

/// Sources by client port, of the flows in a table.
fn sources_of(table: &FlowTable<'_>) -> Vec<Source> {
    let mut sources = Vec::new();
    table.flush(0..u32::MAX, false, &mut |seen| {
        sources.push((seen.client.parts().1, seen.flow.source));
        false
    });
    sources.sort_unstable_by_key(|(port, _)| *port);
    sources.into_iter().map(|(_, source)| source).collect()
}

fn allocated(port: u16) -> Source {
    Source::candidate(3, port).allocated()
}

#[test]
fn each_claimed_source_gets_a_word_once() {
    let flows = [
        (1, allocated(1)),
        (2, allocated(1)),
        (1, allocated(2)),
        (1, Source::NONE),
        (1, Source::candidate(3, 4)),
    ];
    let (slots, words) = (table(&flows), buckets(buckets_of(SLOTS)));
    let (table, sources) = (FlowTable::new(&slots, SEED), SourceTable::new(&words));
    assert!(!table.has_sound_sources(&sources, &server));
    let written = SourcesResult { found: 3, cleared: 0 };
    for _ in 0..2 {
        assert_eq!(table.write_sources(&sources, &server), written);
        assert!(table.has_sound_sources(&sources, &server));
        assert_eq!(words.iter().flatten().filter(|word| word.load() != 0).count(), 3);
    }
    assert_eq!(sources_of(&table), flows.map(|(_, source)| source));
}

#[test]
fn flow_whose_source_cannot_be_found_loses_it() {
    // The second has the source of the first, the third has no server.
    let flows = [(1, allocated(1)), (1, allocated(1)), (99, allocated(2)), (1, allocated(3))];
    let (slots, words) = (table(&flows), buckets(buckets_of(SLOTS)));
    let (table, sources) = (FlowTable::new(&slots, SEED), SourceTable::new(&words));
    assert_eq!(table.write_sources(&sources, &server), SourcesResult { found: 2, cleared: 2 });
    assert!(table.has_sound_sources(&sources, &server) && table.is_sound());
    let left = sources_of(&table);
    assert_eq!(left.iter().filter(|source| **source == allocated(1)).count(), 1);
    assert_eq!(left[2..], [Source::NONE, allocated(3)]);
}

#[test]
fn full_bucket_keeps_living_words_and_replaces_stale_ones() {
    let flows: Vec<_> = (0..=BUCKET as u16).map(|port| (1, allocated(port))).collect();
    let (slots, words) = (table(&flows), buckets(1));
    let (table, sources) = (FlowTable::new(&slots, SEED), SourceTable::new(&words));
    assert_eq!(table.write_sources(&sources, &server), SourcesResult { found: BUCKET, cleared: 1 });
    assert!(table.has_sound_sources(&sources, &server));

    // The flow of one word ends, and another one has a place then.
    let mut is_first = true;
    let mut one =
        |seen: &super::super::GcEntry<'_>| seen.flow.source.is_allocated() && std::mem::take(&mut is_first);
    assert_eq!(table.flush(0..SLOTS, true, &mut one).erased, 1);
    let other = slots
        .iter()
        .map(crate::abi::flow::FlowEntry::new)
        .find(|entry| entry.sequence_word().is_used() && entry.source() == Source::NONE);
    other.expect("the flow without a source").set_source(allocated(1000));
    assert_eq!(table.write_sources(&sources, &server), SourcesResult { found: BUCKET, cleared: 0 });
    assert!(table.has_sound_sources(&sources, &server));
}

/// A word of a flow that has left the slot must not lead its replies to the flow that has come there.
#[test]
fn stale_word_of_the_same_source_is_replaced() {
    let (slots, words) = (table(&[(1, allocated(1)), (1, Source::NONE)]), buckets(buckets_of(SLOTS)));
    let (table, sources) = (FlowTable::new(&slots, SEED), SourceTable::new(&words));
    table.write_sources(&sources, &server);
    for slot in &slots {
        let entry = crate::abi::flow::FlowEntry::new(slot);
        if entry.sequence_word().is_used() {
            let other = if entry.source() == Source::NONE { allocated(1) } else { Source::NONE };
            entry.set_source(other);
        }
    }
    assert!(!table.has_sound_sources(&sources, &server));
    assert_eq!(table.write_sources(&sources, &server), SourcesResult { found: 1, cleared: 0 });
    assert!(table.has_sound_sources(&sources, &server));
}

#[test]
fn copied_flows_keep_their_sources() {
    let flows: Vec<_> = (0..40).map(|port| (1, allocated(port))).collect();
    let old = table(&flows);
    let new: Vec<[SharedWord; WORDS]> = (0..256).map(|_| Default::default()).collect();
    let (new, words) = (FlowTable::new(&new, SEED), buckets(buckets_of(256)));
    let clock = super::super::Clock { now: 250, hz: 250 };
    for _ in 0..2 {
        assert_eq!(new.copy_from(&old, clock, None), CopyResult { entries: 40, dropped: 0 });
        let sources = SourceTable::new(&words);
        assert_eq!(new.write_sources(&sources, &server), SourcesResult { found: 40, cleared: 0 });
        assert!(new.has_sound_sources(&sources, &server) && new.is_sound());
        assert_eq!(sources_of(&new), (0..40).map(allocated).collect::<Vec<_>>());
    }
}
