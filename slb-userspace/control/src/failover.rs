//! Failover and failback between primary and secondary servers. Pure.
//!
//! Traffic goes to the secondary side when the threshold of unhealthy primary servers is reached. It returns when fewer
//! are unhealthy, one is known to be healthy, and this has lasted for `failback_after`. It does not go to a side where
//! no server can serve while a primary server can.
//!
//! A server without a next hop counts as unhealthy once its check would have found it so. A short network interruption
//! therefore moves no traffic. In mode `nat` each address family decides for itself, because a client needs a server of
//! its own family.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use slb_common::abi::{backend::Backend, family::Family, health::ServerHealth, ids::TableId};

use super::{
    known_services::{ContinuedServices, KnownServices, ServiceIdentity},
    listener_servers::{FailoverSettings, ListenerServer, ServerGroups, family, group_of, server_override},
    model::{
        GroupRef, HealthVerdict, ListenerId, ServerRoute, ServiceKey, Side, health_of, key_at,
        resolved_next_hop,
    },
    overrides::Overrides,
};
use crate::dataplane::state::{MapState, backend_address};
use crate::inputs::Target;
use slb_config::model::{Config, DEFAULT_WINDOW, HealthCheck, Listener, LoadBalancer};

/// Failover state of all listeners: which of them have their traffic on the secondary side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failover {
    /// By VIP. A listener whose traffic is on the primary side is missing.
    on_secondary: BTreeMap<ServiceKey, ListenerFailover>,
    /// All listeners at their VIPs. Those of a later configuration continue them.
    known: BTreeSet<ServiceIdentity>,
}

/// State of a listener whose traffic is on the secondary side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct ListenerFailover {
    /// Time since boot from which the primary side has been able to serve; `None` while it is not.
    since: Option<Duration>,
    /// Primary servers when failover was last required. Servers added later have not failed.
    primary: BTreeSet<SocketAddr>,
    /// Secondary servers after the last decision.
    secondary: BTreeSet<SocketAddr>,
}

/// Next hops of servers.
#[derive(Debug, Clone, Copy)]
pub struct ServerNextHops<'a> {
    /// Next hops, or why there is none. An unresolved one is missing.
    pub next_hops: &'a BTreeMap<IpAddr, Result<ServerRoute, String>>,
    /// Time since boot at which the kernel lost a next hop that it had.
    pub lost: &'a BTreeMap<IpAddr, Duration>,
}

impl ServerNextHops<'_> {
    /// Time until which a server without a next hop does not count as failed on the active side. `None` if it has a
    /// next hop, or none is resolved yet.
    fn lost_until(&self, listener: &Listener, server: IpAddr) -> Option<Duration> {
        let Some(Err(_)) = resolved_next_hop(listener, self.next_hops, server) else { return None };
        let window = listener.health_check.as_ref().map_or(DEFAULT_WINDOW, HealthCheck::window);
        Some(self.lost.get(&server).map_or(Duration::ZERO, |since| *since + window))
    }
}

/// The result of [`Failover::decide`]. The caller applies it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailoverDecision {
    /// The new failover state.
    pub failover: Failover,
    /// Listeners whose traffic changes sides.
    pub changes: Vec<SideChange>,
    /// When to decide again at the latest, as time since boot; `None` if only a changed input matters.
    pub next: Option<Duration>,
}

/// A failover or failback of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SideChange {
    /// The listener.
    pub id: ListenerId,
    /// Name of the load balancer.
    pub load_balancer: String,
    /// Name of the listener.
    pub listener: String,
    /// The affected VIPs.
    pub vips: Vec<IpAddr>,
    /// The side that receives the traffic.
    pub to: Side,
    /// Name of the server group on that side; `None` for the default server group.
    pub server_group: Option<String>,
    /// Kind of the listener's health check, if it has one.
    pub check: Option<&'static str>,
}

impl Failover {
    /// Failover state as the maps show it after a restart.
    pub fn found(config: &Config, actual: &MapState) -> Self {
        let services = KnownServices::among(ServiceIdentity::of_config(config), actual);
        let configured = actual.backends.values().filter(|backend| backend.flags & Backend::REMOVED == 0);
        let servers: BTreeMap<(TableId, SocketAddr), &Backend> =
            configured.map(|backend| ((backend.table(), backend_address(backend)), backend)).collect();
        let mut on_secondary = BTreeMap::new();
        for FamilyGroup { balancer, listener, vips, members, .. } in family_groups(config) {
            let keys = vips.iter().map(|vip| key_at(listener, *vip));
            let table = keys.clone().find_map(|key| Some(services.at(key)?.1.table()));
            let of = |side: Side, tells: fn(&Backend) -> bool| {
                // A server on both sides does not show which side is active.
                let mut members = members.iter().filter(|member| member.is_only_on(side));
                members.any(|member| {
                    table.and_then(|table| servers.get(&(table, member.address))).is_some_and(|b| tells(b))
                })
            };
            let takes = |side| of(side, |backend| backend.flags & Backend::ACCEPTS_NEW != 0);
            let is_standby = |side| of(side, |backend| backend.health() == ServerHealth::Standby);
            let is_on_secondary = takes(Side::Secondary) || is_standby(Side::Primary);
            if balancer.runs(listener) && is_on_secondary && !takes(Side::Primary) {
                let known = |side| {
                    let on = members.iter().filter(|member| member.weight(side).is_some());
                    let addresses = on.map(|member| member.address);
                    addresses
                        .filter(|address| table.is_some_and(|t| servers.contains_key(&(t, *address))))
                        .collect()
                };
                let found = ListenerFailover {
                    since: None,
                    primary: known(Side::Primary),
                    secondary: known(Side::Secondary),
                };
                on_secondary.extend(keys.map(|key| (key, found.clone())));
            }
        }
        Self { on_secondary, known: ServiceIdentity::of_config(config).collect() }
    }

