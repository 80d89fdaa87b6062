use super::*;

#[test]
fn published_entry_returns_its_flow() {
    let words = [const { SharedWord::new(0) }; WORDS];
    let entry = FlowEntry::new(&words);
    let client = Client::new(&Address::v4([192, 0, 2, 1]), 80, 6);
    let flow = Flow {
        service: 9,
        backend: Handle::new(70_000, 3),
        client: ClientPath::new(2, 0x0909_0909_0909),
        arrival: 0xff,
        port: 0xbb01,
        numbers: SequenceNumbers { client: 5, server: u32::MAX },
        source: Source::candidate(7, 80).allocated(),
    };
    let sequence_word = entry.sequence_word();
    assert!(!sequence_word.is_used() && entry.lock(sequence_word) && entry.sequence_word().is_locked());
    assert!(!entry.lock(sequence_word), "claimed twice");
    entry.publish(sequence_word, &client, &flow, 1000, state::ASSURED, idle_units(899));
    let filled = entry.sequence_word();
    assert!(filled.is_used() && sequence_word.replaced(filled));
    assert_eq!((filled.last_seen(), filled.idle(250)), (1000, 900 * 250));
    assert_eq!(entry.read(filled), Some(flow));
    assert_eq!(entry.read(sequence_word), None);
    assert_eq!(entry.service_of(&client), Some(9));
    assert_eq!(entry.client(), client);
    entry.touch(filled, 1300, state::USED | state::RESET);
    assert!(entry.sequence_word().is_finished() && !filled.replaced(entry.sequence_word()));
    assert_eq!(entry.sequence_word().silence(1310), 10);
    assert_eq!(entry.sequence_word().silence(1290), 0, "another processor has read the clock later");
    assert_eq!(entry.sequence_word().silence(1300 + (1 << 31) + 9), (1 << 31) + 9, "months later");
    entry.touch(filled, 9, 0);
    assert_eq!(entry.sequence_word().last_seen(), 1300, "touched by an outdated view");
}

#[test]
fn home_buckets_of_similar_clients_differ() {
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
fn sequence_word_version_wraps_around() {
    let mut sequence_word = SequenceWord(0);
    for _ in 0..70_000 {
        let next = sequence_word.next(1, state::USED, 3);
        assert!(!next.is_locked() && sequence_word.replaced(next));
        assert_eq!((next.state(), next.last_seen()), (state::USED, 1));
        sequence_word = next;
    }
}

/// A packet that has read the path before finds the old one or the new one, and no packet finds the entry locked.
#[test]
fn client_path_is_replaced_only_if_it_is_the_expected_one() {
    let words = [const { SharedWord::new(0) }; WORDS];
    let (entry, client) = (FlowEntry::new(&words), Client::new(&Address::v4([192, 0, 2, 1]), 80, 6));
    let (old, new) = (ClientPath::new(2, 9), ClientPath::new(0x1_0003, 8));
    let flow = Flow { service: 9, backend: Handle::new(7, 3), client: old, ..Flow::default() };
    let sequence_word = entry.sequence_word();
    assert!(entry.lock(sequence_word));
    entry.publish(sequence_word, &client, &flow, 1000, state::ASSURED, 9);
    let sequence_word = entry.sequence_word();
    assert!(!entry.set_client_path(new, old) && entry.set_client_path(old, new));
    assert_eq!(entry.read(sequence_word), Some(Flow { client: new, ..flow }));
    assert_eq!((new.interface(), new.mac(), entry.sequence_word()), (3, 8, sequence_word));
}

#[test]
fn arrival_is_replaced_and_is_not_part_of_the_client_endpoint() {
    let words = [const { SharedWord::new(0) }; WORDS];
    let (entry, client) = (FlowEntry::new(&words), Client::new(&Address::v4([192, 0, 2, 1]), 80, 6));
    let flow = Flow { service: 9, arrival: 3, ..Flow::default() };
    let sequence_word = entry.sequence_word();
    assert!(entry.lock(sequence_word));
    entry.publish(sequence_word, &client, &flow, 1000, state::ASSURED, 9);
    assert!(
        !entry.set_arrival_tag(&client, &Flow { arrival: 4, ..flow }, 5)
            && entry.set_arrival_tag(&client, &flow, 5)
    );
    assert_eq!(entry.read(entry.sequence_word()), Some(Flow { arrival: 5, ..flow }));
    assert_eq!((entry.service_of(&client), entry.client()), (Some(9), client));
    let [here, there] = [(2, 0xa1), (2, 0xa2)].map(|(ifindex, mac)| ClientPath::new(ifindex, mac).tag());
    assert_ne!(here, there);
}

#[test]
fn sequence_numbers_are_replaced_only_if_they_are_the_expected_ones() {
    let words = [const { SharedWord::new(0) }; WORDS];
    let entry = FlowEntry::new(&words);
    let (old, new) = (SequenceNumbers::default(), SequenceNumbers { client: u32::MAX, server: 7 });
    assert!(!entry.advance(new, old) && entry.advance(old, new));
    assert_eq!(entry.read(entry.sequence_word()).map(|flow| flow.numbers), Some(new));
}

#[test]
fn rehomed_flow_of_a_port_range_keeps_its_port() {
    let words = [const { SharedWord::new(0) }; WORDS];
    let entry = FlowEntry::new(&words);
    let client = Client::new(&Address::v4([192, 0, 2, 1]), 80, 6);
    let (from, to) = (Handle::new(7, Handle::MAX_GENERATION), Handle::new(8, 3));
    let flow = Flow { service: 9, backend: from, port: 0x401f, ..Flow::default() };
    let sequence_word = entry.sequence_word();
    assert!(entry.lock(sequence_word));
    entry.publish(sequence_word, &client, &flow, 1, 0, 1);
    assert!(!entry.rehome(to, from), "of another server");
    assert!(entry.rehome(from, to));
    assert_eq!(entry.read(entry.sequence_word()), Some(Flow { backend: to, ..flow }));
    assert_eq!((entry.backend(), entry.port()), (to, 0x401f));
}
