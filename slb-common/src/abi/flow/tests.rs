use super::*;

#[test]
fn a_filled_entry_says_what_was_put_into_it() {
    let words = [const { SharedWord::new(0) }; WORDS];
    let entry = FlowEntry::new(&words);
    let client = Client::new(&Address::v4([192, 0, 2, 1]), 80, 6);
    let flow = Flow {
        service: 9,
        backend: Handle::new(70_000, 3),
        client: ClientPath::new(2, 0x0909_0909_0909),
        arrival: 0xff,
        numbers: Numbers { client: 5, server: u32::MAX },
    };
    let meta = entry.meta();
    assert!(!meta.is_used() && entry.lock(meta) && entry.meta().is_being_written());
    assert!(!entry.lock(meta), "claimed twice");
    entry.fill(meta, &client, &flow, 1000, state::ASSURED, idle_units(899));
    let filled = entry.meta();
    assert!(filled.is_used() && meta.replaced(filled));
    assert_eq!((filled.last_seen(), filled.idle(250)), (1000, 900 * 250));
    assert_eq!(entry.read(filled), Some(flow));
    assert_eq!(entry.read(meta), None);
    assert_eq!(entry.service_of(&client), Some(9));
    assert_eq!(entry.client(), client);
    entry.touch(filled, 1300, state::USED | state::RESET);
    assert!(entry.meta().is_finished() && !filled.replaced(entry.meta()));
    assert_eq!(entry.meta().silence(1310), 10);
    assert_eq!(entry.meta().silence(1290), 0, "another processor has read the clock later");
    assert_eq!(entry.meta().silence(1300 + (1 << 31) + 9), (1 << 31) + 9, "months later");
    entry.touch(filled, 9, 0);
    assert_eq!(entry.meta().last_seen(), 1300, "touched by an outdated view");
}

#[test]
fn homes_of_neighbours_collide_by_chance_only() {
    let four = |ip, port: u16| Client::new(&Address::v4(ip), port.to_be(), 6);
    let six = |last: u8, port: u16| {
        let mut ip = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        ip[8] = last;
        Client::new(&Address::v6(ip), port, 6)
    };
    let pairs = [
        (four([10, 0, 0, 1], 4640), four([11, 0, 0, 1], 4624)),
        (six(0, 16), six(16, 0)),
        (six(1, 1), six(2, 0)),
    ];
    for (a, b) in pairs {
        assert!((0..8).any(|seed| a.home(seed) != b.home(seed)), "{a:?} {b:?}");
    }
}

#[test]
fn versions_come_round() {
    let mut meta = Meta(0);
    for _ in 0..70_000 {
        let next = meta.next(1, state::USED, 3);
        assert!(!next.is_being_written() && meta.replaced(next));
        assert_eq!((next.state(), next.last_seen()), (state::USED, 1));
        meta = next;
    }
}

/// A packet that has read the path before finds the old one or the new one, and no packet finds the entry locked.
#[test]
fn path_is_replaced_only_where_it_is_the_expected_one() {
    let words = [const { SharedWord::new(0) }; WORDS];
    let (entry, client) = (FlowEntry::new(&words), Client::new(&Address::v4([192, 0, 2, 1]), 80, 6));
    let (old, new) = (ClientPath::new(2, 9), ClientPath::new(0x1_0003, 8));
    let flow = Flow { service: 9, backend: Handle::new(7, 3), client: old, ..Flow::default() };
    let meta = entry.meta();
    assert!(entry.lock(meta));
    entry.fill(meta, &client, &flow, 1000, state::ASSURED, 9);
    let meta = entry.meta();
    assert!(!entry.redirect(new, old) && entry.redirect(old, new));
    assert_eq!(entry.read(meta), Some(Flow { client: new, ..flow }));
    assert_eq!((new.interface(), new.mac(), entry.meta()), (3, 8, meta));
}

#[test]
fn arrival_is_replaced_and_is_no_part_of_the_endpoint() {
    let words = [const { SharedWord::new(0) }; WORDS];
    let (entry, client) = (FlowEntry::new(&words), Client::new(&Address::v4([192, 0, 2, 1]), 80, 6));
    let flow = Flow { service: 9, arrival: 3, ..Flow::default() };
    let meta = entry.meta();
    assert!(entry.lock(meta));
    entry.fill(meta, &client, &flow, 1000, state::ASSURED, 9);
    assert!(!entry.arrive(&client, &Flow { arrival: 4, ..flow }, 5) && entry.arrive(&client, &flow, 5));
    assert_eq!(entry.read(entry.meta()), Some(Flow { arrival: 5, ..flow }));
    assert_eq!((entry.service_of(&client), entry.client()), (Some(9), client));
    let [here, there] = [(2, 0xa1), (2, 0xa2)].map(|(ifindex, mac)| ClientPath::new(ifindex, mac).tag());
    assert_ne!(here, there);
}

#[test]
fn numbers_are_replaced_only_where_they_are_the_expected_ones() {
    let words = [const { SharedWord::new(0) }; WORDS];
    let entry = FlowEntry::new(&words);
    let (old, new) = (Numbers::default(), Numbers { client: u32::MAX, server: 7 });
    assert!(!entry.advance(new, old) && entry.advance(old, new));
    assert_eq!(entry.read(entry.meta()).map(|flow| flow.numbers), Some(new));
}
