//! Flows that are to be with another entry of their server: the one in the table that their listener has now.

use std::collections::BTreeMap;

use slb_common::abi::{
    Reference,
    flow::{FlowEntry, WORDS},
    word::Word,
};

/// By a service's tag and the server its flows are with, the server they are to be with.
pub type Moves = BTreeMap<(u32, Reference), Reference>;

/// Moves flows in a table that is in use. Returns how many.
pub fn carry_out(slots: &[[Word; WORDS]], moves: &Moves) -> usize {
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

#[cfg(test)]
mod tests {
    use super::*;
    use slb_common::abi::{
        Address, Stations,
        flow::{Client, Flow, Link, state},
    };

    #[test]
    fn flows_of_the_service_and_the_server_are_moved_and_nothing_else_of_them_changes() {
        let (old, new, other) = (Reference::new(3, 7), Reference::new(4, 8), Reference::new(5, 7));
        let link = Link { ifindex: 2, stations: Stations::new([7; 6], [9; 6]) };
        let flow = |service, backend| Flow { service, backend, client: link };
        let flows = [flow(1, old), flow(2, old), flow(1, other), flow(1, Reference::new(3, 6))];
        let slots: Vec<[Word; WORDS]> = (0..=flows.len()).map(|_| Default::default()).collect();
        let clients = (1..).map(|port| Client::new(&Address::v4([192, 0, 2, 1]), port, 6));
        for ((slot, flow), client) in slots.iter().zip(&flows).zip(clients) {
            let entry = FlowEntry::new(slot);
            let meta = entry.meta();
            assert!(entry.claim(meta));
            entry.fill(meta, &client, flow, 9, state::CONFIRMED, 3);
        }
        let metas = || slots.iter().map(|slot| FlowEntry::new(slot).meta()).collect::<Vec<_>>();
        let before = metas();
        assert_eq!(carry_out(&slots, &Moves::from([((1, old), new)])), 1);
        assert_eq!(metas(), before);
        let now: Vec<_> =
            slots.iter().zip(&before).map(|(slot, meta)| FlowEntry::new(slot).read(*meta)).collect();
        let expected = [flow(1, new), flow(2, old), flow(1, other), flow(1, Reference::new(3, 6))];
        assert_eq!(now[..4], expected.map(Some));
        assert_eq!(carry_out(&slots, &Moves::from([((1, old), new)])), 0);
    }
}
