//! The servers behind the listeners of a configuration. Pure.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::overrides::{Overrides, Place, Setting};
use slb_config::model::{
    Config, Listener, LoadBalancer, Mode, Name, PrimarySecondaryGroup, ServerGroup, TableSize, Target, Weight,
};

/// The running listeners, each with its load balancer.
pub(super) fn running(config: &Config) -> impl Iterator<Item = (&LoadBalancer, &Listener)> {
    config.load_balancers.iter().flat_map(|balancer| balancer.running().map(move |l| (balancer, l)))
}

/// The server groups of a configuration, by name.
pub(super) struct Members<'a> {
    groups: BTreeMap<&'a Name, &'a ServerGroup>,
    pairs: BTreeMap<&'a Name, &'a PrimarySecondaryGroup>,
}

/// The servers behind a listener, and the slots of their table.
pub(super) struct Behind {
    pub(super) slots: TableSize,
    pub(super) servers: Vec<Member>,
}

/// A side of a listener. A listener without primary and secondary has only the primary side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Has the traffic while enough of its servers are healthy.
    Primary,
    /// Has the traffic otherwise.
    Secondary,
}

impl Side {
    /// The opposite side.
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Primary => Self::Secondary,
            Self::Secondary => Self::Primary,
        }
    }
}

/// A server behind a listener.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) address: SocketAddr,
    /// Configured weight on the primary side; `None` if it is not on that side.
    primary: Option<u8>,
    /// Configured weight on the secondary side; `None` if it is not on that side.
    secondary: Option<u8>,
    /// Whether the listener's health check applies to it.
    pub(super) is_checked: bool,
}

impl Member {
    fn new(address: SocketAddr, side: Side, weight: u8) -> Self {
        let member = Self { address, primary: None, secondary: None, is_checked: true };
        match side {
            Side::Primary => Self { primary: Some(weight), ..member },
            Side::Secondary => Self { secondary: Some(weight), ..member },
        }
    }

    /// Configured weight on a side; `None` if it is not on that side.
    pub(super) const fn weight(&self, side: Side) -> Option<u8> {
        match side {
            Side::Primary => self.primary,
            Side::Secondary => self.secondary,
        }
    }

    /// Whether it is on this side only.
    pub(super) const fn is_of(&self, side: Side) -> bool {
        self.weight(side).is_some() && self.weight(side.other()).is_none()
    }
}

/// Whether the servers of a VIP must have IPv4 (`true`) or IPv6 (`false`) addresses; `None` for any.
pub(super) fn family(listener: &Listener, vip: IpAddr) -> Option<bool> {
    match listener.mode {
        Mode::Nat => Some(vip.is_ipv4()),
        // The packet reaches the server untranslated, so the server needs only the VIP.
        Mode::Dsr | Mode::Ipip => None,
    }
}

impl<'a> Members<'a> {
    pub(super) fn of(config: &'a Config) -> Self {
        Self {
            groups: config.server_groups.iter().map(|group| (&group.name, group)).collect(),
            pairs: config.primary_secondary_groups.iter().map(|group| (&group.name, group)).collect(),
        }
    }

    /// Time in which servers on a side reach their weight; `None` for at once.
    pub(super) fn slow_start(
        &self,
        balancer: &LoadBalancer,
        listener: &Listener,
        side: Side,
    ) -> Option<Duration> {
        match &listener.target {
            Target::DefaultGroup { .. } => balancer.slow_start,
            Target::ServerGroup(name) => self.groups.get(name)?.slow_start,
            Target::PrimarySecondary { primary, secondary, .. } => {
                let name = if side == Side::Primary { primary } else { secondary };
                self.groups.get(name)?.slow_start
            }
            // One server has all traffic at any time.
            Target::PrimarySecondaryGroup(_) => None,
        }
    }

