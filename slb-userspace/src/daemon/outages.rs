//! Listeners that no server takes new flows for: logged as events, shown, and not brought about by accident.

use std::{collections::BTreeSet, time::Duration};

use super::Daemon;
use crate::{
    api::{requests::Refused, status::Outages, types},
    control::{
        desired::{Desired, Known, desired},
        outages::{self, Change, outages},
        overrides::{Overrides, Place},
    },
};

impl Daemon {
    /// Logs which listeners have lost their last server, and which have one again.
    pub(super) fn follow_outages(&mut self, desired: &Desired, now: Duration) {
        let services = desired.services.iter().filter(|service| service.pool.is_some());
        let running: BTreeSet<_> = services
            .map(|service| (service.load_balancer.as_str(), service.listener.as_str(), service.address))
            .collect();
        let exists = |place: &outages::Place| {
            let mut vips = place.vips.iter();
            vips.any(|vip| running.contains(&(place.load_balancer.as_str(), place.listener.as_str(), *vip)))
        };
        for change in self.outages.follow(outages(desired), exists, now) {
            match change {
                Change::Began(place, outage) => tracing::error!(
                    load_balancer = place.load_balancer,
                    listener = place.listener,
                    server_group = outage.group,
                    vips = ?place.vips,
                    why = outage.why,
                    "no server receives new connections of this listener"
                ),
                Change::Ended(place, outage, lasted) => tracing::warn!(
                    load_balancer = place.load_balancer,
                    listener = place.listener,
                    server_group = outage.group,
                    vips = ?place.vips,
                    ?lasted,
                    "a server receives new connections of this listener again"
                ),
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

    /// Refuses what would take the last server that receives new flows from a listener.
    pub(super) fn refuse_outage(
        &self,
        before: &Overrides,
        after: &Overrides,
        places: &[Place],
        now: Duration,
    ) -> Result<(), Refused> {
        let with = |overrides| {
            let decision = self.facts.decide(&self.config, overrides, now);
            let known = Known { failover: Some(&decision.failover), ..self.facts.known(overrides) };
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
