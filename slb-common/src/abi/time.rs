//! Times in the maps.

use core::time::Duration;

/// A time in whole seconds since boot (`CLOCK_BOOTTIME`), as the maps store deadlines. They store 0 for none, so no
/// time is 0.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BootSecs(u32);

impl BootSecs {
    /// The time this many seconds after boot; at least 1.
    pub const fn new(seconds: u32) -> Self {
        Self(if seconds == 0 { 1 } else { seconds })
    }

    /// This time since boot, rounded down; at least 1 s.
    pub fn of(since_boot: Duration) -> Self {
        Self::new(u32::try_from(since_boot.as_secs()).unwrap_or(u32::MAX))
    }

    /// Reads a word of a map; `None` for 0.
    pub const fn from_word(word: u32) -> Option<Self> {
        if word == 0 { None } else { Some(Self(word)) }
    }

    /// The word of a map for a time or none.
    pub const fn word(time: Option<Self>) -> u32 {
        match time {
            Some(Self(seconds)) => seconds,
            None => 0,
        }
    }

    /// The time this many seconds later.
    #[must_use]
    pub const fn plus(self, seconds: u32) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// Seconds from `earlier` to this time; 0 if it is not later.
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.saturating_sub(earlier.0)
    }

    /// The time since boot.
    pub const fn since_boot(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }
}

/// Jiffies: ticks of the data path's clock. As a time, the low word of the kernel's count, which wraps around.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Jiffies(u32);

impl Jiffies {
    /// This many jiffies.
    pub const fn new(count: u32) -> Self {
        Self(count)
    }

    /// Their number.
    pub const fn count(self) -> u32 {
        self.0
    }

    /// As a span: the whole seconds in it, at `hz` jiffies per second.
    pub const fn seconds(self, hz: u32) -> u32 {
        self.0 / if hz == 0 { 1 } else { hz }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_maps_survive_and_no_time_is_0() {
        let time = BootSecs::new(1060);
        assert_eq!((BootSecs::word(Some(time)), BootSecs::from_word(1060)), (1060, Some(time)));
        assert_eq!((BootSecs::word(None), BootSecs::from_word(0)), (0, None));
        assert_eq!(BootSecs::of(Duration::from_millis(999)), BootSecs::new(1));
        assert_eq!(BootSecs::of(Duration::MAX).plus(1), BootSecs::new(u32::MAX));
    }

    #[test]
    fn seconds_between_times_and_in_jiffies_are_whole() {
        let time = BootSecs::new(10);
        assert_eq!((time.plus(5).since(time), time.since(time.plus(5))), (5, 0));
        assert_eq!((Jiffies::new(499).seconds(250), Jiffies::new(7).seconds(0)), (1, 7));
    }
}
