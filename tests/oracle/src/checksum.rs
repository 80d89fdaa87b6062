//! The internet checksum.

use std::ops::Range;

use crate::bytes::{put, word};

/// One's-complement sum of 16-bit words (RFC 1071).
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)));
    fold(words.sum())
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// Writes the checksum of `new` at the offset `at`, as wrong or as right as that of `old` was (RFC 1624, equation 3).
/// It covers these ranges, which begin at even distances from each other.
pub(crate) fn carry(old: &[u8], new: &mut [u8], at: usize, covered: &[Range<usize>]) {
    let Some(before) = word(old, at) else { return };
    let mut total = u64::from(!before);
    for offset in covered.iter().flat_map(|range| range.clone().step_by(2)).filter(|offset| *offset != at) {
        let (Some(was), Some(is)) = (word(old, offset), word(new, offset)) else { continue };
        if was != is {
            total += u64::from(!was) + u64::from(is);
        }
    }
    put(new, at, !fold(total));
}
