//! Which service a desired one continues: that of the same VIP, ports and protocol. Pure.
//!
//! Both ends of a port range may change. A range continues, in this order: that of the same listener, if they overlap;
//! that with the same key; that with the most ports in common; that of the same listener without common ports. Two ranges
//! never continue the same one. A service that continues another has its id, so that flows, health and failover state
//! stay.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use slb_common::abi::{ids::ServiceId, ports::Ports, protocol::IpProtocol, service::Service, unpad_name};

use crate::{
    dataplane::state::{MapState, to_ip},
    model::{Desired, DesiredService, ServiceKey},
};
use slb_config::model::{Config, Listener};

/// What tells which service another one continues.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ServiceIdentity {
    vip: IpAddr,
    protocol: IpProtocol,
    ports: Ports,
    /// Names of load balancer and listener.
    names: [String; 2],
}

impl ServiceIdentity {
    /// That of a service in the maps; `None` if its protocol is none of a service.
    pub(super) fn of_actual(service: &Service) -> Option<Self> {
        let names = [&service.load_balancer, &service.listener];
        Some(Self {
            vip: to_ip(&service.address),
            protocol: service.protocol()?,
            ports: service.ports(),
            names: names.map(|name| unpad_name(name).unwrap_or_default().to_owned()),
        })
    }

    /// That of a desired service.
    pub(super) fn of_desired(service: &DesiredService) -> Self {
        Self {
            vip: service.address,
            protocol: service.protocol,
            ports: service.port,
            names: [service.load_balancer.clone(), service.listener.clone()],
        }
    }

    /// Those of all listeners of a configuration, at each VIP.
    pub(super) fn of_config(config: &Config) -> impl Iterator<Item = Self> {
        let balancers = config.load_balancers.iter();
        let listeners = balancers
            .flat_map(|balancer| balancer.listeners.iter().map(move |listener| (balancer, listener)));
        listeners.flat_map(|(balancer, listener)| {
            balancer.addresses.iter().map(|vip| Self {
                vip: *vip,
                protocol: listener.protocol.ip(),
                ports: listener.port,
                names: [balancer.name.to_string(), listener.name.to_string()],
            })
        })
    }

    /// The key of the range among `known` that has most ports in common with that of a listener at a VIP.
    pub(super) fn range_before(
        known: &BTreeSet<Self>,
        listener: &Listener,
        vip: IpAddr,
    ) -> Option<ServiceKey> {
        let (protocol, ports) = (listener.protocol.ip(), listener.port);
        let range = Self { vip, protocol, ports, names: Default::default() };
        let beside =
            known.iter().filter(|it| (it.vip, it.protocol) == (vip, protocol) && it.ports.is_range());
        // A listener without a change finds itself.
        let order = |it: &&Self| (it.ports == ports, range.common_ports(it));
        beside.filter(|it| range.common_ports(it) > 0).max_by_key(order).map(Self::key)
    }

    pub(super) const fn key(&self) -> ServiceKey {
        (self.vip, self.ports.key(), self.protocol)
    }

    /// Ports that both have.
    fn common_ports(&self, other: &Self) -> u32 {
        let (first, last) =
            (self.ports.first().max(other.ports.first()), self.ports.last().min(other.ports.last()));
        (u32::from(last) + 1).saturating_sub(first.into())
    }
}

/// Which service of an earlier state each present one continues, by their keys.
#[derive(Debug, Default)]
pub(super) struct ContinuedServices(BTreeMap<ServiceKey, ServiceKey>);

impl ContinuedServices {
    /// Compares all services of both states.
    pub(super) fn new(
        present: impl IntoIterator<Item = ServiceIdentity>,
        earlier: impl IntoIterator<Item = ServiceIdentity>,
    ) -> Self {
        let (present, mut ranges) = split(present);
        let (earlier, mut earlier_ranges) = split(earlier);
        let mut continued: BTreeMap<_, _> = present.intersection(&earlier).map(|key| (*key, *key)).collect();
        for (end, present) in &mut ranges {
            if let Some(earlier) = earlier_ranges.get_mut(end) {
                continue_ranges(present, earlier, &mut continued);
            }
        }
        Self(continued)
    }

