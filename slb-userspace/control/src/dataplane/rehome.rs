//! Rehomes flows to the entry of their server in the table that their listener uses now.

use std::collections::BTreeMap;

use slb_common::abi::{
    Handle,
    flow::{FlowEntry, WORDS},
    shared_word::SharedWord,
};

use super::NewPath;

/// By service tag and present server of a flow: the server entry it is rehomed to.
pub type Rehomed = BTreeMap<(u32, Handle), Handle>;

/// Rehomes flows in a flow table that packets use meanwhile. Returns how many changed.
pub fn carry_out(slots: &[[SharedWord; WORDS]], moves: &Rehomed) -> usize {
    let entries = slots.iter().map(FlowEntry::new);
    let moved = entries.filter(|entry| {
        let meta = entry.meta();
        meta.is_used()
            && entry.read(meta).is_some_and(|flow| {
                let to = moves.get(&(flow.service, flow.backend));
                to.is_some_and(|to| entry.hand(flow.backend, *to))
            })
    });
    moved.count()
}

/// Replaces client paths in a flow table that packets use meanwhile. Returns how many changed.
pub fn carry_out_clients(slots: &[[SharedWord; WORDS]], to: &NewPath<'_>) -> usize {
    let entries = slots.iter().map(FlowEntry::new);
    let moved = entries.filter(|entry| {
        let meta = entry.meta();
        let client = entry.client();
        meta.is_used()
            && !meta.is_client()
            && entry.read(meta).is_some_and(|flow| {
                let to = to(&client.parts().0, flow.client);
                to.is_some_and(|to| entry.redirect(flow.client, to))
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
    fn flows_of_the_service_and_the_server_are_moved_and_nothing_else_of_them_changes() {
        let (old, new, other) = (Handle::new(3, 7), Handle::new(4, 8), Handle::new(5, 7));
        let client = ClientPath::new(2, 9);
        let flow = |service, backend| Flow { service, backend, client, ..Flow::default() };
        let flows = [flow(1, old), flow(2, old), flow(1, other), flow(1, Handle::new(3, 6))];
        let slots: Vec<[SharedWord; WORDS]> = (0..=flows.len()).map(|_| Default::default()).collect();
        let clients = (1..).map(|port| Client::new(&Address::v4([192, 0, 2, 1]), port, 6));
        for ((slot, flow), client) in slots.iter().zip(&flows).zip(clients) {
            let entry = FlowEntry::new(slot);
            let meta = entry.meta();
            assert!(entry.lock(meta));
            entry.fill(meta, &client, flow, 9, state::ASSURED, 3);
        }
        let metas = || slots.iter().map(|slot| FlowEntry::new(slot).meta()).collect::<Vec<_>>();
        let before = metas();
        assert_eq!(carry_out(&slots, &Rehomed::from([((1, old), new)])), 1);
        assert_eq!(metas(), before);
        let now: Vec<_> =
            slots.iter().zip(&before).map(|(slot, meta)| FlowEntry::new(slot).read(*meta)).collect();
        let expected = [flow(1, new), flow(2, old), flow(1, other), flow(1, Handle::new(3, 6))];
        assert_eq!(now[..4], expected.map(Some));
        assert_eq!(carry_out(&slots, &Rehomed::from([((1, old), new)])), 0);
    }

    /// The sequence words stay: a packet that reads an entry meanwhile is not lost.
    #[test]
    fn flows_lead_to_the_new_station_and_nothing_else_of_them_changes() {
        let path = |mac| ClientPath::new(2, mac);
        let to = |_: &Address, from: ClientPath| (from == path(9)).then(|| path(8));
        let flow =
            |mac| Flow { service: 1, backend: Handle::new(3, 7), client: path(mac), ..Flow::default() };
        let slots: [[SharedWord; WORDS]; 3] = Default::default();
        for (slot, mac) in slots.iter().zip([9, 5]) {
            let (entry, client) = (FlowEntry::new(slot), Client::new(&Address::v4([203, 0, 113, 7]), 9, 6));
            let meta = entry.meta();
            assert!(entry.lock(meta));
            entry.fill(meta, &client, &flow(mac), 9, state::ASSURED, 3);
        }
        let metas = slots.each_ref().map(|slot| FlowEntry::new(slot).meta());
        assert_eq!(carry_out_clients(&slots, &to), 1);
        assert_eq!(slots.each_ref().map(|slot| FlowEntry::new(slot).meta()), metas);
        let now = |slot: usize| FlowEntry::new(&slots[slot]).read(metas[slot]);
        assert_eq!([now(0), now(1)], [Some(flow(8)), Some(flow(5))]);
        assert_eq!(carry_out_clients(&slots, &to), 0);
    }
}
