//! Which side of primary and secondary gets the traffic. Pure.
//!
//! Traffic goes to the secondary when as many servers of the primary side are unhealthy as the threshold says, and comes back when
//! there are fewer, and have been for the time that is configured. It does not go where nobody could serve it while
//! somebody of the primary side still can.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use slb_common::abi::backend::Backend;

use super::{
    desired::{Health, Reached, Verdict, health_of},
    ids::key_of,
    members::{Members, overridden, running},
    overrides::Overrides,
};
use crate::{
    config::model::{Config, Listener, LoadBalancer},
    dataplane::state::{State, backend_address},
    health::Target,
};

/// What a listener is known by, whatever its name: a VIP, the port and the protocol number.
pub type ListenerKey = (IpAddr, u16, u8);

/// The listeners whose traffic goes to the secondary side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failover {
    /// With the time since which the primary side could take the traffic back, if it could.
    over: BTreeMap<ListenerKey, Option<Duration>>,
}

impl Failover {
    /// As the maps have it, after a restart.
    pub fn found(config: &Config, held: &State) -> Self {
        let tables: BTreeMap<_, u32> =
            held.services.values().map(|service| (key_of(service), service.ring)).collect();
        let taking: BTreeSet<(u32, SocketAddr)> = held
            .backends
            .values()
            .filter(|backend| backend.flags & Backend::NEW != 0)
            .map(|backend| (backend.ring, backend_address(backend)))
            .collect();
        let members = Members::of(config);
        let mut over = BTreeMap::new();
        for (balancer, listener) in running(config) {
            let Some(sides) = members.sides(listener) else { continue };
            let is_over = |key: &ListenerKey| {
                let takes = |server: &SocketAddr| {
                    tables.get(key).is_some_and(|table| taking.contains(&(*table, *server)))
                };
                !sides.primary.iter().any(takes) && sides.secondary.iter().any(takes)
            };
            let key = key(balancer, listener);
            if key_of_each(balancer, listener).any(|key| is_over(&key)) {
                over.insert(key, None);
            }
        }
        Self { over }
    }

    /// Whether traffic of a listener goes to the secondary side.
    pub fn is_over(&self, balancer: &LoadBalancer, listener: &Listener) -> bool {
        self.over.contains_key(&key(balancer, listener))
    }

    /// Decides anew, by what is known of the servers. Returns the listeners whose traffic has changed sides, by name, and when
    /// to ask again at the latest.
    pub fn decide(
        &mut self,
        config: &Config,
        health: &BTreeMap<Target, Verdict>,
        next_hops: &BTreeMap<IpAddr, Result<Reached, String>>,
        overrides: Option<&Overrides>,
        now: Duration,
    ) -> (Vec<Change>, Option<Duration>) {
        let members = Members::of(config);
        let (mut over, mut changes, mut next) = (BTreeMap::new(), Vec::new(), None::<Duration>);
        for (balancer, listener) in running(config) {
            let Some(sides) = members.sides(listener) else { continue };
            let (mut unhealthy, mut primary_can, mut secondary_can) = (0, false, false);
            for member in members.behind(balancer, listener).servers {
                let target = Target::of(balancer, listener, member.address).filter(|_| member.is_checked);
                let health = health_of(target.as_ref(), Some(health)).0;
                let (_, set) = overridden(&member, balancer, listener, overrides);
                // Who is taken out of service, or cannot be reached, is as good as unhealthy.
                let is_out = set.state.is_some()
                    || set.weight.unwrap_or(member.weight) == 0
                    || matches!(next_hops.get(&member.address.ip()), Some(Err(_)));
                let can = !is_out && matches!(health, Health::Healthy | Health::Unchecked);
                if member.is_primary {
                    unhealthy += usize::from(is_out || health == Health::Unhealthy);
                }
                primary_can |= member.is_primary && can;
                secondary_can |= member.is_secondary && can;
            }
            let must = unhealthy >= sides.threshold && (secondary_can || !primary_can);
            let key = key(balancer, listener);
            let was = self.over.get(&key).copied();
            let is = match was {
                _ if must => Some(None),
                None => None,
                Some(since) => {
                    let since = since.unwrap_or(now);
                    let due = since + sides.failback_after;
                    // Nothing is waited for where the secondary cannot serve.
                    if due <= now || !secondary_can {
                        None
                    } else {
                        next = Some(next.map_or(due, |next| next.min(due)));
                        Some(Some(since))
                    }
                }
            };
            if is.is_some() != was.is_some() {
                changes.push(Change {
                    load_balancer: balancer.name.to_string(),
                    listener: listener.name.to_string(),
                    to_secondary: is.is_some(),
                });
            }
            if let Some(since) = is {
                over.insert(key, since);
            }
        }
        self.over = over;
        (changes, next)
    }
}

/// A listener whose traffic goes to the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Name of the load balancer.
    pub load_balancer: String,
    /// Name of the listener.
    pub listener: String,
    /// Whether it goes to the secondary side now.
    pub to_secondary: bool,
}

fn key(balancer: &LoadBalancer, listener: &Listener) -> ListenerKey {
    let address = balancer.addresses.iter().min().copied().unwrap_or(IpAddr::from([0; 4]));
    (address, listener.port, listener.protocol.number())
}

fn key_of_each(balancer: &LoadBalancer, listener: &Listener) -> impl Iterator<Item = ListenerKey> {
    balancer.addresses.iter().map(|address| (*address, listener.port, listener.protocol.number()))
}

#[cfg(test)]
mod tests;
