//! Fixed-window rate limiter, per CPU.

/// Window of one processor.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimiter {
    /// Jiffies when the window of one second began.
    since: u32,
    /// Packets in this window.
    sent: u32,
}

impl RateLimiter {
    /// Packets per second, CPU and kind: as many as Linux's default for ICMP errors (`icmp_msgs_per_sec`).
    pub const PER_SECOND: u32 = 1000;

    /// Whether one more packet may be sent; counts it if so. `now` is jiffies, `hz` jiffies per second,
    /// or both are in another unit.
    #[inline(always)]
    pub const fn allow(&mut self, now: u32, hz: u32) -> bool {
        if now.wrapping_sub(self.since) >= hz {
            self.since = now;
            self.sent = 0;
        }
        let may = self.sent < Self::PER_SECOND;
        self.sent += may as u32;
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_limit_allows_1000_per_second() {
        let mut limit = RateLimiter::default();
        let mut sent = |now| (0..5000).filter(|_| limit.allow(now, 250)).count();
        assert_eq!(sent(u32::MAX - 100), 1000);
        assert_eq!(sent(100), 0, "not a second later");
        assert_eq!(sent(149), 1000);
        assert_eq!(sent(1000), 1000);
    }
}
