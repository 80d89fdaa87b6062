//! Slow start: a server that begins to take new flows reaches its weight in steps. Pure.
//!
//! It applies to a server that was unhealthy, disabled, draining or of weight 0, and to one added to a group in use.
//! The maps store when it began, in seconds since boot, so the next daemon continues it.

use slb_common::abi::{backend::Backend, health::ServerHealth, ids::NextHopId, time::BootSecs};

use super::model::DesiredServer;

/// Steps from a tenth of the weight to all of it.
const STEPS: u32 = 10;

/// Slow-start state of a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ramp {
    /// When the server began to take new flows; `None` without slow start.
    pub since: Option<BootSecs>,
    /// [`Backend::ADDED`].
    pub is_added: bool,
}

/// Slow-start state of a server after a change. `is_in_use` says whether its group was in use before.
pub fn ramp(actual: Option<&Backend>, server: &DesiredServer, is_in_use: bool, now: BootSecs) -> Ramp {
    let was_added = actual.map_or(is_in_use, |actual| actual.flags & Backend::ADDED != 0);
    if !server.accepts_new_flows() {
        return Ramp { since: None, is_added: was_added };
    }
    let since = match actual {
        Some(actual) if actual.flags & Backend::ACCEPTS_NEW != 0 => actual.ramp_start(),
        // It takes new flows again. A server that only lacked a health result or next hop keeps its weight.
        Some(actual)
            if actual.health() == ServerHealth::Unhealthy
                || actual.weight == 0
                || was_out_of_service(actual) =>
        {
            Some(now)
        }
        _ if was_added => Some(now),
        _ => None,
    };
    Ramp { since, is_added: false }
}

/// Whether a server that received no new flows could have. Then an administrator had drained or disabled it.
fn was_out_of_service(actual: &Backend) -> bool {
    actual.next_hop_id() != NextHopId::NONE && actual.health().can_serve()
}

/// The weight at `now` of a server that began at `since` and reaches `full` after `time` seconds, and when it next
/// changes.
pub fn weight(full: u8, since: Option<BootSecs>, time: Option<u32>, now: BootSecs) -> (u8, Option<BootSecs>) {
    let (Some(time), Some(since)) = (time.filter(|time| *time > 0), since) else { return (full, None) };
    let step = now.since(since).saturating_mul(STEPS) / time + 1;
    if step >= STEPS {
        return (full, None);
    }
    let weight = (u32::from(full) * step).div_ceil(STEPS) as u8;
    (weight, Some(since.plus((step * time).div_ceil(STEPS))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use slb_common::abi::backend::NextHop;

    const NOW: BootSecs = BootSecs::new(1000);

    fn server(weight: u8, health: ServerHealth) -> DesiredServer {
        DesiredServer {
            quic_server_id: None,
            weight,
            admin_state: None,
            server_override: None,
            health,
            detail: None,
            next_hop: Some(NextHop::default()),
            is_standby: false,
            is_last_resort: false,
        }
    }

    fn actual(flags: u8, weight: u8, health: ServerHealth) -> Backend {
        Backend { flags, weight, health: health.number(), since: 7, ..Backend::default() }
    }

    #[test]
    fn server_that_returns_begins_slow_start() {
        let serves = server(100, ServerHealth::Healthy);
        let since = |actual: Backend| ramp(Some(&actual), &serves, true, NOW);
        let began = Ramp { since: Some(NOW), is_added: false };
        assert_eq!(since(actual(0, 100, ServerHealth::Unhealthy)), began);
        assert_eq!(since(actual(Backend::ALIVE, 0, ServerHealth::Healthy)), began);
        assert_eq!(
            since(actual(Backend::ALIVE | Backend::ACCEPTS_NEW, 100, ServerHealth::Healthy)).since,
            BootSecs::from_word(7)
        );
        for health in [ServerHealth::Healthy, ServerHealth::Unchecked] {
            let admin_state = Backend { next_hop: 1, ..actual(Backend::ALIVE, 100, health) };
            assert_eq!(since(admin_state), began, "enabled again");
        }
        let standby = Backend { next_hop: 1, ..actual(Backend::ALIVE, 100, ServerHealth::Standby) };
        assert_eq!(since(standby), Ramp::default(), "its side gets the traffic");
        assert_eq!(
            since(actual(Backend::ALIVE, 100, ServerHealth::Unknown)),
            Ramp::default(),
            "the first check"
        );
        assert_eq!(
            since(actual(Backend::ALIVE, 100, ServerHealth::Healthy)),
            Ramp::default(),
            "reached again"
        );
    }

    #[test]
    fn added_server_begins_slow_start_after_its_first_check() {
        let (unknown, serves) = (server(100, ServerHealth::Unknown), server(100, ServerHealth::Healthy));
        let added = ramp(None, &unknown, true, NOW);
        assert_eq!(added, Ramp { since: None, is_added: true });
        let before = actual(Backend::ALIVE | Backend::ADDED, 100, ServerHealth::Unknown);
        assert_eq!(ramp(Some(&before), &unknown, true, NOW), added);
        assert_eq!(ramp(Some(&before), &serves, true, NOW), Ramp { since: Some(NOW), is_added: false });
        assert_eq!(ramp(None, &serves, true, NOW).since, Some(NOW), "not checked at all");
        assert_eq!(ramp(None, &serves, false, NOW), Ramp::default(), "with all others");
    }

    #[test]
    fn slow_start_weight_grows_in_ten_steps() {
        let at = |seconds| {
            let (weight, next) = weight(50, Some(NOW), Some(30), NOW.plus(seconds));
            (weight, next.map(|next| next.since(NOW)))
        };
        assert_eq!(at(0), (5, Some(3)));
        assert_eq!(at(2), (5, Some(3)));
        assert_eq!(at(3), (10, Some(6)));
        assert_eq!(at(26), (45, Some(27)));
        assert_eq!(at(27), (50, None));
        assert_eq!(at(9000), (50, None));
        assert_eq!(weight(50, None, Some(30), NOW), (50, None), "long ago");
        assert_eq!(weight(50, Some(NOW), None, NOW), (50, None), "at once");
    }

    #[test]
    fn slow_start_steps_are_a_second_apart_and_never_weight_0() {
        for time in 1..=300 {
            for full in [1, 3, 100] {
                let mut now = NOW;
                let (mut before, mut next) = weight(full, Some(NOW), Some(time), now);
                while let Some(then) = next {
                    assert!(then > now && before > 0 && then <= NOW.plus(time));
                    now = then;
                    let (weight, after) = weight(full, Some(NOW), Some(time), now);
                    assert!(weight >= before);
                    (before, next) = (weight, after);
                }
                assert_eq!(before, full);
            }
        }
    }
}
