//! The servers behind the listeners of a configuration. Pure.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::model::{GroupRef, Side};
use super::{
    model::OverrideKey,
    overrides::{Overrides, ServerOverride},
};
use slb_common::abi::family::Family;
use slb_config::model::{
    Config, Listener, ListenerTarget, LoadBalancer, Mode, Name, PrimarySecondaryGroup, ServerGroup,
    TableSize, Weight,
};

/// The running listeners, each with its load balancer.
pub(super) fn running(config: &Config) -> impl Iterator<Item = (&LoadBalancer, &Listener)> {
    config.load_balancers.iter().flat_map(|balancer| balancer.running().map(move |l| (balancer, l)))
}

/// The server groups of a configuration, by name.
pub(super) struct ServerGroups<'a> {
    groups: BTreeMap<&'a Name, &'a ServerGroup>,
    pairs: BTreeMap<&'a Name, &'a PrimarySecondaryGroup>,
}

/// The servers behind a listener, and the slots of their table.
pub(super) struct ListenerServers {
    pub(super) slots: TableSize,
    pub(super) servers: Vec<ListenerServer>,
}

/// A server behind a listener.
#[derive(Debug, Clone, Copy)]
pub(super) struct ListenerServer {
    pub(super) address: SocketAddr,
    /// Configured weight on the primary side; `None` if it is not on that side.
    primary: Option<u8>,
    /// Configured weight on the secondary side; `None` if it is not on that side.
    secondary: Option<u8>,
    /// Whether the listener's health check applies to it.
    pub(super) is_checked: bool,
    /// The ID by which QUIC connection IDs name it.
    pub(super) quic_server_id: Option<u32>,
}

impl ListenerServer {
    fn new(address: SocketAddr, side: Side, weight: u8) -> Self {
        let member = Self { address, primary: None, secondary: None, is_checked: true, quic_server_id: None };
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
    pub(super) const fn is_only_on(&self, side: Side) -> bool {
        self.weight(side).is_some() && self.weight(side.other()).is_none()
    }
}

/// Family that the servers of a VIP must have; `None` for any.
pub(super) fn family(listener: &Listener, vip: IpAddr) -> Option<Family> {
    match listener.mode {
        Mode::Nat | Mode::FullNat => Some(Family::of(vip)),
        // The packet reaches the server untranslated, so the server needs only the VIP.
        Mode::Dsr | Mode::Ipip | Mode::Gue => None,
    }
}

impl<'a> ServerGroups<'a> {
    pub(super) fn of(config: &'a Config) -> Self {
        Self {
            groups: config.server_groups.iter().map(|group| (&group.name, group)).collect(),
            pairs: config.primary_secondary_groups.iter().map(|group| (&group.name, group)).collect(),
        }
    }

    /// The group on a side of a listener; `None` if it does not exist, which validation rules out.
    pub(super) fn group_on<'b>(
        &self,
        balancer: &'b LoadBalancer,
        listener: &Listener,
        side: Side,
    ) -> Option<GroupRef<'b>>
    where
        'a: 'b,
    {
        let group = |name| self.groups.get(name).map(|group| GroupRef::Named(&group.id));
        match &listener.target {
            ListenerTarget::DefaultGroup { .. } => Some(GroupRef::Default(&balancer.id)),
            ListenerTarget::ServerGroup(name) => group(name),
            ListenerTarget::PrimarySecondaryGroup(name) => {
                self.pairs.get(name).map(|pair| GroupRef::Named(&pair.id))
            }
            ListenerTarget::PrimarySecondary { primary, secondary, .. } => {
                group(if side == Side::Primary { primary } else { secondary })
            }
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
            ListenerTarget::DefaultGroup { .. } => balancer.slow_start,
            ListenerTarget::ServerGroup(name) => self.groups.get(name)?.slow_start,
            ListenerTarget::PrimarySecondary { primary, secondary, .. } => {
                let name = if side == Side::Primary { primary } else { secondary };
                self.groups.get(name)?.slow_start
            }
            // One server has all traffic at any time.
            ListenerTarget::PrimarySecondaryGroup(_) => None,
        }
    }