    /// The side that has the traffic of a listener at a VIP. A range of a configuration that waits has that of the range
    /// with which it has most ports in common.
    pub fn side(&self, listener: &Listener, vip: IpAddr) -> Side {
        let is_range = listener.port.is_range();
        let before = if is_range { ServiceIdentity::range_before(&self.known, listener, vip) } else { None };
        let key = before.unwrap_or_else(|| key_at(listener, vip));
        if self.on_secondary.contains_key(&key) { Side::Secondary } else { Side::Primary }
    }

    /// Decides by the inputs at `now`, the time since boot. The present state stays valid until the decision is active
    /// in the maps.
    pub fn decide(
        &self,
        config: &Config,
        health: &BTreeMap<Target, HealthVerdict>,
        server_next_hops: ServerNextHops<'_>,
        overrides: Option<&Overrides>,
        now: Duration,
    ) -> FailoverDecision {
        let (mut on_secondary, mut changes, mut next) = (BTreeMap::new(), Vec::new(), None::<Duration>);
        let known: BTreeSet<_> = ServiceIdentity::of_config(config).collect();
        let continued = ContinuedServices::new(known.iter().cloned(), self.known.iter().cloned());
        for part in family_groups(config) {
            let FamilyGroup { balancer, listener, vips, failover_settings, .. } = &part;
            // An added VIP has its traffic on the same side as the others.
            let was = vips.iter().find_map(|vip| {
                let key = continued.key_before(key_at(listener, *vip))?;
                self.on_secondary.get(&key)
            });
            let was_on_secondary = was.is_some();
            // If every secondary server was replaced, the listener begins with its primary side.
            let was = was.filter(|was| part.has_any(Side::Secondary, &was.secondary));
            let secondary = || part.on(Side::Secondary);
            let stays = |was: &ListenerFailover, since| ListenerFailover {
                since,
                secondary: secondary(),
                primary: was.primary.clone(),
            };
            let current = if was_on_secondary { Side::Secondary } else { Side::Primary };
            let is = if balancer.runs(listener) {
                let (requirement, again) =
                    part.requirement(current, health, server_next_hops, overrides, now);
                next = earlier(next, again);
                match (requirement, was) {
                    (SideRequirement::FailoverRequired, _) => Some(ListenerFailover {
                        since: None,
                        secondary: secondary(),
                        primary: part.on(Side::Primary),
                    }),
                    (SideRequirement::PrimaryRequired, _) | (_, None) => None,
                    (SideRequirement::NoChange, Some(was)) => Some(stays(was, None)),
                    // Servers that replaced the failed ones need no `failback_after`.
                    (SideRequirement::FailbackAllowed, Some(was))
                        if !part.has_any(Side::Primary, &was.primary) =>
                    {
                        None
                    }
                    (SideRequirement::FailbackAllowed, Some(was)) => {
                        let since = was.since.unwrap_or(now);
                        let due = since + failover_settings.failback_after;
                        let waits = now < due;
                        next = earlier(next, waits.then_some(due));
                        waits.then(|| stays(was, Some(since)))
                    }
                }
            } else {
                // A stopped listener has no health results. It decides when it starts.
                was.map(|was| stays(was, None))
            };
            if is.is_some() != was_on_secondary {
                let to = if is.is_some() { Side::Secondary } else { Side::Primary };
                changes.push(SideChange {
                    id: ListenerId::of(balancer, listener),
                    load_balancer: balancer.name.to_string(),
                    listener: listener.name.to_string(),
                    vips: vips.clone(),
                    to,
                    server_group: group_of(listener, to).map(ToString::to_string),
                    check: listener.health_check.as_ref().map(|check| check.kind.name()),
                });
            }
            if let Some(is) = is {
                on_secondary.extend(vips.iter().map(|vip| (key_at(listener, *vip), is.clone())));
            }
        }
        FailoverDecision { failover: Self { on_secondary, known }, changes, next }
    }
}

