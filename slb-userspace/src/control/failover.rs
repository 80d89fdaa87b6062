//! Which side of primary and secondary gets the traffic. Pure.
//!
//! Traffic goes to the secondary when as many servers of the primary side are unhealthy as the threshold says, and comes back when
//! there are fewer, one of which is known to be well, and have been for the time that is configured. It does not go where
//! nobody could serve it while somebody of the primary side still can. A server whose next hop is lost counts as unhealthy once a check
//! would have found it so: with a blip of the network, traffic stays where it is. In mode `nat` this is decided for each address family
//! by itself: servers of the other one cannot serve its clients.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use slb_common::abi::backend::Backend;

use super::{
    desired::{Health, Reached, Verdict, health_of, reach},
    ids::key_of,
    members::{Member, Members, Side, Sides, family, group_of, overridden},
    overrides::Overrides,
};
use crate::{
    config::model::{Config, DEFAULT_WINDOW, HealthCheck, Listener, LoadBalancer},
    dataplane::state::{State, backend_address},
    health::Target,
};

/// What a listener is known by, whatever its name, at one of its VIPs: the VIP, the port and the protocol number.
type Key = (IpAddr, u16, u8);

/// The listeners whose traffic goes to the secondary side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failover {
    /// At each VIP.
    over: BTreeMap<Key, Over>,
}

/// What is remembered of a listener whose traffic goes to the secondary side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Over {
    /// The time since which the primary side could take the traffic back, if it could.
    since: Option<Duration>,
    /// The servers of the primary side when there was last reason for that. Others have nothing to do with it.
    primary: BTreeSet<SocketAddr>,
    /// Those of the secondary side.
    secondary: BTreeSet<SocketAddr>,
}

/// The ways to servers.
#[derive(Debug, Clone, Copy)]
pub struct Ways<'a> {
    /// Next hops, or why there is none; what is not in here is not resolved yet.
    pub next_hops: &'a BTreeMap<IpAddr, Result<Reached, String>>,
    /// Since when the kernel has had no next hop to a server to which it had one.
    pub lost: &'a BTreeMap<IpAddr, Duration>,
}

impl Ways<'_> {
    /// Until when a server without a next hop counts as reached on the side that has the traffic; `None` where it has one.
    fn lost_until(&self, listener: &Listener, server: IpAddr) -> Option<Duration> {
        let Some(Err(_)) = reach(listener, self.next_hops, server) else { return None };
        let window = listener.health_check.as_ref().map_or(DEFAULT_WINDOW, HealthCheck::window);
        Some(self.lost.get(&server).map_or(Duration::ZERO, |since| *since + window))
    }
}

/// What follows from what is known; not in force yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The listeners whose traffic is to go to the secondary side.
    pub failover: Failover,
    /// Those whose traffic is to change sides.
    pub changes: Vec<Change>,
    /// When to ask again at the latest.
    pub next: Option<Duration>,
}

/// A listener whose traffic goes to the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Name of the load balancer.
    pub load_balancer: String,
    /// Name of the listener.
    pub listener: String,
    /// Its VIPs that this is about.
    pub vips: Vec<IpAddr>,
    /// The side that gets the traffic.
    pub to: Side,
    /// Name of the server group on that side; `None` for the default group.
    pub server_group: Option<String>,
    /// Kind of the listener's health check, if it has one.
    pub check: Option<&'static str>,
}

impl Failover {
    /// As the maps have it, after a restart.
    pub fn found(config: &Config, held: &State) -> Self {
        let tables: BTreeMap<_, u32> =
            held.services.values().map(|service| (key_of(service), service.lookup_table)).collect();
        let configured = held.backends.values().filter(|backend| backend.flags & Backend::REMOVED == 0);
        let servers: BTreeMap<(u32, SocketAddr), &Backend> =
            configured.map(|backend| ((backend.lookup_table, backend_address(backend)), backend)).collect();
        let mut over = BTreeMap::new();
        for Part { balancer, listener, vips, members, .. } in parts(config) {
            let keys = vips.iter().map(|vip| key(listener, *vip));
            let table = keys.clone().find_map(|key| tables.get(&key).copied());
            let of = |side: Side, tells: fn(&Backend) -> bool| {
                // One that is on both sides tells nothing.
                let mut members = members.iter().filter(|member| member.is_of(side));
                members.any(|member| {
                    table.and_then(|table| servers.get(&(table, member.address))).is_some_and(|b| tells(b))
                })
            };
            let takes = |side| of(side, |backend| backend.flags & Backend::NEW != 0);
            let stands_by = |side| of(side, |backend| backend.health == Backend::HEALTH_STANDBY);
            let is_over = takes(Side::Secondary) || stands_by(Side::Primary);
            if balancer.runs(listener) && is_over && !takes(Side::Primary) {
                let known = |side| {
                    let on = members.iter().filter(|member| member.weight(side).is_some());
                    let addresses = on.map(|member| member.address);
                    addresses
                        .filter(|address| table.is_some_and(|t| servers.contains_key(&(t, *address))))
                        .collect()
                };
                let found =
                    Over { since: None, primary: known(Side::Primary), secondary: known(Side::Secondary) };
                over.extend(keys.map(|key| (key, found.clone())));
            }
        }
        Self { over }
    }

