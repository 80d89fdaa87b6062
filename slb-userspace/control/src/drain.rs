//! Drain and termination of servers. Pure.
//!
//! A configured server that takes no new flows gets a drain deadline, if its listener has `connection_drain`. A removed
//! server is *draining* in the maps until its deadline; without `connection_drain` it terminates at once. A removed
//! server stays in the maps for at least 20 s after the deadline, and until all RSTs are delivered.
//!
//! The maps store deadlines in seconds since boot, so the next daemon continues them.

use slb_common::abi::backend::Backend;

use super::desired::Server;

/// Seconds that a removed server stays terminating at least. An end may answer late.
pub(super) const TOLD: u32 = 20;
/// Seconds that a terminating server stays previous backend of its slots. In this time packets without an entry are
/// reset at both ends. Later ones may belong to a connection that began with the current backend at another node.
const ASKED: u32 = 3;
/// Seconds between two checks whether all RSTs are delivered.
const AGAIN: u32 = 5;

/// Progress of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaving {
    /// Whether the deadline has passed, so that the server's connections are reset.
    pub is_terminating: bool,
    /// [`Backend::deadline`].
    pub deadline: u32,
}

impl Leaving {
    const fn until(deadline: u32, now: u32) -> Self {
        Self { is_terminating: deadline != 0 && deadline <= now, deadline }
    }
}

/// Drain state of a configured server. `drain` is `connection_drain` in seconds. `now` is seconds since boot.
pub fn configured(held: Option<&Backend>, server: &Server, drain: Option<u32>, now: u32) -> Leaving {
    let before = held.map_or(0, |held| held.deadline);
    let deadline = match (held, drain) {
        (Some(_), Some(drain)) if server.is_leaving() => sooner(before, now + drain),
        // No reason to begin or end a drain: its health is unknown, or it has no next hop. A standby server could
        // serve.
        (Some(_), Some(_)) if !server.takes_new() && !server.stands_by() => before,
        _ => 0,
    };
    Leaving::until(deadline, now)
}

/// Drain state of a removed server; `None` if it can be cleared. `has_rst_outstanding` says whether RSTs may be outstanding.
/// `drain` and `now` are as for [`configured`].
pub fn lingering(held: &Backend, drain: Option<u32>, has_rst_outstanding: bool, now: u32) -> Option<Leaving> {
    let leaving = Leaving::until(sooner(held.deadline, now + drain.unwrap_or(0)), now);
    (has_rst_outstanding || now < gone(leaving.deadline)).then_some(leaving)
}

/// Whether a server has been terminating for so long that it is no previous backend any more.
pub const fn leaves_slots(backend: &Backend, now: u32) -> bool {
    backend.flags & Backend::TERMINATING != 0 && backend.deadline.saturating_add(ASKED) <= now
}

/// When the drain state of any of these servers next changes by time, in seconds since boot.
pub fn next<'a>(backends: impl Iterator<Item = &'a Backend>, now: u32) -> Option<u32> {
    backends
        .filter(|backend| backend.deadline != 0)
        .filter_map(|backend| {
            let lingers = backend.flags & Backend::REMOVED != 0;
            let ends = [
                Some(backend.deadline),
                Some(backend.deadline.saturating_add(ASKED)),
                lingers.then(|| gone(backend.deadline)),
            ];
            ends.into_iter().flatten().find(|end| *end > now).or(lingers.then_some(now + AGAIN))
        })
        .min()
}

const fn gone(deadline: u32) -> u32 {
    deadline.saturating_add(TOLD)
}

