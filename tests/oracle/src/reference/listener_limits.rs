//! Limits of listeners: bandwidth and new connections.
//!
//! A bucket is described by when it is full again. It may be 200 ms short of that, and the last packet may exceed it.

use std::collections::HashMap;

use super::{Reference, Refusal, Slots};
use crate::{outcome::Reason, world::position};

const SECOND: u64 = 1_000_000_000;
/// What a full bucket holds, in nanoseconds.
const DEPTH: u64 = SECOND / 5;

/// What a listener limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Limited {
    BytesIn,
    BytesOut,
    Connections,
}

/// When the bucket of a listener is full again, in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Buckets(HashMap<(usize, Limited), u64>);

impl Buckets {
    /// Whether a packet is within a limit that takes `cost` nanoseconds to make up for it.
    fn admit(&mut self, bucket: (usize, Limited), cost: u64, now: u64) -> bool {
        let full_at = self.0.entry(bucket).or_default();
        let may = *full_at <= now + DEPTH;
        if may {
            *full_at = now.max(*full_at) + cost;
        }
        may
    }
}

impl<S: Slots> Reference<'_, S> {
    pub(super) fn check_bytes_in(&mut self, listener: usize, bytes: usize) -> Result<(), Refusal> {
        self.check_bytes(listener, Limited::BytesIn, bytes)
    }

    pub(super) fn check_bytes_out(&mut self, listener: usize, bytes: usize) -> Result<(), Refusal> {
        self.check_bytes(listener, Limited::BytesOut, bytes)
    }

    fn check_bytes(&mut self, listener: usize, limited: Limited, bytes: usize) -> Result<(), Refusal> {
        let Some(kilobits) = self.world.listening(listener).bandwidth else { return Ok(()) };
        let cost = bytes as u64 * 8 * SECOND / 1000 / u64::from(kilobits);
        self.check(listener, limited, cost, Reason::BandwidthLimit)
    }

    pub(super) fn check_new_connection(&mut self, listener: usize) -> Result<(), Refusal> {
        let Some(number) = self.world.listening(listener).new_connections else { return Ok(()) };
        self.check(listener, Limited::Connections, SECOND / u64::from(number), Reason::NewConnectionLimit)
    }

    fn check(&mut self, listener: usize, limited: Limited, cost: u64, reason: Reason) -> Result<(), Refusal> {
        let now = u64::from(self.now) * (SECOND / u64::from(self.world.hz));
        let may = self.buckets.admit((position(listener), limited), cost, now);
        if may { Ok(()) } else { Err(Refusal::Drop(reason)) }
    }
}
