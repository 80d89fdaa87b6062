//! Drain and termination of servers. Pure.
//!
//! A configured server that takes no new flows gets a drain deadline, if its listener has `drain_timeout`. A removed
//! server is *draining* in the maps until its deadline; without `drain_timeout` it terminates at once. A removed
//! server stays in the maps for at least 20 s after the deadline, and until all RSTs are delivered.
//!
//! The maps store deadlines in seconds since boot, so the next daemon continues them.

use slb_common::abi::{backend::Backend, time::BootSecs};

use super::model::DesiredServer;

/// Seconds that a removed server stays terminating at least. An end may answer late.
pub(super) const RST_DELIVERY_SECONDS: u32 = 20;
/// Seconds that a terminating server stays previous backend of its slots. In this time packets without an entry are
/// reset at both ends. Later ones may belong to a connection that began with the current backend at another node.
const PREVIOUS_BACKEND_SECONDS: u32 = 3;
/// Seconds between two checks whether all RSTs are delivered.
const RST_CHECK_SECONDS: u32 = 5;

/// Progress of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainState {
    /// Whether the deadline has passed, so that the server's connections are reset.
    pub is_terminating: bool,
    /// The deadline; `None` if the server does not drain.
    pub deadline: Option<BootSecs>,
}

impl DrainState {
    fn until(deadline: Option<BootSecs>, now: BootSecs) -> Self {
        Self { is_terminating: deadline.is_some_and(|deadline| deadline <= now), deadline }
    }

    /// The drain with a deadline of at least `earliest`.
    pub fn not_before(self, earliest: BootSecs, now: BootSecs) -> Self {
        Self::until(self.deadline.max(Some(earliest)), now)
    }
}

/// Drain state of a configured server. `drain` is `drain_timeout` in seconds.
pub fn of_configured(
    actual: Option<&Backend>,
    server: &DesiredServer,
    drain: Option<u32>,
    now: BootSecs,
) -> DrainState {
    let before = actual.and_then(Backend::drain_deadline);
    let deadline = match (actual, drain) {
        (Some(_), Some(drain)) if server.must_drain() => Some(earlier(before, now.plus(drain))),
        // No reason to begin or end a drain: its health is unknown, or it has no next hop. A standby server could
        // serve.
        (Some(_), Some(_)) if !server.accepts_new_flows() && !server.is_ready_standby() => before,
        _ => None,
    };
    DrainState::until(deadline, now)
}

/// Drain state of a removed server; `None` if it can be cleared. `has_rst_outstanding` says whether RSTs may be
/// outstanding. `drain` and `now` are as for [`of_configured`].
pub fn of_removed(
    actual: &Backend,
    drain: Option<u32>,
    has_rst_outstanding: bool,
    now: BootSecs,
) -> Option<DrainState> {
    let deadline = earlier(actual.drain_deadline(), now.plus(drain.unwrap_or(0)));
    (has_rst_outstanding || now < removal_time(deadline)).then(|| DrainState::until(Some(deadline), now))
}

/// Whether a server has been terminating for so long that it is no previous backend any more.
pub fn has_left_slots(backend: &Backend, now: BootSecs) -> bool {
    backend.flags & Backend::TERMINATING != 0
        && backend.drain_deadline().is_none_or(|deadline| deadline.plus(PREVIOUS_BACKEND_SECONDS) <= now)
}

/// When the drain state of any of these servers next changes by time.
pub fn next_change<'a>(backends: impl Iterator<Item = &'a Backend>, now: BootSecs) -> Option<BootSecs> {
    backends
        .filter_map(|backend| {
            let deadline = backend.drain_deadline()?;
            let lingers = backend.flags & Backend::REMOVED != 0;
            let ends = [
                Some(deadline),
                Some(deadline.plus(PREVIOUS_BACKEND_SECONDS)),
                lingers.then(|| removal_time(deadline)),
            ];
            ends.into_iter()
                .flatten()
                .find(|end| *end > now)
                .or(lingers.then_some(now.plus(RST_CHECK_SECONDS)))
        })
        .min()
}

const fn removal_time(deadline: BootSecs) -> BootSecs {
    deadline.plus(RST_DELIVERY_SECONDS)
}

fn earlier(before: Option<BootSecs>, deadline: BootSecs) -> BootSecs {
    before.map_or(deadline, |before| before.min(deadline))
}

#[cfg(test)]
mod tests {
    use super::*;
    use slb_common::abi::{MacPair, backend::NextHop, health::ServerHealth};

    const NOW: u32 = 1000;
    const DRAIN: Option<u32> = Some(60);

    fn at_time(seconds: u32) -> BootSecs {
        BootSecs::new(seconds)
    }

    fn server(weight: u8, health: ServerHealth) -> DesiredServer {
        let hop = NextHop { ifindex: 1, mtu: 1500, macs: MacPair::default() };
        DesiredServer {
            quic_server_id: None,
            weight,
            admin_state: None,
            server_override: None,
            health,
            detail: None,
            next_hop: Some(hop),
            is_standby: false,
            is_last_resort: false,
        }
    }

    fn actual(flags: u8, deadline: u32) -> Backend {
        Backend { flags, deadline, ..Backend::default() }
    }

    fn open(deadline: u32) -> DrainState {
        DrainState { is_terminating: false, deadline: BootSecs::from_word(deadline) }
    }

    fn cut(deadline: u32) -> DrainState {
        DrainState { is_terminating: true, deadline: BootSecs::from_word(deadline) }
    }

