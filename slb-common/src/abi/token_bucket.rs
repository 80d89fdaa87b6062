//! Token buckets of services, which limit bandwidth and new connections. All processors share each bucket.
//!
//! A bucket is one word, as in the generic cell rate algorithm (ITU-T I.371): the time at which it is full again. Each
//! packet delays that time by as long as the limit takes to refill what the packet has taken.

use super::shared_word::SharedWord;

/// Units of time in a nanosecond: at 100 Gbit/s a frame of 64 bytes takes 5.12 ns. The clock wraps around in nine years.
const NANOSECOND: u64 = 64;
/// Units of time in a second.
const SECOND: u64 = 1_000_000_000 * NANOSECOND;
/// Time in which an empty bucket is full again, at any rate: as much passes at once after a pause.
const DEPTH: u64 = SECOND / 5;
/// No bucket is full later than this. The longest is [`DEPTH`] and one connection in a second for each processor.
const LONGEST: u64 = 1024 * SECOND;

/// What a service limits. Each limit has its own bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Kilobits (1,000 bits) of frames from clients in a second.
    BandwidthIn,
    /// Kilobits of frames to clients in a second.
    BandwidthOut,
    /// Connections that begin in a second: SYNs, or flows of UDP.
    NewConnections,
}

impl Limit {
    /// The time that a limit of `rate` takes to refill `amount`: bytes, or connections. It is in units of the buckets;
    /// without a rate it is 0.
    #[inline(always)]
    pub const fn cost(self, rate: u32, amount: u32) -> u64 {
        const KILOBIT: u64 = 1000;
        let unit = match self {
            Self::BandwidthIn | Self::BandwidthOut => u8::BITS as u64 * SECOND / KILOBIT,
            Self::NewConnections => SECOND,
        };
        match (amount as u64 * unit).checked_div(rate as u64) {
            Some(cost) => cost,
            None => 0,
        }
    }
}

/// The buckets of a service. Those of different directions lie on different cache lines.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct TokenBuckets {
    bandwidth_in: TokenBucket,
    new_connections: TokenBucket,
    syn_cookies: TokenBucket,
    flood: SynFlood,
    /// Fills the cache line.
    reserved_in: [u64; 4],
    bandwidth_out: TokenBucket,
    /// Fills the cache line.
    reserved_out: [u64; 7],
}

impl TokenBuckets {
    /// Words of the layout.
    pub const WORDS: usize = size_of::<Self>() / size_of::<u64>();

    /// Takes what has this [`Limit::cost`] from the bucket of a limit, unless it is empty. `now` is in nanoseconds, of a
    /// clock that is the same on all processors.
    #[inline(always)]
    pub fn take(&self, limit: Limit, cost: u64, now: u64) -> bool {
        let bucket = match limit {
            Limit::BandwidthIn => &self.bandwidth_in,
            Limit::BandwidthOut => &self.bandwidth_out,
            Limit::NewConnections => &self.new_connections,
        };
        bucket.take(cost, now.wrapping_mul(NANOSECOND))
    }

    /// Counts a SYN that would make a flow-table entry, of at most `rate` in a second. Returns whether a SYN cookie must
    /// answer it: SYNs come faster, or have done so within [`SynFlood::HOLD`].
    #[inline(always)]
    pub fn is_flood(&self, rate: u32, now: u64) -> bool {
        let cost = Limit::NewConnections.cost(rate, 1);
        if self.syn_cookies.take(cost, now.wrapping_mul(NANOSECOND)) {
            return self.flood.is_active(now);
        }
        self.flood.renew(now);
        true
    }

    /// When SYNs last came faster than the limit.
    #[inline(always)]
    pub const fn flood(&self) -> &SynFlood {
        &self.flood
    }
}

/// When the bucket is full again. 0 is the past, so a new bucket is full.
#[repr(transparent)]
#[derive(Debug, Default)]
struct TokenBucket(SharedWord);

impl TokenBucket {
    /// Takes what costs this much time, if the bucket is not empty; it may then owe a part. Processors that take at once
    /// may each owe a part. All of it is charged, so the rate is exact.
    #[inline(always)]
    fn take(&self, cost: u64, now: u64) -> bool {
        let full_at = self.0.load();
        let missing = full_at.wrapping_sub(now);
        if missing > LONGEST {
            // Full for some time. If another processor takes first, it makes the time a current one.
            if !self.0.exchange(full_at, now.wrapping_add(cost)) {
                self.0.add(cost);
            }
            return true;
        }
        if missing > DEPTH {
            return false;
        }
        // Never fails, however many processors add at once.
        self.0.add(cost);
        true
    }
}

/// When SYNs of the service last came faster than its limit, in nanoseconds of the clock of [`TokenBuckets::take`]; 0:
/// never.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct SynFlood(SharedWord);

impl SynFlood {
    /// Word of [`TokenBuckets`] that holds it.
    pub const WORD: usize = 3;
    /// Nanoseconds for which a flood goes on after the last SYN over the limit.
    pub const HOLD: u64 = 10_000_000_000;
    /// Nanoseconds after a flood for which cookies may return: the kernel checks those of the last two minutes.
    pub const GRACE: u64 = 120_000_000_000;
    /// Nanoseconds between two writes, so that processors share the cache line.
    const STEP: u64 = 100_000_000;

    /// A SYN is over the limit.
    #[inline(always)]
    pub fn renew(&self, now: u64) {
        if now.wrapping_sub(self.0.load()) >= Self::STEP {
            self.0.store(now);
        }
    }

    /// Whether SYNs are answered by cookies.
    #[inline(always)]
    pub fn is_active(&self, now: u64) -> bool {
        Self::was_within(self.0.load(), now, Self::HOLD)
    }

    /// Whether cookies may return.
    #[inline(always)]
    pub fn may_be_answered(&self, now: u64) -> bool {
        Self::was_within(self.0.load(), now, Self::HOLD + Self::GRACE)
    }

    /// Whether a flood with this word goes on at `now`. For the daemon, which reads the word.
    pub const fn is_active_at(word: u64, now: u64) -> bool {
        Self::was_within(word, now, Self::HOLD)
    }

    /// Another processor may have written a time that this one has not reached.
    #[inline(always)]
    const fn was_within(last: u64, now: u64, time: u64) -> bool {
        last != 0 && now.wrapping_sub(last) as i64 <= time as i64
    }
}

const _: () = assert!(TokenBuckets::WORDS == 16);
const _: () = assert!(core::mem::offset_of!(TokenBuckets, flood) == SynFlood::WORD * size_of::<u64>());

#[cfg(test)]
mod tests;
