//! Breaks frames.

use super::frame::Built;
use crate::choices::Choices;

/// Changes a frame now and then, once or a few times. The source MAC stays: where packets come from is compared by a
/// hash, and random addresses could collide.
pub(super) fn mutated(choices: &mut impl Choices, mut frame: Built, least: usize) -> Vec<u8> {
    if !choices.rarely(4) {
        return frame.bytes;
    }
    for _ in 0..1 + choices.below(3) {
        mutate(choices, &mut frame, least);
    }
    frame.bytes
}

fn mutate(choices: &mut impl Choices, frame: &mut Built, least: usize) {
    let Built { bytes, network, transport, .. } = frame;
    let headers = bytes.len().min(*transport + 24);
    let at = |choices: &mut _| match headers {
        0..=6 => None,
        _ => Some(below(choices, headers - 6)).map(|at| if at < 6 { at } else { at + 6 }),
    };
    match choices.below(8) {
        // A byte, or a bit of it.
        0 => {
            if let Some(byte) = at(choices).and_then(|at| bytes.get_mut(at)) {
                *byte = choices.below(256) as u8;
            }
        }
        1 | 2 => {
            if let Some(byte) = at(choices).and_then(|at| bytes.get_mut(at)) {
                *byte ^= 1 << choices.below(8);
            }
        }
        3 => {
            let len = least.min(bytes.len()) + below(choices, bytes.len().saturating_sub(least) + 1);
            bytes.truncate(len);
        }
        // A word of the IP header, as most length fields are.
        4 => {
            let at = *network + 2 * below(choices, 4);
            set(
                bytes,
                at,
                choices.pick(&[0, 1, 19, 20, 21, 28, 39, 40, 48, 60, 100, 0x2000, 0x4000, 0xffff]),
            );
        }
        // A word of the transport header: ports, numbers, lengths, flags, checksums.
        5 => {
            let at = *transport + 2 * below(choices, 10);
            set(bytes, at, choices.pick(&[0, 1, 7, 8, 9, 0x4000, 0x5010, 0x5011, 0x5004, 0xf000, 0xffff]));
        }
        6 => bytes.extend(std::iter::repeat_n(0x5a, below(choices, 64))),
        // A checksum that is off by one of the zeros.
        _ => {
            let at = choices.pick(&[*network + 10, *transport + 16, *transport + 6]);
            set(bytes, at, choices.pick(&[0, 0xffff, 0xfffe, 1]));
        }
    }
}

fn below(choices: &mut impl Choices, bound: usize) -> usize {
    choices.below(bound as u32) as usize
}

fn set(bytes: &mut [u8], at: usize, word: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&word.to_be_bytes());
    }
}