/// The earlier of two deadlines. `before` may be 0, which means none.
const fn sooner(before: u32, deadline: u32) -> u32 {
    if before != 0 && before < deadline { before } else { deadline }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::Health;
    use slb_common::abi::{MacPair, backend::NextHop};

    const NOW: u32 = 1000;
    const DRAIN: Option<u32> = Some(60);

    fn server(weight: u8, health: Health) -> Server {
        let hop = NextHop { ifindex: 1, mtu: 1500, macs: MacPair::default() };
        Server {
            weight,
            aside: None,
            overridden: None,
            health,
            detail: None,
            next_hop: Some(hop),
            is_standby: false,
            is_last_resort: false,
        }
    }

    fn held(flags: u8, deadline: u32) -> Backend {
        Backend { flags, deadline, ..Backend::default() }
    }

    fn open(deadline: u32) -> Leaving {
        Leaving { is_terminating: false, deadline }
    }

    fn cut(deadline: u32) -> Leaving {
        Leaving { is_terminating: true, deadline }
    }

    #[test]
    fn one_that_is_well_again_keeps_its_connections_while_it_stands_by() {
        let standby = Server { is_standby: true, ..server(100, Health::Healthy) };
        let before = held(Backend::ALIVE, NOW + 50);
        assert_eq!(configured(Some(&before), &standby, DRAIN, NOW), open(0));
        let unhealthy = Server { is_standby: true, ..server(100, Health::Unhealthy) };
        assert_eq!(configured(Some(&before), &unhealthy, DRAIN, NOW), open(NOW + 50));
        assert_eq!(configured(Some(&held(Backend::ALIVE, 0)), &standby, DRAIN, NOW), open(0));
    }

    #[test]
    fn a_configured_server_has_until_its_deadline() {
        let before = held(Backend::ALIVE | Backend::NEW, 0);
        for leaving in [server(0, Health::Healthy), server(100, Health::Unhealthy)] {
            assert_eq!(configured(Some(&before), &leaving, DRAIN, NOW), open(1060));
            assert_eq!(configured(Some(&held(0, 1060)), &leaving, DRAIN, 1059), open(1060));
            assert_eq!(configured(Some(&held(0, 1060)), &leaving, DRAIN, 1060), cut(1060));
            assert_eq!(configured(Some(&held(Backend::TERMINATING, 1060)), &leaving, DRAIN, 9000), cut(1060));
            assert_eq!(configured(Some(&before), &leaving, None, NOW), open(0), "connections stay");
            assert_eq!(configured(None, &leaving, DRAIN, NOW), open(0), "it has no connections");
        }
    }

    #[test]
    fn a_server_that_takes_new_flows_again_is_not_cut() {
        let serves = server(100, Health::Healthy);
        assert_eq!(configured(Some(&held(Backend::ALIVE, 1060)), &serves, DRAIN, 1010), open(0));
        assert_eq!(configured(Some(&held(Backend::TERMINATING, 1060)), &serves, DRAIN, 1070), open(0));
    }

    #[test]
    fn what_is_not_known_changes_nothing() {
        let unknown = server(100, Health::Unknown);
        assert_eq!(configured(Some(&held(Backend::ALIVE, 1060)), &unknown, DRAIN, 1010), open(1060));
        assert_eq!(configured(Some(&held(Backend::ALIVE, 0)), &unknown, DRAIN, 1010), open(0));
    }

    #[test]
    fn a_shorter_time_holds_at_once_and_a_longer_one_for_the_next() {
        let leaving = server(0, Health::Healthy);
        assert_eq!(configured(Some(&held(Backend::ALIVE, 1060)), &leaving, Some(10), 1010), open(1020));
        assert_eq!(configured(Some(&held(Backend::ALIVE, 1060)), &leaving, Some(900), 1010), open(1060));
    }

    #[test]
    fn a_removed_server_lingers_until_both_ends_have_been_told() {
        let at = |before, now| lingering(&before, DRAIN, false, now);
        assert_eq!(at(held(Backend::ALIVE | Backend::NEW, 0), NOW), Some(open(1060)));
        let before = held(Backend::ALIVE | Backend::REMOVED, 1060);
        assert_eq!(at(before, 1059), Some(open(1060)));
        assert_eq!(at(before, 1060), Some(cut(1060)));
        assert_eq!(at(before, 1060 + TOLD), None);
        let before = held(Backend::TERMINATING | Backend::REMOVED, 1060);
        assert_eq!(lingering(&before, DRAIN, true, 1060 + TOLD), Some(cut(1060)), "not all of them yet");
        assert_eq!(lingering(&before, DRAIN, true, 9000), Some(cut(1060)));
    }

    #[test]
    fn without_drain_a_removed_server_is_cut_at_once() {
        let at = |before, now| lingering(&before, None, false, now);
        assert_eq!(at(held(Backend::ALIVE | Backend::NEW, 0), NOW), Some(cut(NOW)));
        assert_eq!(at(held(Backend::ALIVE | Backend::REMOVED, 1060), NOW), Some(cut(NOW)));
        assert_eq!(at(held(Backend::TERMINATING | Backend::REMOVED, NOW), NOW + TOLD), None);
    }

    #[test]
    fn the_next_change_is_the_first_to_come() {
        let servers = [
            held(Backend::ALIVE | Backend::NEW, 0),
            held(Backend::TERMINATING, 900),
            held(Backend::ALIVE, 1060),
            held(Backend::TERMINATING | Backend::REMOVED, 995),
        ];
        assert_eq!(next(servers.iter(), NOW), Some(995 + TOLD));
        assert_eq!(next(servers[..3].iter(), NOW), Some(1060));
        assert_eq!(next(servers[..3].iter(), 1060), Some(1060 + ASKED));
        assert_eq!(next(servers[..2].iter(), NOW), None);
        assert_eq!(
            next(servers.iter(), 2000),
            Some(2000 + AGAIN),
            "it has connections whose ends were not told"
        );
    }
}