    /// The servers behind a listener. A server on both sides is one member.
    pub(super) fn behind(&self, balancer: &LoadBalancer, listener: &Listener) -> Behind {
        match &listener.target {
            Target::DefaultGroup { backend_port } => {
                let servers = balancer.servers.iter().map(|server| {
                    let address = SocketAddr::new(server.address, *backend_port);
                    Member::new(address, Side::Primary, server.weight.value())
                });
                Behind { slots: balancer.table_size, servers: servers.collect() }
            }
            Target::ServerGroup(name) => {
                let servers = self.group(name);
                let servers = servers.map(|(address, weight)| Member::new(address, Side::Primary, weight));
                Behind { slots: self.slots(name), servers: servers.collect() }
            }
            Target::PrimarySecondaryGroup(name) => {
                let of = |pair: &&PrimarySecondaryGroup| {
                    let primary = Member::new(pair.primary, Side::Primary, Weight::MAX);
                    let secondary = Member::new(pair.secondary, Side::Secondary, Weight::MAX);
                    vec![primary, Member { is_checked: false, ..secondary }]
                };
                // The smallest table suffices: one server has all slots at any time.
                Behind { slots: TableSize::MIN, servers: self.pairs.get(name).map_or_else(Vec::new, of) }
            }
            Target::PrimarySecondary { primary, secondary, .. } => {
                let primaries =
                    self.group(primary).map(|(address, weight)| Member::new(address, Side::Primary, weight));
                let mut servers: BTreeMap<_, _> = primaries.map(|member| (member.address, member)).collect();
                for (address, weight) in self.group(secondary) {
                    let member = Member::new(address, Side::Secondary, weight);
                    servers.entry(address).and_modify(|both| both.secondary = Some(weight)).or_insert(member);
                }
                let slots = self.slots(primary).max(self.slots(secondary));
                Behind { slots, servers: servers.into_values().collect() }
            }
        }
    }

    /// Failover settings of a listener; `None` if it has no secondary side.
    pub(super) fn sides(&self, listener: &Listener) -> Option<Sides> {
        match &listener.target {
            Target::DefaultGroup { .. } | Target::ServerGroup(_) => None,
            Target::PrimarySecondaryGroup(name) => {
                self.pairs.get(name).map(|pair| Sides { threshold: 1, failback_after: pair.failback_after })
            }
            Target::PrimarySecondary { failover_threshold, failback_after, .. } => {
                Some(Sides { threshold: usize::from(*failover_threshold), failback_after: *failback_after })
            }
        }
    }

    /// The servers of a group. Validation guarantees that the group exists.
    fn group(&self, name: &Name) -> impl Iterator<Item = (SocketAddr, u8)> + 'a {
        let servers = self.groups.get(name).map(|group| group.servers.as_slice()).unwrap_or_default();
        servers.iter().map(|server| (SocketAddr::new(server.address, server.port), server.weight.value()))
    }

    fn slots(&self, name: &Name) -> TableSize {
        self.groups.get(name).map_or(TableSize::DEFAULT, |group| group.table_size)
    }
}

/// The named group of a listener on a side; `None` for the default group.
pub(super) const fn group_of(listener: &Listener, side: Side) -> Option<&Name> {
    match &listener.target {
        Target::DefaultGroup { .. } => None,
        Target::ServerGroup(name) | Target::PrimarySecondaryGroup(name) => Some(name),
        Target::PrimarySecondary { primary, secondary, .. } => Some(match side {
            Side::Primary => primary,
            Side::Secondary => secondary,
        }),
    }
}

/// Failover settings of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sides {
    /// Unhealthy primary servers at which traffic goes to the secondary side.
    pub(super) threshold: usize,
    pub(super) failback_after: Duration,
}

/// The override of a server on a side, with its configuration entry. Without an override, `None` and an empty setting.
pub(super) fn overridden(
    member: &Member,
    side: Side,
    balancer: &LoadBalancer,
    listener: &Listener,
    overrides: Option<&Overrides>,
) -> (Option<Place>, Setting) {
    let set = overrides.filter(|overrides| !overrides.is_empty()).and_then(|overrides| {
        let place = Place::behind(balancer, listener, side, member.address);
        let setting = *overrides.get(&place)?;
        Some((place, setting))
    });
    set.map_or_else(Default::default, |(place, setting)| (Some(place), setting))
}