    #[test]
    fn healthy_standby_server_stops_draining() {
        let standby = DesiredServer { is_standby: true, ..server(100, ServerHealth::Healthy) };
        let before = actual(Backend::ALIVE, NOW + 50);
        assert_eq!(of_configured(Some(&before), &standby, DRAIN, at_time(NOW)), open(0));
        let unhealthy = DesiredServer { is_standby: true, ..server(100, ServerHealth::Unhealthy) };
        assert_eq!(of_configured(Some(&before), &unhealthy, DRAIN, at_time(NOW)), open(NOW + 50));
        assert_eq!(of_configured(Some(&actual(Backend::ALIVE, 0)), &standby, DRAIN, at_time(NOW)), open(0));
    }

    #[test]
    fn configured_server_drains_until_its_deadline() {
        let before = actual(Backend::ALIVE | Backend::ACCEPTS_NEW, 0);
        for leaving in [server(0, ServerHealth::Healthy), server(100, ServerHealth::Unhealthy)] {
            assert_eq!(of_configured(Some(&before), &leaving, DRAIN, at_time(NOW)), open(1060));
            assert_eq!(of_configured(Some(&actual(0, 1060)), &leaving, DRAIN, at_time(1059)), open(1060));
            assert_eq!(of_configured(Some(&actual(0, 1060)), &leaving, DRAIN, at_time(1060)), cut(1060));
            assert_eq!(
                of_configured(Some(&actual(Backend::TERMINATING, 1060)), &leaving, DRAIN, at_time(9000)),
                cut(1060)
            );
            assert_eq!(
                of_configured(Some(&before), &leaving, None, at_time(NOW)),
                open(0),
                "connections stay"
            );
            assert_eq!(of_configured(None, &leaving, DRAIN, at_time(NOW)), open(0), "it has no connections");
        }
    }

    #[test]
    fn server_that_takes_new_flows_again_stops_draining() {
        let serves = server(100, ServerHealth::Healthy);
        assert_eq!(
            of_configured(Some(&actual(Backend::ALIVE, 1060)), &serves, DRAIN, at_time(1010)),
            open(0)
        );
        assert_eq!(
            of_configured(Some(&actual(Backend::TERMINATING, 1060)), &serves, DRAIN, at_time(1070)),
            open(0)
        );
    }

    #[test]
    fn unknown_health_does_not_change_the_drain_deadline() {
        let unknown = server(100, ServerHealth::Unknown);
        assert_eq!(
            of_configured(Some(&actual(Backend::ALIVE, 1060)), &unknown, DRAIN, at_time(1010)),
            open(1060)
        );
        assert_eq!(of_configured(Some(&actual(Backend::ALIVE, 0)), &unknown, DRAIN, at_time(1010)), open(0));
    }

    #[test]
    fn shorter_drain_time_applies_at_once_and_longer_to_the_next_drain() {
        let leaving = server(0, ServerHealth::Healthy);
        assert_eq!(
            of_configured(Some(&actual(Backend::ALIVE, 1060)), &leaving, Some(10), at_time(1010)),
            open(1020)
        );
        assert_eq!(
            of_configured(Some(&actual(Backend::ALIVE, 1060)), &leaving, Some(900), at_time(1010)),
            open(1060)
        );
    }

    #[test]
    fn removed_server_stays_until_rsts_are_delivered() {
        let at = |before, now| of_removed(&before, DRAIN, false, at_time(now));
        assert_eq!(at(actual(Backend::ALIVE | Backend::ACCEPTS_NEW, 0), NOW), Some(open(1060)));
        let before = actual(Backend::ALIVE | Backend::REMOVED, 1060);
        assert_eq!(at(before, 1059), Some(open(1060)));
        assert_eq!(at(before, 1060), Some(cut(1060)));
        assert_eq!(at(before, 1060 + RST_DELIVERY_SECONDS), None);
        let before = actual(Backend::TERMINATING | Backend::REMOVED, 1060);
        assert_eq!(
            of_removed(&before, DRAIN, true, at_time(1060 + RST_DELIVERY_SECONDS)),
            Some(cut(1060)),
            "not all of them yet"
        );
        assert_eq!(of_removed(&before, DRAIN, true, at_time(9000)), Some(cut(1060)));
    }

    #[test]
    fn removed_server_without_drain_terminates_at_once() {
        let at = |before, now| of_removed(&before, None, false, at_time(now));
        assert_eq!(at(actual(Backend::ALIVE | Backend::ACCEPTS_NEW, 0), NOW), Some(cut(NOW)));
        assert_eq!(at(actual(Backend::ALIVE | Backend::REMOVED, 1060), NOW), Some(cut(NOW)));
        assert_eq!(
            at(actual(Backend::TERMINATING | Backend::REMOVED, NOW), NOW + RST_DELIVERY_SECONDS),
            None
        );
    }

    #[test]
    fn next_drain_change_is_the_earliest_deadline() {
        let servers = [
            actual(Backend::ALIVE | Backend::ACCEPTS_NEW, 0),
            actual(Backend::TERMINATING, 900),
            actual(Backend::ALIVE, 1060),
            actual(Backend::TERMINATING | Backend::REMOVED, 995),
        ];
        let next = |servers: &[Backend], now| {
            next_change(servers.iter(), at_time(now)).map(|next| BootSecs::word(Some(next)))
        };
        assert_eq!(next(&servers, NOW), Some(995 + RST_DELIVERY_SECONDS));
        assert_eq!(next(&servers[..3], NOW), Some(1060));
        assert_eq!(next(&servers[..3], 1060), Some(1060 + PREVIOUS_BACKEND_SECONDS));
        assert_eq!(next(&servers[..2], NOW), None);
        assert_eq!(
            next(&servers, 2000),
            Some(2000 + RST_CHECK_SECONDS),
            "it has connections whose ends have not received a RST"
        );
    }
}