    /// The key that a service had; `None` for a new one.
    pub(super) fn key_before(&self, key: ServiceKey) -> Option<ServiceKey> {
        self.0.get(&key).copied()
    }
}

/// Ranges by VIP and protocol.
type Ranges = BTreeMap<(IpAddr, IpProtocol), Vec<ServiceIdentity>>;

/// The keys of single ports, and the ranges.
fn split(all: impl IntoIterator<Item = ServiceIdentity>) -> (BTreeSet<ServiceKey>, Ranges) {
    let (mut single, mut ranges) = (BTreeSet::new(), Ranges::new());
    for identity in all {
        if identity.ports.is_range() {
            ranges.entry((identity.vip, identity.protocol)).or_default().push(identity);
        } else {
            single.insert(identity.key());
        }
    }
    (single, ranges)
}

/// Adds the ranges of one VIP and protocol that continue earlier ones, and removes both.
fn continue_ranges(
    present: &mut Vec<ServiceIdentity>,
    earlier: &mut Vec<ServiceIdentity>,
    continued: &mut BTreeMap<ServiceKey, ServiceKey>,
) {
    let rules: [fn(&ServiceIdentity, &ServiceIdentity) -> bool; 4] = [
        |one, other| one.names == other.names && one.common_ports(other) > 0,
        |one, other| one.key() == other.key(),
        |one, other| one.common_ports(other) > 0,
        |one, other| one.names == other.names,
    ];
    for continues in rules {
        let widest = |present: &[ServiceIdentity], earlier: &[ServiceIdentity]| {
            let pairs = (0..present.len()).flat_map(|one| (0..earlier.len()).map(move |other| (one, other)));
            let pairs = pairs.filter(|(one, other)| continues(&present[*one], &earlier[*other]));
            pairs.max_by_key(|(one, other)| present[*one].common_ports(&earlier[*other]))
        };
        while let Some((one, other)) = widest(present, earlier) {
            continued.insert(present.remove(one).key(), earlier.remove(other).key());
        }
    }
}

/// The services of the maps, by the key of the desired service that continues each.
pub(super) struct KnownServices<'a> {
    /// The maps.
    pub(super) actual: &'a MapState,
    by_key: BTreeMap<ServiceKey, (ServiceId, &'a Service)>,
}

impl<'a> KnownServices<'a> {
    pub(super) fn new(desired: &Desired, actual: &'a MapState) -> Self {
        Self::among(desired.services.iter().map(ServiceIdentity::of_desired), actual)
    }

    /// Those that these services continue.
    pub(super) fn among(present: impl IntoIterator<Item = ServiceIdentity>, actual: &'a MapState) -> Self {
        let services = || {
            let all = actual.services.iter();
            all.filter_map(|(id, service)| Some((ServiceIdentity::of_actual(service)?, (*id, service))))
        };
        let continued = ContinuedServices::new(present, services().map(|(identity, _)| identity));
        let before: BTreeMap<_, _> = services().map(|(identity, there)| (identity.key(), there)).collect();
        let continued = continued.0.iter();
        let by_key = continued.filter_map(|(key, earlier)| Some((*key, *before.get(earlier)?))).collect();
        Self { actual, by_key }
    }

    /// The service that a desired one continues.
    pub(super) fn of(&self, desired: &DesiredService) -> Option<(ServiceId, &'a Service)> {
        self.at(desired.key())
    }

    /// The service that the one with this key continues.
    pub(super) fn at(&self, key: ServiceKey) -> Option<(ServiceId, &'a Service)> {
        self.by_key.get(&key).copied()
    }
}