    /// The servers behind a listener. A server on both sides is one member.
    pub(super) fn servers_behind(&self, balancer: &LoadBalancer, listener: &Listener) -> ListenerServers {
        match &listener.target {
            ListenerTarget::DefaultGroup { default_group_port } => {
                let servers = balancer.servers.iter().map(|server| {
                    let address = SocketAddr::new(server.address, *default_group_port);
                    let member = ListenerServer::new(address, Side::Primary, server.weight.value());
                    ListenerServer { quic_server_id: server.quic_server_id, ..member }
                });
                ListenerServers { slots: balancer.table_size, servers: servers.collect() }
            }
            ListenerTarget::ServerGroup(name) => {
                let servers = self.group(name, Side::Primary).collect();
                ListenerServers { slots: self.slots(name), servers }
            }
            ListenerTarget::PrimarySecondaryGroup(name) => {
                let of = |pair: &&PrimarySecondaryGroup| {
                    let primary = ListenerServer::new(pair.primary, Side::Primary, Weight::MAX);
                    let secondary = ListenerServer::new(pair.secondary, Side::Secondary, Weight::MAX);
                    vec![primary, ListenerServer { is_checked: false, ..secondary }]
                };
                // The smallest table suffices: one server has all slots at any time.
                ListenerServers {
                    slots: TableSize::MIN,
                    servers: self.pairs.get(name).map_or_else(Vec::new, of),
                }
            }
            ListenerTarget::PrimarySecondary { primary, secondary, .. } => {
                let primaries = self.group(primary, Side::Primary);
                let mut servers: BTreeMap<_, _> = primaries.map(|member| (member.address, member)).collect();
                for member in self.group(secondary, Side::Secondary) {
                    let both = servers.entry(member.address);
                    both.and_modify(|both| both.secondary = member.secondary).or_insert(member);
                }
                let slots = self.slots(primary).max(self.slots(secondary));
                ListenerServers { slots, servers: servers.into_values().collect() }
            }
        }
    }

    /// Failover settings of a listener; `None` if it has no secondary side.
    pub(super) fn failover_settings(&self, listener: &Listener) -> Option<FailoverSettings> {
        match &listener.target {
            ListenerTarget::DefaultGroup { .. } | ListenerTarget::ServerGroup(_) => None,
            ListenerTarget::PrimarySecondaryGroup(name) => self
                .pairs
                .get(name)
                .map(|pair| FailoverSettings { threshold: 1, failback_after: pair.failback_after }),
            ListenerTarget::PrimarySecondary { failover_threshold, failback_after, .. } => {
                Some(FailoverSettings {
                    threshold: usize::from(*failover_threshold),
                    failback_after: *failback_after,
                })
            }
        }
    }

    /// The servers of a group, on a side. Validation guarantees that the group exists.
    fn group(&self, name: &Name, side: Side) -> impl Iterator<Item = ListenerServer> + 'a {
        let servers = self.groups.get(name).map(|group| group.servers.as_slice()).unwrap_or_default();
        servers.iter().map(move |server| {
            let address = SocketAddr::new(server.address, server.port);
            let member = ListenerServer::new(address, side, server.weight.value());
            ListenerServer { quic_server_id: server.quic_server_id, ..member }
        })
    }

    fn slots(&self, name: &Name) -> TableSize {
        self.groups.get(name).map_or(TableSize::DEFAULT, |group| group.table_size)
    }
}

/// The named group of a listener on a side; `None` for the default server group.
pub(super) const fn group_of(listener: &Listener, side: Side) -> Option<&Name> {
    match &listener.target {
        ListenerTarget::DefaultGroup { .. } => None,
        ListenerTarget::ServerGroup(name) | ListenerTarget::PrimarySecondaryGroup(name) => Some(name),
        ListenerTarget::PrimarySecondary { primary, secondary, .. } => Some(match side {
            Side::Primary => primary,
            Side::Secondary => secondary,
        }),
    }
}

/// Failover settings of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FailoverSettings {
    /// Unhealthy primary servers at which traffic goes to the secondary side.
    pub(super) threshold: usize,
    pub(super) failback_after: Duration,
}

/// The override of a server in a group, with its configuration entry. Without an override, `None` and an empty setting.
pub(super) fn server_override(
    member: &ListenerServer,
    group: Option<GroupRef<'_>>,
    overrides: Option<&Overrides>,
) -> (Option<OverrideKey>, ServerOverride) {
    let set = overrides.filter(|overrides| !overrides.is_empty()).and_then(|overrides| {
        let override_key = OverrideKey::of_server(group?, member.address);
        let setting = *overrides.get(&override_key)?;
        Some((override_key, setting))
    });
    set.map_or_else(Default::default, |(override_key, setting)| (Some(override_key), setting))
}