    /// The side that gets the traffic of a listener at a VIP.
    pub fn side(&self, listener: &Listener, vip: IpAddr) -> Side {
        if self.over.contains_key(&key(listener, vip)) { Side::Secondary } else { Side::Primary }
    }

    /// Decides anew, by what is known of the servers at `now`. Until what follows is in force, the old decision stands.
    pub fn decide(
        &self,
        config: &Config,
        health: &BTreeMap<Target, Verdict>,
        ways: Ways<'_>,
        overrides: Option<&Overrides>,
        now: Duration,
    ) -> Decision {
        let (mut over, mut changes, mut next) = (BTreeMap::new(), Vec::new(), None::<Duration>);
        for part in parts(config) {
            let Part { balancer, listener, vips, sides, .. } = &part;
            // A VIP that is added gets its traffic from where that of the others goes.
            let was = vips.iter().find_map(|vip| self.over.get(&key(listener, *vip)));
            let was_over = was.is_some();
            // Where nobody is left who had it, the listener begins with the primary side.
            let was = was.filter(|was| part.has_any(Side::Secondary, &was.secondary));
            let secondary = || part.on(Side::Secondary);
            let stays =
                |was: &Over, since| Over { since, secondary: secondary(), primary: was.primary.clone() };
            let current = if was_over { Side::Secondary } else { Side::Primary };
            let is = if balancer.runs(listener) {
                let (judgement, again) = part.judge(current, health, ways, overrides, now);
                next = sooner(next, again);
                match (judgement, was) {
                    (Judgement::MustBeOver, _) => {
                        Some(Over { since: None, secondary: secondary(), primary: part.on(Side::Primary) })
                    }
                    (Judgement::MustNotBeOver, _) | (_, None) => None,
                    (Judgement::MayStay, Some(was)) => Some(stays(was, None)),
                    // Servers that have come in place of the failed ones have nothing to make good.
                    (Judgement::MayComeBack, Some(was)) if !part.has_any(Side::Primary, &was.primary) => None,
                    (Judgement::MayComeBack, Some(was)) => {
                        let since = was.since.unwrap_or(now);
                        let due = since + sides.failback_after;
                        let waits = now < due;
                        next = sooner(next, waits.then_some(due));
                        waits.then(|| stays(was, Some(since)))
                    }
                }
            } else {
                // Nobody knows how its servers are; it is decided when it starts.
                was.map(|was| stays(was, None))
            };
            if is.is_some() != was_over {
                let to = if is.is_some() { Side::Secondary } else { Side::Primary };
                changes.push(Change {
                    load_balancer: balancer.name.to_string(),
                    listener: listener.name.to_string(),
                    vips: vips.clone(),
                    to,
                    server_group: group_of(listener, to).map(ToString::to_string),
                    check: listener.health_check.as_ref().map(|check| check.kind.name()),
                });
            }
            if let Some(is) = is {
                over.extend(vips.iter().map(|vip| (key(listener, *vip), is.clone())));
            }
        }
        Decision { failover: Self { over }, changes, next }
    }
}

/// VIPs of a listener with two sides, which are served by the same servers.
struct Part<'a> {
    balancer: &'a LoadBalancer,
    listener: &'a Listener,
    vips: Vec<IpAddr>,
    members: Vec<Member>,
    sides: Sides,
}

