//! Observations of servers and next hops.

mod addresses;
mod durations;
mod next_hops;
mod one_way;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use slb_common::abi::{backend::NextHop, ports::EndpointText};

use self::durations::Durations;
use crate::{
    devices::VlanExit,
    health::{Health, Target, TargetEvent, TargetUpdate},
    neigh::vips::VipStates,
};
use slb_config::model::Config;
use slb_control::{
    dataplane::state::MapState,
    desired::ObservedInputs,
    failover::{Failover, FailoverDecision, ServerNextHops, SideChange},
    inherited_state,
    listener_index::{ListenerIndex, LogNames},
    model::{HealthVerdict, ListenerId, ServerRoute, Side},
    one_way::OneWayServers,
    outlier_detection::{self, DetectorPool, EjectionPolicy, OutlierDetector},
    overrides::Overrides,
};

/// Everything except the configuration that the desired state depends on.
pub(super) struct Observations {
    /// Names of the interfaces that run the program, by index.
    interfaces: BTreeMap<u32, String>,
    /// Configured interfaces that exist and do not forward, by index, with the reason.
    refused: BTreeMap<u32, String>,
    /// Configured interfaces that do not exist.
    absent: BTreeSet<String>,
    /// What to do about servers behind interfaces without the program, by interface name.
    advice: BTreeMap<String, String>,
    /// VLAN devices upon interfaces that run the program, by index.
    vlans: BTreeMap<u32, VlanExit>,
    /// Health-check targets and the listeners that use them. Results for other targets come too late and are ignored.
    users: ListenerIndex,
    /// Results of health checks.
    probed: BTreeMap<Target, HealthVerdict>,
    /// Targets that this host cannot probe now, with the reason.
    not_probed: BTreeMap<Target, String>,
    /// The outlier detector: which servers passive signals have ejected.
    outlier_detector: OutlierDetector,
    /// Servers whose answers do not return through SLB.
    one_way: OneWayServers,
    /// The health that follows from results of checks and from ejections.
    health: BTreeMap<Target, HealthVerdict>,
    /// Since when health checks have had their current result.
    check_durations: Durations<Target, bool>,
    /// Since when servers have been ejected, or no longer ejected.
    ejection_durations: Durations<(SocketAddr, EjectionPolicy), bool>,
    failover: Failover,
    /// Since when each side has had the traffic, by listener and VIP.
    side_durations: Durations<(ListenerId, IpAddr), Side>,
    next_hops: BTreeMap<IpAddr, Result<ServerRoute, String>>,
    /// Since when servers have had a next hop, or none.
    next_hop_durations: Durations<IpAddr, bool>,
    /// When the kernel lost a next hop that it had, by server.
    lost: BTreeMap<IpAddr, Duration>,
    /// Next hops that an earlier run left in the maps.
    restored: BTreeMap<IpAddr, NextHop>,
    /// Local addresses of mode `full-nat`.
    locals: BTreeSet<IpAddr>,
    /// VIPs that SLB is to announce. The announcer reports on them.
    announced: BTreeSet<IpAddr>,
    /// State of VIPs and local addresses as last read.
    read_vips: VipStates,
    /// The same, without what the announcer reports on.
    vips: VipStates,
}

impl Observations {
    /// Observations at the start: health and next hops that an earlier run left in the maps.
    pub(super) fn restored(config: &Config, held: &MapState, interfaces: BTreeMap<u32, String>) -> Self {
        let health = inherited_state::health(config, held);
        Self {
            users: ListenerIndex::default(),
            refused: BTreeMap::new(),
            absent: BTreeSet::new(),
            advice: BTreeMap::new(),
            vlans: BTreeMap::new(),
            probed: health.clone(),
            not_probed: BTreeMap::new(),
            outlier_detector: OutlierDetector::default(),
            one_way: OneWayServers::default(),
            health,
            check_durations: Durations::default(),
            ejection_durations: Durations::default(),
            failover: Failover::found(config, held),
            side_durations: Durations::default(),
            next_hops: BTreeMap::new(),
            next_hop_durations: Durations::default(),
            lost: BTreeMap::new(),
            restored: inherited_state::next_hops(held)
                .into_iter()
                .filter(|(_, hop)| interfaces.contains_key(&hop.ifindex))
                .collect(),
            interfaces,
            locals: BTreeSet::new(),
            announced: BTreeSet::new(),
            read_vips: VipStates::default(),
            vips: VipStates::default(),
        }
    }

    pub(super) fn known<'a>(&'a self, overrides: &'a Overrides) -> ObservedInputs<'a> {
        ObservedInputs {
            health: Some(&self.health),
            not_probed: Some(&self.not_probed),
            one_way: Some(self.one_way.servers()),
            next_hops: Some(&self.next_hops),
            failover: Some(&self.failover),
            overrides: Some(overrides),
            vips: Some(&self.vips),
        }
    }

