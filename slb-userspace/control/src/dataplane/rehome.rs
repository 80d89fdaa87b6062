//! Rehomes flows to the entry of their server in the table that their listener uses now.

use std::collections::BTreeMap;

use slb_common::abi::{
    Handle,
    flow::{FlowEntry, WORDS},
    ids::ServiceTag,
    shared_word::SharedWord,
};

use super::NewPath;

/// By service tag and present server of a flow: the server entry it is rehomed to. Both entries have the same endpoint, so
/// words of the source table stay right.
pub type RehomeMap = BTreeMap<(ServiceTag, Handle), Handle>;

/// Rehomes flows in a flow table that packets use meanwhile. Returns how many changed.
pub fn rehome_flows(slots: &[[SharedWord; WORDS]], moves: &RehomeMap) -> usize {
    let entries = slots.iter().map(FlowEntry::new);
    let moved = entries.filter(|entry| {
        let sequence_word = entry.sequence_word();
        sequence_word.is_used()
            && entry.read(sequence_word).is_some_and(|flow| {
                let to = moves.get(&(ServiceTag::new(flow.service), flow.backend));
                to.is_some_and(|to| entry.rehome(flow.backend, *to))
            })
    });
    moved.count()
}

/// Replaces client paths in a flow table that packets use meanwhile. Returns how many changed.
pub fn update_client_paths(slots: &[[SharedWord; WORDS]], to: &NewPath<'_>) -> usize {
    let entries = slots.iter().map(FlowEntry::new);
    let moved = entries.filter(|entry| {
        let sequence_word = entry.sequence_word();
        let client = entry.client();
        sequence_word.is_used()
            && !sequence_word.is_affinity()
            && entry.read(sequence_word).is_some_and(|flow| {
                let to = to(&client.parts().0, flow.client);
                to.is_some_and(|to| entry.set_client_path(flow.client, to))
            })
    });
    moved.count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use slb_common::abi::{
        Address,
        flow::{Client, ClientPath, Flow, state},
    };

    #[test]
    fn rehome_changes_only_the_handle_of_matching_flows() {
        let (old, new, other) = (Handle::new(3, 7), Handle::new(4, 8), Handle::new(5, 7));
        let client = ClientPath::new(2, 9);
        let flow = |service, backend| Flow { service, backend, client, ..Flow::default() };
        let flows = [flow(1, old), flow(2, old), flow(1, other), flow(1, Handle::new(3, 6))];
        let slots: Vec<[SharedWord; WORDS]> = (0..=flows.len()).map(|_| Default::default()).collect();
        let clients = (1..).map(|port| Client::new(&Address::v4([192, 0, 2, 1]), port, 6));
        for ((slot, flow), client) in slots.iter().zip(&flows).zip(clients) {
            let entry = FlowEntry::new(slot);
            let sequence_word = entry.sequence_word();
            assert!(entry.lock(sequence_word));
            entry.publish(sequence_word, &client, flow, 9, state::ASSURED, 3);
        }
        let sequence_words =
            || slots.iter().map(|slot| FlowEntry::new(slot).sequence_word()).collect::<Vec<_>>();
        let before = sequence_words();
        assert_eq!(rehome_flows(&slots, &RehomeMap::from([((ServiceTag::new(1), old), new)])), 1);
        assert_eq!(sequence_words(), before);
        let now: Vec<_> = slots
            .iter()
            .zip(&before)
            .map(|(slot, sequence_word)| FlowEntry::new(slot).read(*sequence_word))
            .collect();
        let expected = [flow(1, new), flow(2, old), flow(1, other), flow(1, Handle::new(3, 6))];
        assert_eq!(now[..4], expected.map(Some));
        assert_eq!(rehome_flows(&slots, &RehomeMap::from([((ServiceTag::new(1), old), new)])), 0);
    }

    /// The sequence words stay: a packet that reads an entry meanwhile is not lost.
    #[test]
    fn redirect_changes_only_the_client_path_of_matching_flows() {
        let path = |mac| ClientPath::new(2, mac);
        let to = |_: &Address, from: ClientPath| (from == path(9)).then(|| path(8));
        let flow =
            |mac| Flow { service: 1, backend: Handle::new(3, 7), client: path(mac), ..Flow::default() };
        let slots: [[SharedWord; WORDS]; 3] = Default::default();
        for (slot, mac) in slots.iter().zip([9, 5]) {
            let (entry, client) = (FlowEntry::new(slot), Client::new(&Address::v4([203, 0, 113, 7]), 9, 6));
            let sequence_word = entry.sequence_word();
            assert!(entry.lock(sequence_word));
            entry.publish(sequence_word, &client, &flow(mac), 9, state::ASSURED, 3);
        }
        let sequence_words = slots.each_ref().map(|slot| FlowEntry::new(slot).sequence_word());
        assert_eq!(update_client_paths(&slots, &to), 1);
        assert_eq!(slots.each_ref().map(|slot| FlowEntry::new(slot).sequence_word()), sequence_words);
        let now = |slot: usize| FlowEntry::new(&slots[slot]).read(sequence_words[slot]);
        assert_eq!([now(0), now(1)], [Some(flow(8)), Some(flow(5))]);
        assert_eq!(update_client_paths(&slots, &to), 0);
    }
}
