//! The states that a server may have had in a time span.

use super::{Model, ServerFailure, ServerHistory, Span};
use crate::{
    client::{Interval, ListenerView},
    eligible_servers::{KnownHealth, ServerState},
};

impl Model {
    /// The two extremes of the states that a server may have had: all in its favour, and all against it.
    pub(super) fn states(&self, server: &str, view: ListenerView, during: Interval) -> [ServerState; 2] {
        let [best, worst] = self.states_without_side(server, view, during);
        let has_sides = self.sides.as_ref().is_some_and(|sides| sides.pool == view.terms.pool);
        [
            ServerState { is_standby: self.is_other_side(server, view, during), ..best },
            ServerState { is_standby: has_sides, ..worst },
        ]
    }

    /// The same as if the server's side had the traffic.
    pub(super) fn states_without_side(
        &self,
        server: &str,
        view: ListenerView,
        during: Interval,
    ) -> [ServerState; 2] {
        let Some(record) = self.servers.get(server) else { return [ServerState::SERVING; 2] };
        [best(record, view, during), self.worst(server, record, view, during)]
    }

    fn worst(
        &self,
        server: &str,
        record: &ServerHistory,
        view: ListenerView,
        during: Interval,
    ) -> ServerState {
        let is_removed = record.removed.iter().any(|span| span.meets(during));
        // After an addition no check may have had a result.
        let is_unchecked = record.removed.iter().any(|span| self.until_healthy(span).meets(during));
        let is_unhealthy = record.failures.iter().any(|failure| ineligible(failure).meets(during));
        let mut maybe_barred = record.maybe_barred.get(view.terms.pool).into_iter().flatten();
        ServerState {
            is_configured: !is_removed,
            is_in_service: !maybe_barred.any(|span| span.meets(during)),
            health: match (is_unhealthy, is_unchecked) {
                (true, _) => KnownHealth::Unhealthy,
                (false, true) => KnownHealth::Unknown,
                (false, false) => KnownHealth::Healthy,
            },
            is_standby: false,
            is_terminating: match view.terms.drain {
                Some(drain) => self.has_drained(server, view, during, drain),
                None => is_removed,
            },
        }
    }

    /// The time of a removal, and after it until the server must be known to be healthy.
    pub(super) fn until_healthy(&self, removed: &Span) -> Span {
        Span { to: removed.to.map(|to| to + self.bounds.recovery), ..*removed }
    }
}

/// The time in which the daemon may consider a server unhealthy.
pub(super) fn ineligible(failure: &ServerFailure) -> Span {
    Span { to: failure.recovery_known, ..failure.span }
}

/// A server that is removed is recorded as barred, too.
fn best(record: &ServerHistory, view: ListenerView, during: Interval) -> ServerState {
    let mut barred = record.barred.get(view.terms.pool).into_iter().flatten();
    let mut detected = record.failures.iter().filter_map(|failure| failure.detected());
    let is_unhealthy = detected.any(|span| span.covers(during));
    ServerState {
        is_in_service: !barred.any(|span| span.covers(during)),
        health: if is_unhealthy { KnownHealth::Unhealthy } else { KnownHealth::Healthy },
        ..ServerState::SERVING
    }
}