    /// Decides which side of each primary/secondary listener receives the traffic.
    pub(super) fn decide(&self, config: &Config, overrides: &Overrides, now: Duration) -> FailoverDecision {
        let server_next_hops = ServerNextHops { next_hops: &self.next_hops, lost: &self.lost };
        self.failover.decide(config, &self.health, server_next_hops, Some(overrides), now)
    }

    /// Records and logs a failover decision that has been applied.
    pub(super) fn on_decision(&mut self, decision: FailoverDecision, now: Duration) {
        for SideChange { id, load_balancer, listener, vips, to, server_group, check } in decision.changes {
            let noted = vips.iter().filter_map(|vip| self.side_durations.note((id.clone(), *vip), to, now));
            let lasted = noted.max().map(tracing::field::debug);
            /// Logs with the fields that identify the listener.
            macro_rules! log {
                ($level:ident, $what:literal) => {
                    tracing::$level!(load_balancer, listener, server_group, ?vips, check, lasted, $what)
                };
            }
            match to {
                Side::Secondary => log!(warn, "failover: the secondary gets the traffic"),
                Side::Primary => log!(info, "failback: the primary gets the traffic"),
            }
        }
        self.failover = decision.failover;
    }

    fn verdict(&self, target: &Target) -> Option<Health> {
        Some(self.probed.get(target)?.health)
    }

