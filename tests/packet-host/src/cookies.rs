//! SYN cookies on the host, in place of the kernel's: a cookie is a hash of what it stands for.

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use slb_common::{
    abi::{
        stats::CookieEvent,
        syn_cookie::{OffsetKey, SequenceOffset},
    },
    datapath::{cookie_calls::CookieCalls, maps::Maps as _, parse::Packet, syn_cookie::segment_sizes},
};

use crate::host::Host;

/// Sequence offsets by flow.
pub(crate) type SequenceOffsets = RefCell<HashMap<OffsetKey, SequenceOffset>>;

/// Nanoseconds for which a cookie counts.
const LIFETIME: u64 = 120_000_000_000;

/// The cookie for a SYN, with the index of its segment size in the lowest two bits.
fn cookie(packet: &Packet, sequence: u32, size: u32) -> u32 {
    let mut hasher = DefaultHasher::new();
    let ends = (packet.source.0, packet.source_port, packet.destination.0, packet.destination_port);
    (ends, sequence).hash(&mut hasher);
    hasher.finish() as u32 & !3 | size
}

impl CookieCalls for Host {
    fn generate_cookie(&self, packet: &Packet, sequence: u32, mss: u32) -> Option<u32> {
        let sizes = segment_sizes(packet.source.is_v4());
        let size = sizes.iter().rposition(|size| *size <= mss).unwrap_or(0) as u32;
        let cookie = cookie(packet, sequence, size);
        self.cookies.borrow_mut().insert(cookie, self.nanoseconds());
        Some(cookie)
    }

    fn is_cookie(&self, packet: &Packet, sequence: u32) -> bool {
        let acknowledged = packet.acknowledges.wrapping_sub(1);
        let is_recent = |made: &u64| self.nanoseconds() - made < LIFETIME;
        (0..4).any(|size| cookie(packet, sequence, size) == acknowledged)
            && self.cookies.borrow().get(&acknowledged).is_some_and(is_recent)
    }

    fn sequence_offset(&self, key: &OffsetKey) -> Option<SequenceOffset> {
        self.sequence_offsets.borrow().get(key).copied()
    }

    fn put_sequence_offset(&self, key: &OffsetKey, offset: &SequenceOffset) -> bool {
        self.sequence_offsets.borrow_mut().insert(*key, *offset);
        true
    }

    fn erase_sequence_offset(&self, key: &OffsetKey) {
        self.sequence_offsets.borrow_mut().remove(key);
    }

    fn count_cookie(&self, service: u32, event: CookieEvent) {
        *self.limit_drops.borrow_mut().entry(service).or_default().of_cookie(event) += 1;
    }
}
