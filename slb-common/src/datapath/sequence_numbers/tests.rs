use super::*;
use crate::datapath::parse::{EMPTY_PACKET, TcpFlags};

const NUMBERS: SequenceNumbers = SequenceNumbers { client: 0xffff_fff0, server: 5_000 };

fn segment(sequence: u32, payload: u32, acknowledges: u32) -> Segment {
    Segment { sequence, end: sequence.wrapping_add(payload), acknowledges }
}

#[test]
fn syn_and_fin_count_as_one_byte_each() {
    let of = |flags| {
        Segment::of(&Packet { sequence: u32::MAX, payload: 10, flags: TcpFlags(flags), ..EMPTY_PACKET }).end
    };
    assert_eq!([16, 2, 1, 3].map(of), [9, 10, 10, 11]);
}

#[test]
fn tracked_numbers_advance_by_whole_lags_across_wraparound() {
    let next = NUMBERS.client;
    assert_eq!(after_client(NUMBERS, &segment(next, LAG - 1, 5_000)), None);
    let there = next.wrapping_add(LAG);
    assert_eq!(
        after_client(NUMBERS, &segment(next, LAG, 5_000)),
        Some(SequenceNumbers { client: there, ..NUMBERS })
    );
    assert_eq!(
        after_server(NUMBERS, &segment(5_000, 10, there)),
        Some(SequenceNumbers { client: there, ..NUMBERS })
    );
    assert_eq!(
        after_server(NUMBERS, &segment(5_000, LAG, next)),
        Some(SequenceNumbers { server: 5_000 + LAG, ..NUMBERS })
    );
    // Retransmitted and late segments move no number back.
    assert_eq!(after_client(NUMBERS, &segment(next.wrapping_sub(LAG), 10, 5_000)), None);
}

const FAR_OFF: [u32; 5] = [WINDOW, 1 << 21, 1 << 30, 1 << 31, u32::MAX - 2 * WINDOW];

#[test]
fn client_segment_far_off_in_either_number_is_not_followed() {
    let next = NUMBERS.client;
    for off in FAR_OFF {
        let far = next.wrapping_add(off);
        assert_eq!(after_client(NUMBERS, &segment(far, LAG, 5_000)), None, "{off}");
        assert_eq!(after_client(NUMBERS, &segment(next, LAG, 5_000_u32.wrapping_add(off))), None, "{off}");
    }
}

#[test]
fn server_segment_plausible_in_one_number_is_followed() {
    let next = NUMBERS.client;
    for off in FAR_OFF {
        let (client, server) = (next.wrapping_add(off), 5_000_u32.wrapping_add(off));
        let sent = after_server(NUMBERS, &segment(server, LAG, next));
        assert_eq!(sent, Some(SequenceNumbers { server: server.wrapping_add(LAG), ..NUMBERS }), "{off}");
        let heard = after_server(NUMBERS, &segment(5_000, 10, client));
        assert_eq!(heard, Some(SequenceNumbers { client, ..NUMBERS }), "{off}");
        assert_eq!(after_server(NUMBERS, &segment(server, LAG, client)), None, "both, {off}");
    }
    // A retransmission, as far back as the window is wide.
    assert_eq!(after_server(NUMBERS, &segment(5_000_u32.wrapping_sub(WINDOW - 10), 10, next)), None);
}

/// Of all sequence numbers, [`LAG`] end a connection: a blind RST hits one of 2^18.
#[test]
fn rst_ends_a_connection_only_at_the_expected_number() {
    let next = NUMBERS.client;
    let ends = |off: u32| segment(next.wrapping_add(off), 0, 0).ends(next);
    assert!(ends(0) && ends(LAG - 1));
    assert!(![LAG, 1 << 16, 1 << 31, u32::MAX].into_iter().any(ends));
    let finishes = |off: u32| segment(next.wrapping_add(off), 0, 0).finishes(next);
    assert!(finishes(0) && finishes(LAG - 1) && finishes(0_u32.wrapping_sub(LAG)));
    assert!(![LAG, 1 << 31, 0_u32.wrapping_sub(LAG + 1)].into_iter().any(finishes));
}

#[test]
fn acknowledgement_is_accepted_only_within_one_lag() {
    let of = |acknowledges| Segment { sequence: 0, end: 0, acknowledges };
    let next = u32::MAX - 9;
    for (off, is_one) in [(0, true), (LAG - 1, true), (LAG, false), (0_u32.wrapping_sub(1), false)] {
        assert_eq!(of(next.wrapping_add(off)).acknowledges(next), is_one, "{off}");
    }
    // A SYN-ACK may acknowledge less: a server may leave data of the SYN (TCP Fast Open) for later.
    for (off, is_one) in [
        (0, true),
        (LAG - 1, true),
        (LAG, false),
        (0_u32.wrapping_sub(LAG), true),
        (0_u32.wrapping_sub(LAG + 1), false),
    ] {
        assert_eq!(of(next.wrapping_add(off)).accepts(next), is_one, "{off}");
    }
}