    /// Makes the checks of these configurations the targets. A new target inherits the health of the same server and
    /// listener under another check, so that a change of the check empties no pool.
    pub(super) fn expect<'a>(
        &mut self,
        configs: impl IntoIterator<Item = &'a Config> + Clone,
        inherited: BTreeMap<Target, HealthVerdict>,
        now: Duration,
    ) {
        self.users = ListenerIndex::of(configs.clone());
        for (target, verdict) in inherited {
            self.probed.entry(target).or_insert(verdict);
        }
        self.probed.retain(|target, _| self.users.check(target));
        self.check_durations.retain(|target| self.users.check(target));
        self.not_probed.retain(|target, _| self.users.check(target));
        let watched = self.users.targets().filter_map(watched).collect();
        self.outlier_detector.retain(&watched);
        self.ejection_durations.retain(|key| watched.contains(key));
        self.track_sides(configs, now);
        self.health = self
            .probed
            .iter()
            .map(|(target, probed)| (target.clone(), self.effective_verdict(target, probed)))
            .collect();
    }

    /// Records which side has the traffic of new listeners, and drops listeners that are not configured.
    fn track_sides<'a>(&mut self, configs: impl IntoIterator<Item = &'a Config>, now: Duration) {
        let mut known = BTreeSet::new();
        for balancer in configs.into_iter().flat_map(|config| &config.load_balancers) {
            for listener in balancer.listeners.iter().filter(|listener| listener.target.has_sides()) {
                for vip in &balancer.addresses {
                    let key = (ListenerId::of(balancer, listener), *vip);
                    self.side_durations.begin(key.clone(), self.failover.side(listener, *vip), now);
                    known.insert(key);
                }
            }
        }
        self.side_durations.retain(|key| known.contains(key));
    }

    /// The targets that are checked, with the last verdict on each.
    pub(super) fn targets(&self) -> BTreeMap<Target, Option<Health>> {
        self.users.targets().map(|target| (target.clone(), self.verdict(target))).collect()
    }

    /// Sets the interfaces that forward, and the configured ones that do not or do not exist.
    pub(super) fn set_interfaces(
        &mut self,
        attached: BTreeMap<u32, String>,
        refused: BTreeMap<u32, String>,
        absent: BTreeSet<String>,
    ) {
        self.interfaces = attached;
        self.refused = refused;
        self.absent = absent;
    }

    /// Sets what to do about servers behind interfaces without the program, by interface name.
    pub(super) fn set_advice(&mut self, advice: BTreeMap<String, String>) {
        self.advice = advice;
    }

    /// Sets the VLAN devices upon interfaces that run the program, by index.
    pub(super) fn set_vlans(&mut self, vlans: BTreeMap<u32, VlanExit>) {
        self.vlans = vlans;
    }

    /// Whether a target has a health.
    pub(super) fn has_health(&self, target: &Target) -> bool {
        self.health.contains_key(target)
    }

    /// Whether a target is known to be unhealthy.
    pub(super) fn is_unhealthy(&self, target: &Target) -> bool {
        self.health.get(target).is_some_and(|verdict| !verdict.is_healthy())
    }

    /// Whether this host can probe a target, as far as is known.
    pub(super) fn is_probed(&self, target: &Target) -> bool {
        !self.not_probed.contains_key(target)
    }

    /// Whether a server has a next hop.
    pub(super) fn has_next_hop_to(&self, address: &IpAddr) -> bool {
        self.next_hops.get(address).is_some_and(Result::is_ok)
    }

    /// Records and logs an event of a health check. Events of targets that are no longer configured are ignored.
    pub(super) fn on_probe(&mut self, event: TargetEvent, now: Duration) {
        let TargetEvent { target, news } = event;
        if !self.users.check(&target) {
            return;
        }
        let server = target.address;
        let LogNames { load_balancer, listener, server_group, check } = self.users.of_target(&target);
        let lasted = news.health().and_then(|health| {
            self.check_durations
                .note(target.clone(), health == Health::Healthy, now)
                .map(tracing::field::debug)
        });
        /// Logs with the fields that identify the server, the check and its listeners.
        macro_rules! log {
            ($level:ident, $($what:tt)*) => {
                tracing::$level!(server = %EndpointText(server), load_balancer, listener, server_group, check, $($what)*)
            };
        }
        let probed = match news {
            TargetUpdate::Healthy => {
                log!(info, lasted, "healthy");
                HealthVerdict { health: Health::Healthy, detail: None }
            }
            TargetUpdate::Unhealthy(detail) => {
                log!(warn, lasted, detail, "unhealthy");
                HealthVerdict { health: Health::Unhealthy, detail: Some(detail) }
            }
            TargetUpdate::MoreDetail(detail) => {
                log!(info, detail, "cause of the failed health check");
                HealthVerdict { health: Health::Unhealthy, detail: Some(detail) }
            }
            TargetUpdate::NotProbed(detail) => {
                log!(warn, detail, "health check could not run; keeping last state");
                self.not_probed.insert(target, detail);
                return;
            }
            TargetUpdate::Probed => {
                log!(info, "health check runs again");
                self.not_probed.remove(&target);
                return;
            }
        };
        self.not_probed.remove(&target);
        self.health.insert(target.clone(), self.effective_verdict(&target, &probed));
        self.probed.insert(target, probed);
    }

    /// Forgets which targets could not be probed: probes have new settings that may remove the cause.
    pub(super) fn clear_not_probed(&mut self) {
        self.not_probed.clear();
    }

    /// Passes outcomes of new connections to the outlier detector. Returns whether the health of a server may change.
    pub(super) fn on_outcomes(&mut self, handshakes: &[DetectorPool], now: Duration) -> bool {
        let changes = self.outlier_detector.judge(handshakes, now);
        changes.iter().for_each(|change| self.log_ejection(change, now));
        let changed: BTreeSet<_> = changes.into_iter().map(|change| (change.server, change.policy)).collect();
        if changed.is_empty() {
            return false;
        }
        let affected = |target: &&Target| watched(target).is_some_and(|key| changed.contains(&key));
        let affected: Vec<_> = self.probed.keys().filter(affected).cloned().collect();
        for target in affected {
            let verdict = self.effective_verdict(&target, &self.probed[&target]);
            self.health.insert(target, verdict);
        }
        true
    }

    fn log_ejection(&mut self, change: &outlier_detection::EjectionChange, now: Duration) {
        let outlier_detection::EjectionChange { server, policy, duration } = change;
        let key = (*server, *policy);
        let targets: Vec<_> =
            self.users.targets().filter(|target| watched(target) == Some(key)).cloned().collect();
        let LogNames { load_balancer, listener, server_group, check } = self.users.of_targets(&targets);
        let noted = self.ejection_durations.note(key, duration.is_some(), now);
        // Before the first ejection, the server was well for as long as its check has passed.
        let lasted = noted
            .or_else(|| targets.iter().filter_map(|target| self.check_durations.lasts(target, now)).max());
        let lasted = lasted.map(tracing::field::debug);
        match duration {
            Some(duration) => tracing::warn!(
                server = %EndpointText(*server),
                load_balancer,
                listener,
                server_group,
                check,
                lasted,
                detail = self.outlier_detector.reason(*server, *policy),
                ?duration,
                "ejected: its traffic fails, and its health check passes"
            ),
            None => tracing::info!(
                server = %EndpointText(*server),
                load_balancer,
                listener,
                server_group,
                check,
                lasted,
                "ejection for failing traffic has ended"
            ),
        }
    }

    /// The health that follows from the check's result and from ejection.
    fn effective_verdict(&self, target: &Target, probed: &HealthVerdict) -> HealthVerdict {
        let reason =
            watched(target).and_then(|(server, policy)| self.outlier_detector.reason(server, policy));
        match reason {
            Some(reason) if probed.is_healthy() => {
                HealthVerdict { health: Health::Unhealthy, detail: Some(reason.to_owned()) }
            }
            _ => probed.clone(),
        }
    }
}

/// The endpoint that is watched for passive signals and its ejection policy, if passive checks are configured.
fn watched(target: &Target) -> Option<(SocketAddr, EjectionPolicy)> {
    Some((target.watched?, EjectionPolicy::of(&target.check)?))
}

#[cfg(test)]
mod tests;
