//! Logs listeners without a server and servers that drain. Shows outages, and refuses commands that would cause one.

use std::time::Duration;

use super::Daemon;
use crate::{
    clock::rounded,
    server::{requests::Refused, status::Outages},
};
use slb_api::types;
use slb_control::{
    dataplane::state::State,
    desired::{Desired, Known, desired},
    drains::{self, Event},
    outages::{self, Change},
    overrides::{Overrides, Place},
    users::{Named, check_of, of_listeners},
};

impl Daemon {
    /// Logs which listeners have lost their last server that receives new flows, and which have one again.
    pub(super) fn follow_outages(&mut self, desired: &Desired, now: Duration) {
        for change in self.outages.follow(desired, now) {
            match change {
                Change::Began(place, outage, lasted) => tracing::error!(
                    load_balancer = place.load_balancer,
                    listener = place.listener,
                    server_group = outage.group,
                    vips = ?place.vips,
                    check = check_of(&self.config, &place.load_balancer, &place.listener),
                    lasted = lasted.map(rounded).map(tracing::field::debug),
                    why = outage.why,
                    "no server receives new connections of this listener"
                ),
                Change::Ended(place, outage, lasted) => tracing::warn!(
                    load_balancer = place.load_balancer,
                    listener = place.listener,
                    server_group = outage.group,
                    vips = ?place.vips,
                    check = check_of(&self.config, &place.load_balancer, &place.listener),
                    lasted = ?rounded(lasted),
                    "a server receives new connections of this listener again"
                ),
            }
        }
    }

    /// Logs the begin and the end of drains.
    pub(super) fn follow_drains(&mut self, held: &State, now: Duration) {
        for event in self.drains.follow(held, now) {
            let Event { server, listeners, server_group, is_removed, change } = event;
            let Named { load_balancer, listener, server_group, check } =
                of_listeners(&self.config, &listeners, server_group.as_deref());
            /// Logs with the fields that identify the server and its listeners.
            macro_rules! log {
                ($($what:tt)*) => {
                    tracing::info!(
                        %server, load_balancer, listener, server_group, check, is_removed, $($what)*
                    )
                };
            }
            let field = |lasted: Option<Duration>| lasted.map(rounded).map(tracing::field::debug);
            match change {
                drains::Change::Began(left) => {
                    log!(?left, "drain: the server receives no new connections; those it has may go on");
                }
                drains::Change::Over(lasted) => {
                    log!(lasted = field(lasted), "drain is over: connections that are left are reset");
                }
                drains::Change::Ended(lasted) => {
                    log!(
                        lasted = field(lasted),
                        "drain ended early: the server receives new connections again"
                    );
                }
            }
        }
    }

    /// The outages, for the API.
    pub(super) fn shown_outages(&self, now: Duration) -> Outages {
        let mut shown = Outages::new();
        for (place, outage, since) in self.outages.all() {
            let listener = (place.load_balancer.clone(), place.listener.clone());
            shown.entry(listener).or_default().push(types::Outage {
                addresses: place.vips.clone(),
                why: Some(outage.why.clone()),
                seconds: Some(now.saturating_sub(since).as_secs()),
            });
        }
        shown
    }

    /// Refuses a command that would take a listener's last server that receives new flows.
    pub(super) fn refuse_outage(
        &self,
        before: &Overrides,
        after: &Overrides,
        places: &[Place],
        now: Duration,
    ) -> Result<(), Refused> {
        let with = |overrides| {
            let decision = self.observations.decide(&self.config, overrides, now);
            let known = Known { failover: Some(&decision.failover), ..self.observations.known(overrides) };
            desired(&self.config, known)
        };
        let lost = outages::lost(&with(before), &with(after));
        if lost.is_empty() {
            return Ok(());
        }
        let servers: Vec<_> = places.iter().map(ToString::to_string).collect();
        let them = if lost.len() == 1 { "listener" } else { "listeners" };
        Err(Refused::Conflict(format!(
            "{}: no other server receives new connections of {them} {}: enable or add one first, or use --force (in the API \
             `\"force\": true`): nothing was changed",
            servers.join(", "),
            lost.join(", ")
        )))
    }
}
