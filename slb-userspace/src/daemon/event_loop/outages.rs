//! Logs listeners without a server and servers that drain. Shows outages, and refuses commands that would cause one.

use std::time::Duration;

use super::EventLoop;
use crate::{
    clock::rounded,
    daemon::environment::Environment,
    server::{requests::RequestError, status::ListenerOutages},
};
use slb_api::types;
use slb_common::abi::ports::EndpointText;
use slb_control::{
    dataplane::state::MapState,
    desired::{ObservedInputs, desired},
    drain_events::{self, DrainEvent},
    listener_index::{LogNames, check_of, of_listeners},
    model::Desired,
    outages::{self, OutageChange},
    overrides::{NamedServer, Overrides},
};

impl<E: Environment> EventLoop<E> {
    /// Logs which listeners have lost their last server that receives new flows, and which have one again.
    pub(super) fn follow_outages(&mut self, desired: &Desired, now: Duration) {
        for change in self.outages.follow(desired, now) {
            match change {
                OutageChange::Began(listener_vips, outage, lasted) => tracing::error!(
                    load_balancer = outage.load_balancer,
                    listener = outage.listener,
                    server_group = outage.group,
                    vips = ?listener_vips.vips,
                    check = check_of(&self.config, &outage.load_balancer, &outage.listener),
                    lasted = lasted.map(rounded).map(tracing::field::debug),
                    why = outage.why,
                    "no server receives new connections of this listener"
                ),
                OutageChange::Ended(listener_vips, outage, lasted) => tracing::warn!(
                    load_balancer = outage.load_balancer,
                    listener = outage.listener,
                    server_group = outage.group,
                    vips = ?listener_vips.vips,
                    check = check_of(&self.config, &outage.load_balancer, &outage.listener),
                    lasted = ?rounded(lasted),
                    "a server receives new connections of this listener again"
                ),
            }
        }
    }

    /// Logs the begin and the end of drains.
    pub(super) fn follow_drains(&mut self, actual: &MapState, now: Duration) {
        for event in self.drains.follow(actual, now) {
            let DrainEvent { server, listeners, server_group, is_removed, change } = event;
            let LogNames { load_balancer, listener, server_group, check } =
                of_listeners(&self.config, &listeners, server_group.as_deref());
            /// Logs with the fields that identify the server and its listeners.
            macro_rules! log {
                ($($what:tt)*) => {
                    tracing::info!(
                        server = %EndpointText(server), load_balancer, listener, server_group, check, is_removed, $($what)*
                    )
                };
            }
            let field = |lasted: Option<Duration>| lasted.map(rounded).map(tracing::field::debug);
            match change {
                drain_events::DrainChange::Began(left) => {
                    log!(?left, "drain: the server receives no new connections; those it has may go on");
                }
                drain_events::DrainChange::DeadlinePassed(lasted) => {
                    log!(lasted = field(lasted), "drain is over: connections that are left are reset");
                }
                drain_events::DrainChange::Ended(lasted) => {
                    log!(
                        lasted = field(lasted),
                        "drain ended early: the server receives new connections again"
                    );
                }
            }
        }
    }

    /// The outages, for the API.
    pub(super) fn outages_document(&self, now: Duration) -> ListenerOutages {
        let mut shown = ListenerOutages::new();
        for (listener_vips, outage, since) in self.outages.all() {
            shown.entry(listener_vips.id.clone()).or_default().push(types::ApiOutage {
                addresses: listener_vips.vips.clone(),
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
        servers: &[NamedServer],
        now: Duration,
    ) -> Result<(), RequestError> {
        let with = |overrides| {
            let decision = self.observations.decide(&self.config, overrides, now);
            let known =
                ObservedInputs { failover: Some(&decision.failover), ..self.observations.known(overrides) };
            desired(&self.config, known)
        };
        let new_outages = outages::new_outages(&with(before), &with(after));
        if new_outages.is_empty() {
            return Ok(());
        }
        let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
        let them = if new_outages.len() == 1 { "listener" } else { "listeners" };
        Err(RequestError::Conflict(format!(
            "{}: no other server receives new connections of {them} {}: enable or add one first, or use --force (in the API \
             `\"force\": true`): nothing was changed",
            servers.join(", "),
            new_outages.join(", ")
        )))
    }
}