/// How the servers of a part are.
enum Judgement {
    MustBeOver,
    /// Nobody could serve on the secondary side.
    MustNotBeOver,
    /// It is not to be over, but may be if it is: of the primary side, nobody is known to be well yet.
    MayStay,
    /// It is not to be over, but may be for a while if it is.
    MayComeBack,
}

impl Part<'_> {
    /// How the servers are, where one side has the traffic, and when that is to be judged again.
    fn judge(
        &self,
        current: Side,
        health: &BTreeMap<Target, Verdict>,
        ways: Ways<'_>,
        overrides: Option<&Overrides>,
        now: Duration,
    ) -> (Judgement, Option<Duration>) {
        let (balancer, listener) = (self.balancer, self.listener);
        let mut again = None;
        // Those on a side that are out of service, of all; and whether anybody there can serve.
        let mut count = |side: Side| {
            let (mut out, mut all, mut can) = (0, 0, false);
            for member in &self.members {
                let Some(weight) = member.weight(side) else { continue };
                let target = Target::of(balancer, listener, member.address).filter(|_| member.is_checked);
                let health = health_of(target.as_ref(), Some(health)).0;
                let (_, set) = overridden(member, side, balancer, listener, overrides);
                // One that is configured for no traffic is nobody's loss.
                if weight == 0 && set.weight.is_none() {
                    continue;
                }
                let lost_until = ways.lost_until(listener, member.address.ip());
                // Traffic does not move to a side that is not reached now, and not away for a blip.
                let may_be_blip = |until: &Duration| side == current && now < *until;
                again = sooner(again, lost_until.filter(may_be_blip));
                // Who is taken out of service, or cannot be reached, is as good as unhealthy.
                let is_out = set.state.is_some()
                    || set.weight.unwrap_or(weight) == 0
                    || lost_until.is_some_and(|until| !may_be_blip(&until));
                all += 1;
                out += usize::from(is_out || health == Health::Unhealthy);
                can |= !is_out && matches!(health, Health::Healthy | Health::Unchecked);
            }
            (out, all, can)
        };
        let (out, primaries, primary_can) = count(Side::Primary);
        let (_, secondaries, secondary_can) = count(Side::Secondary);
        // The threshold may be more than there are of a family.
        let is_reached = out >= self.sides.threshold.min(primaries);
        let judgement = if is_reached && secondaries > 0 && (secondary_can || !primary_can) {
            Judgement::MustBeOver
        } else if !secondary_can {
            Judgement::MustNotBeOver
        } else if primary_can {
            Judgement::MayComeBack
        } else {
            Judgement::MayStay
        };
        (judgement, again)
    }

    /// The servers on a side.
    fn on(&self, side: Side) -> BTreeSet<SocketAddr> {
        let on = self.members.iter().filter(|member| member.weight(side).is_some());
        on.map(|member| member.address).collect()
    }

    /// Whether any of these servers is on a side.
    fn has_any(&self, side: Side, servers: &BTreeSet<SocketAddr>) -> bool {
        !self.on(side).is_disjoint(servers)
    }
}

/// The parts of all listeners with two sides, whether they forward or not.
fn parts(config: &Config) -> impl Iterator<Item = Part<'_>> {
    let members = Members::of(config);
    let listeners = config.load_balancers.iter();
    let listeners = listeners.flat_map(|balancer| balancer.listeners.iter().map(move |l| (balancer, l)));
    listeners.flat_map(move |(balancer, listener)| {
        let mut parts: BTreeMap<Option<bool>, Part<'_>> = BTreeMap::new();
        let Some(sides) = members.sides(listener) else { return parts.into_values() };
        for vip in &balancer.addresses {
            let is_v4 = family(listener, *vip);
            let part = parts.entry(is_v4).or_insert_with(|| {
                let servers = members.behind(balancer, listener).servers.into_iter();
                let servers =
                    servers.filter(|member| is_v4.is_none_or(|is_v4| member.address.is_ipv4() == is_v4));
                Part {
                    balancer,
                    listener,
                    vips: Vec::new(),
                    members: servers.collect(),
                    sides: sides.clone(),
                }
            });
            part.vips.push(*vip);
        }
        parts.into_values()
    })
}

fn sooner(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    [a, b].into_iter().flatten().min()
}

fn key(listener: &Listener, vip: IpAddr) -> Key {
    (vip, listener.port, listener.protocol.number())
}

#[cfg(test)]
mod tests;