/// The VIPs of a listener that are served by servers of the same address families.
struct FamilyGroup<'a> {
    balancer: &'a LoadBalancer,
    listener: &'a Listener,
    vips: Vec<IpAddr>,
    members: Vec<ListenerServer>,
    /// The group on the primary side.
    primary: Option<GroupRef<'a>>,
    /// The group on the secondary side.
    secondary: Option<GroupRef<'a>>,
    failover_settings: FailoverSettings,
}

/// What the servers permit.
enum SideRequirement {
    FailoverRequired,
    /// No secondary server can serve, and failover is not required.
    PrimaryRequired,
    /// Failover is not required, and no primary server is known to be healthy yet: the traffic stays where it is.
    NoChange,
    /// Failover is not required, and a primary server can serve: failback follows after `failback_after`.
    FailbackAllowed,
}

impl FamilyGroup<'_> {
    /// Judges the servers while `current` has the traffic. Also returns when to judge again, if time alone can change
    /// the result.
    fn requirement(
        &self,
        current: Side,
        health: &BTreeMap<Target, HealthVerdict>,
        server_next_hops: ServerNextHops<'_>,
        overrides: Option<&Overrides>,
        now: Duration,
    ) -> (SideRequirement, Option<Duration>) {
        let (balancer, listener) = (self.balancer, self.listener);
        let mut again = None;
        // Counts servers of a side: out of service, in total, and whether any can serve.
        let mut count = |side: Side| {
            let (mut out, mut all, mut can) = (0, 0, false);
            for member in &self.members {
                let Some(weight) = member.weight(side) else { continue };
                let target = Target::of(balancer, listener, member.address).filter(|_| member.is_checked);
                let health = health_of(target.as_ref(), Some(health)).0;
                let group = if side == Side::Primary { self.primary } else { self.secondary };
                let (_, set) = server_override(member, group, overrides);
                // A server with configured weight 0 serves nothing, so its failure does not count.
                if weight == 0 && set.weight.is_none() {
                    continue;
                }
                let lost_until = server_next_hops.lost_until(listener, member.address.ip());
                // A lost next hop is tolerated for a time on the active side. On the other side it counts at once.
                let is_tolerated = |until: &Duration| side == current && now < *until;
                again = earlier(again, lost_until.filter(is_tolerated));
                // A server that an operator took out of service, or without a next hop, counts as unhealthy.
                let is_out = set.state.is_some()
                    || set.weight.unwrap_or(weight) == 0
                    || lost_until.is_some_and(|until| !is_tolerated(&until));
                all += 1;
                out += usize::from(is_out || health == ServerHealth::Unhealthy);
                can |= !is_out && health.can_serve();
            }
            (out, all, can)
        };
        let (out, primaries, primary_can) = count(Side::Primary);
        let (_, secondaries, secondary_can) = count(Side::Secondary);
        // An address family may have fewer servers than the threshold.
        let is_reached = out >= self.failover_settings.threshold.min(primaries);
        let requirement = if is_reached && secondaries > 0 && (secondary_can || !primary_can) {
            SideRequirement::FailoverRequired
        } else if !secondary_can {
            SideRequirement::PrimaryRequired
        } else if primary_can {
            SideRequirement::FailbackAllowed
        } else {
            SideRequirement::NoChange
        };
        (requirement, again)
    }

    /// Addresses of the servers on a side.
    fn on(&self, side: Side) -> BTreeSet<SocketAddr> {
        let on = self.members.iter().filter(|member| member.weight(side).is_some());
        on.map(|member| member.address).collect()
    }

    /// Whether any of `servers` is on a side.
    fn has_any(&self, side: Side, servers: &BTreeSet<SocketAddr>) -> bool {
        !self.on(side).is_disjoint(servers)
    }
}

/// All listeners with two sides, running or stopped, split by address family where that matters.
fn family_groups(config: &Config) -> impl Iterator<Item = FamilyGroup<'_>> {
    let members = ServerGroups::of(config);
    let listeners = config.load_balancers.iter();
    let listeners = listeners.flat_map(|balancer| balancer.listeners.iter().map(move |l| (balancer, l)));
    listeners.flat_map(move |(balancer, listener)| {
        let mut family_groups: BTreeMap<Option<Family>, FamilyGroup<'_>> = BTreeMap::new();
        let Some(failover_settings) = members.failover_settings(listener) else {
            return family_groups.into_values();
        };
        for vip in &balancer.addresses {
            let family = family(listener, *vip);
            let part = family_groups.entry(family).or_insert_with(|| {
                let servers = members.servers_behind(balancer, listener).servers.into_iter();
                let servers = servers
                    .filter(|member| family.is_none_or(|family| Family::of(member.address.ip()) == family));
                FamilyGroup {
                    balancer,
                    listener,
                    vips: Vec::new(),
                    members: servers.collect(),
                    primary: members.group_on(balancer, listener, Side::Primary),
                    secondary: members.group_on(balancer, listener, Side::Secondary),
                    failover_settings: failover_settings.clone(),
                }
            });
            part.vips.push(*vip);
        }
        family_groups.into_values()
    })
}

fn earlier(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    [a, b].into_iter().flatten().min()
}

#[cfg(test)]
mod tests;
