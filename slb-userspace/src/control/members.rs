//! Who is behind the listeners of a configuration. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use super::overrides::{Overrides, Place, Setting};
use crate::config::model::{
    Config, Listener, LoadBalancer, Name, PrimarySecondaryGroup, ServerGroup, TableSize, Target, Weight,
};

/// The listeners that forward, each with its load balancer.
pub(super) fn running(config: &Config) -> impl Iterator<Item = (&LoadBalancer, &Listener)> {
    config.load_balancers.iter().flat_map(|balancer| balancer.running().map(move |l| (balancer, l)))
}

/// Who is behind the listeners of a configuration.
pub(super) struct Members<'a> {
    groups: BTreeMap<&'a Name, &'a ServerGroup>,
    pairs: BTreeMap<&'a Name, &'a PrimarySecondaryGroup>,
}

/// The servers behind a listener, and the size of their table.
pub(super) struct Behind {
    pub(super) slots: TableSize,
    pub(super) servers: Vec<Member>,
}

/// A server behind a listener.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) address: SocketAddr,
    pub(super) weight: u8,
    /// On the primary side, or the only one there is.
    pub(super) is_primary: bool,
    pub(super) is_secondary: bool,
    /// Whether it is subject to the listener's health check.
    pub(super) is_checked: bool,
}

impl Member {
    /// A server of a listener that has no sides.
    fn new(address: SocketAddr, weight: u8) -> Self {
        Self { address, weight, is_primary: true, is_secondary: true, is_checked: true }
    }
}

impl<'a> Members<'a> {
    pub(super) fn of(config: &'a Config) -> Self {
        Self {
            groups: config.server_groups.iter().map(|group| (&group.name, group)).collect(),
            pairs: config.primary_secondary_groups.iter().map(|group| (&group.name, group)).collect(),
        }
    }

    /// Time in which the servers behind a listener come to their weight.
    pub(super) fn slow_start(&self, balancer: &LoadBalancer, listener: &Listener) -> Option<Duration> {
        match &listener.target {
            Target::DefaultGroup { .. } => balancer.slow_start,
            Target::ServerGroup(name) | Target::PrimarySecondary { primary: name, .. } => {
                self.groups.get(name)?.slow_start
            }
            // At any time all traffic belongs to one server.
            Target::PrimarySecondaryGroup(_) => None,
        }
    }

    /// The servers behind a listener, each once.
    pub(super) fn behind(&self, balancer: &LoadBalancer, listener: &Listener) -> Behind {
        match &listener.target {
            Target::DefaultGroup { backend_port } => {
                let servers = balancer.servers.iter().map(|server| {
                    Member::new(SocketAddr::new(server.address, *backend_port), server.weight.value())
                });
                Behind { slots: balancer.table_size, servers: servers.collect() }
            }
            Target::ServerGroup(name) => {
                let servers = self.group(name).map(|(address, weight)| Member::new(address, weight));
                Behind { slots: self.slots(name), servers: servers.collect() }
            }
            Target::PrimarySecondaryGroup(name) => {
                let of = |pair: &&PrimarySecondaryGroup| {
                    let all = Member::new(pair.primary, Weight::MAX);
                    let primary = Member { is_secondary: false, ..all };
                    let secondary =
                        Member { address: pair.secondary, is_primary: false, is_checked: false, ..all };
                    vec![primary, secondary]
                };
                // Small: at any time all of it belongs to one server.
                Behind { slots: TableSize::MIN, servers: self.pairs.get(name).map_or_else(Vec::new, of) }
            }
            Target::PrimarySecondary { primary, secondary, .. } => {
                let mut servers: BTreeMap<SocketAddr, Member> = BTreeMap::new();
                for (address, weight) in self.group(primary) {
                    servers.insert(address, Member { is_secondary: false, ..Member::new(address, weight) });
                }
                for (address, weight) in self.group(secondary) {
                    let member = Member { is_primary: false, ..Member::new(address, weight) };
                    servers.entry(address).and_modify(|both| both.is_secondary = true).or_insert(member);
                }
                let slots = self.slots(primary).max(self.slots(secondary));
                Behind { slots, servers: servers.into_values().collect() }
            }
        }
    }

    /// The sides of a listener, if it has any.
    pub(super) fn sides(&self, listener: &Listener) -> Option<Sides> {
        match &listener.target {
            Target::DefaultGroup { .. } | Target::ServerGroup(_) => None,
            Target::PrimarySecondaryGroup(name) => self.pairs.get(name).map(|pair| Sides {
                primary: [pair.primary].into(),
                secondary: [pair.secondary].into(),
                threshold: 1,
                failback_after: pair.failback_after,
            }),
            Target::PrimarySecondary { primary, secondary, failover_threshold, failback_after } => {
                Some(Sides {
                    primary: self.group(primary).map(|(address, _)| address).collect(),
                    secondary: self.group(secondary).map(|(address, _)| address).collect(),
                    threshold: usize::from(*failover_threshold),
                    failback_after: *failback_after,
                })
            }
        }
    }

    /// The servers of a group. The model promises that it exists.
    fn group(&self, name: &Name) -> impl Iterator<Item = (SocketAddr, u8)> + 'a {
        let servers = self.groups.get(name).map(|group| group.servers.as_slice()).unwrap_or_default();
        servers.iter().map(|server| (SocketAddr::new(server.address, server.port), server.weight.value()))
    }

    fn slots(&self, name: &Name) -> TableSize {
        self.groups.get(name).map_or(TableSize::DEFAULT, |group| group.table_size)
    }
}

/// The sides of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sides {
    pub(super) primary: BTreeSet<SocketAddr>,
    pub(super) secondary: BTreeSet<SocketAddr>,
    /// Unhealthy servers of the primary side that make traffic change sides.
    pub(super) threshold: usize,
    pub(super) failback_after: Duration,
}

/// What is set for a server, and where.
pub(super) fn overridden(
    member: &Member,
    balancer: &LoadBalancer,
    listener: &Listener,
    overrides: Option<&Overrides>,
) -> (Option<Place>, Setting) {
    let set = overrides.filter(|overrides| !overrides.is_empty()).and_then(|overrides| {
        let place = Place::behind(balancer, listener, member.is_primary, member.address);
        let setting = *overrides.get(&place)?;
        Some((place, setting))
    });
    set.map_or_else(Default::default, |(place, setting)| (Some(place), setting))
}
