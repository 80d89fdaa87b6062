use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use super::*;

#[test]
fn a_filled_entry_says_what_was_put_into_it() {
    let words = [const { Word::new(0) }; WORDS];
    let entry = FlowEntry::new(&words);
    let client = Client::new(&Address::v4([192, 0, 2, 1]), 80, 6);
    let flow = Flow {
        service: 9,
        backend: Reference::new(70_000, 3),
        client: Link { ifindex: 2, stations: Stations::new([6; 6], [9; 6]) },
    };
    let meta = entry.meta();
    assert!(!meta.is_used() && entry.claim(meta) && entry.meta().is_being_written());
    assert!(!entry.claim(meta), "claimed twice");
    entry.fill(meta, &client, &flow, 1000, state::CONFIRMED, idle_units(899));
    let filled = entry.meta();
    assert!(filled.is_used() && meta.replaced(filled));
    assert_eq!((filled.last_seen(), filled.idle(250)), (1000, 900 * 250));
    assert_eq!(entry.read(filled), Some(flow));
    assert_eq!(entry.read(meta), None);
    assert_eq!(entry.service_of(&client), Some(9));
    assert_eq!(entry.client(), client);
    entry.touch(filled, 1300, state::USED | state::RESET);
    assert!(entry.meta().is_over() && !filled.replaced(entry.meta()));
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

fn station(n: u8) -> Link {
    let own = [n << 1, n, n, n, n, n];
    Link { ifindex: u32::from_ne_bytes([n; 4]), stations: Stations::new(own, own) }
}

fn filled(words: &[Word; WORDS], link: Link) -> FlowEntry<'_> {
    let (entry, client) = (FlowEntry::new(words), Client::new(&Address::v4([192, 0, 2, 1]), 80, 6));
    let (meta, flow) = (entry.meta(), Flow { service: 9, backend: Reference::new(7, 3), client: link });
    if !meta.is_being_written() && entry.claim(meta) {
        entry.fill(meta, &client, &flow, 1000, state::CONFIRMED, 9);
    }
    entry
}

fn link_of(entry: FlowEntry<'_>) -> Option<Link> {
    let meta = entry.meta();
    entry.read(meta).filter(|_| meta.is_used()).map(|flow| flow.client)
}

/// Answers find no link, and are dropped, until a packet of the client renews it, whichever the daemon could still have changed.
#[test]
fn link_that_is_changed_by_half_is_none_until_it_is_renewed() {
    let (old, new, renewed) = (station(0x11), station(0x22), station(0x44));
    let none = Link::default();
    for of_client in [old, renewed] {
        for fills in 0..3 {
            let words = [const { Word::new(0) }; WORDS];
            let entry = filled(&words, old);
            let parity = entry.parity();
            let (from, to) = (old.words_of_parity(parity), new.words_of_parity(parity ^ 1));
            assert!(entry.lead_word(1, from, to));
            assert_eq!(link_of(entry), Some(none));
            for _ in 0..fills {
                filled(&words, of_client);
                assert_eq!(link_of(entry), Some(of_client));
            }
            // The daemon goes on.
            let is_changed = entry.lead_word(0, from, to);
            let expected = match (fills, is_changed) {
                (0, true) => new,
                // As if the words before had never been written: the halves differ.
                (_, true) => none,
                (_, false) => of_client,
            };
            assert_eq!(link_of(entry), Some(expected), "{of_client:x?}, {fills} times");
            assert_eq!(link_of(filled(&words, of_client)), Some(of_client));
        }
    }
}

/// The daemon changes links while packets read entries, and write them anew.
#[test]
fn link_that_changes_is_read_as_old_or_new_or_none() {
    const LINKS: [u8; 3] = [0x11, 0x22, 0x44];
    let words = [const { Word::new(0) }; WORDS];
    let entry = filled(&words, station(LINKS[0]));
    let (is_done, changes, reads) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let goes_on = || !is_done.load(Ordering::Relaxed);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in LINKS.into_iter().cycle().take_while(|_| goes_on()) {
                if link_of(entry).is_some_and(|from| entry.lead(&from, &station(n))) {
                    changes.fetch_add(1, Ordering::Relaxed);
                }
                // Of two changes, an answer reads its words around one at most.
                let before = reads.load(Ordering::Relaxed);
                while goes_on() && reads.load(Ordering::Relaxed) == before {
                    thread::yield_now();
                }
            }
        });
        scope.spawn(|| {
            for n in LINKS.into_iter().rev().cycle().take_while(|_| goes_on()) {
                filled(&words, station(n));
                // A client's path changes rarely.
                thread::sleep(Duration::from_micros(50));
            }
        });
        let mut half = None;
        while half.is_none() && changes.load(Ordering::Relaxed) < 20_000 {
            half = link_of(entry)
                .filter(|link| *link != Link::default() && !LINKS.into_iter().any(|n| station(n) == *link));
            reads.fetch_add(1, Ordering::Relaxed);
        }
        is_done.store(true, Ordering::Relaxed);
        assert_eq!(half, None, "after {changes:?} changes");
    });
}
