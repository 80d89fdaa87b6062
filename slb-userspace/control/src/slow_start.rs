//! Slow start: a server that begins to take new flows reaches its weight in steps. Pure.
//!
//! It applies to a server that was unhealthy, disabled, draining or of weight 0, and to one added to a group in use.
//! The maps store when it began, in seconds since boot, so the next daemon continues it.

use slb_common::abi::backend::Backend;

use super::desired::Server;

/// Steps from a tenth of the weight to all of it.
const STEPS: u32 = 10;

/// Slow-start state of a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Begun {
    /// [`Backend::since`].
    pub since: u32,
    /// [`Backend::ADDED`].
    pub is_added: bool,
}

/// Slow-start state of a server after a change. `is_in_use` says whether its group was in use before. `now` is seconds
/// since boot.
pub fn begun(held: Option<&Backend>, server: &Server, is_in_use: bool, now: u32) -> Begun {
    let was_added = held.map_or(is_in_use, |held| held.flags & Backend::ADDED != 0);
    if !server.takes_new() {
        return Begun { since: 0, is_added: was_added };
    }
    let since = match held {
        Some(held) if held.flags & Backend::NEW != 0 => held.since,
        // It takes new flows again. A server that only lacked a health result or next hop keeps its weight.
        Some(held) if held.health == Backend::HEALTH_UNHEALTHY || held.weight == 0 || was_aside(held) => now,
        _ if was_added => now,
        _ => 0,
    };
    Begun { since, is_added: false }
}

/// Whether a server that received no new flows could have. Then an administrator had drained or disabled it.
fn was_aside(held: &Backend) -> bool {
    held.next_hop != 0 && matches!(held.health, Backend::HEALTH_HEALTHY | Backend::HEALTH_UNCHECKED)
}

/// The weight at `now` of a server that began at `since` and reaches `full` after `time` seconds, and when it next
/// changes. All times are in seconds since boot.
pub fn weight(full: u8, since: u32, time: Option<u32>, now: u32) -> (u8, Option<u32>) {
    let (Some(time), true) = (time.filter(|time| *time > 0), since != 0) else { return (full, None) };
    let step = now.saturating_sub(since).saturating_mul(STEPS) / time + 1;
    if step >= STEPS {
        return (full, None);
    }
    let weight = (u32::from(full) * step).div_ceil(STEPS) as u8;
    (weight, Some(since + (step * time).div_ceil(STEPS)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::Health;
    use slb_common::abi::backend::NextHop;

    const NOW: u32 = 1000;

    fn server(weight: u8, health: Health) -> Server {
        Server {
            weight,
            aside: None,
            overridden: None,
            health,
            detail: None,
            next_hop: Some(NextHop::default()),
            is_standby: false,
            is_last_resort: false,
        }
    }

    fn held(flags: u8, weight: u8, health: u32) -> Backend {
        Backend { flags, weight, health, since: 7, ..Backend::default() }
    }

    #[test]
    fn a_server_that_comes_back_begins() {
        let serves = server(100, Health::Healthy);
        let since = |held: Backend| begun(Some(&held), &serves, true, NOW);
        let began = Begun { since: NOW, is_added: false };
        assert_eq!(since(held(0, 100, Backend::HEALTH_UNHEALTHY)), began);
        assert_eq!(since(held(Backend::ALIVE, 0, Backend::HEALTH_HEALTHY)), began);
        assert_eq!(since(held(Backend::ALIVE | Backend::NEW, 100, Backend::HEALTH_HEALTHY)).since, 7);
        for health in [Backend::HEALTH_HEALTHY, Backend::HEALTH_UNCHECKED] {
            let aside = Backend { next_hop: 1, ..held(Backend::ALIVE, 100, health) };
            assert_eq!(since(aside), began, "enabled again");
        }
        let standby = Backend { next_hop: 1, ..held(Backend::ALIVE, 100, Backend::HEALTH_STANDBY) };
        assert_eq!(since(standby), Begun::default(), "its side gets the traffic");
        assert_eq!(
            since(held(Backend::ALIVE, 100, Backend::HEALTH_UNKNOWN)),
            Begun::default(),
            "the first check"
        );
        assert_eq!(
            since(held(Backend::ALIVE, 100, Backend::HEALTH_HEALTHY)),
            Begun::default(),
            "reached again"
        );
    }

    #[test]
    fn a_server_that_is_added_begins_when_it_has_been_checked() {
        let (unknown, serves) = (server(100, Health::Unknown), server(100, Health::Healthy));
        let added = begun(None, &unknown, true, NOW);
        assert_eq!(added, Begun { since: 0, is_added: true });
        let before = held(Backend::ALIVE | Backend::ADDED, 100, Backend::HEALTH_UNKNOWN);
        assert_eq!(begun(Some(&before), &unknown, true, NOW), added);
        assert_eq!(begun(Some(&before), &serves, true, NOW), Begun { since: NOW, is_added: false });
        assert_eq!(begun(None, &serves, true, NOW).since, NOW, "not checked at all");
        assert_eq!(begun(None, &serves, false, NOW), Begun::default(), "with all others");
    }

    #[test]
    fn a_weight_grows_in_ten_steps() {
        let at = |now| weight(50, NOW, Some(30), now);
        assert_eq!(at(NOW), (5, Some(NOW + 3)));
        assert_eq!(at(NOW + 2), (5, Some(NOW + 3)));
        assert_eq!(at(NOW + 3), (10, Some(NOW + 6)));
        assert_eq!(at(NOW + 26), (45, Some(NOW + 27)));
        assert_eq!(at(NOW + 27), (50, None));
        assert_eq!(at(NOW + 9000), (50, None));
        assert_eq!(weight(50, 0, Some(30), NOW), (50, None), "long ago");
        assert_eq!(weight(50, NOW, None, NOW), (50, None), "at once");
    }

    #[test]
    fn steps_are_a_second_apart_at_least_and_no_weight_is_none() {
        for time in 1..=300 {
            for full in [1, 3, 100] {
                let mut now = NOW;
                let (mut before, mut next) = weight(full, NOW, Some(time), now);
                while let Some(then) = next {
                    assert!(then > now && before > 0 && then <= NOW + time);
                    now = then;
                    let (weight, after) = weight(full, NOW, Some(time), now);
                    assert!(weight >= before);
                    (before, next) = (weight, after);
                }
                assert_eq!(before, full);
            }
        }
    }
}
