//! Which listeners use a server group. This identifies a group that has changed both name and servers. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use slb_common::abi::unpad_name;

use super::Place;
use crate::{
    dataplane::state::State,
    ids::key_of,
    members::Side::{self, Primary, Secondary},
};
use slb_config::model::{Config, Target};

/// A use of a group: VIP, port and protocol number of a listener, and the side.
type Use = (IpAddr, u16, u8, Side);

/// The group of each use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Uses(BTreeMap<Use, Group>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Group {
    Named(String),
    /// The default group of this load balancer.
    Default(String),
}

impl Group {
    fn has(&self, place: &Place) -> bool {
        match (self, place) {
            (Self::Named(name), Place::Group { group, .. }) => name == group,
            (Self::Default(name), Place::Default { load_balancer, .. }) => name == load_balancer,
            _ => false,
        }
    }

    /// The entry of `place`'s server in this group; `None` if the group is of the other kind.
    fn entry(&self, place: &Place) -> Option<Place> {
        match (self, place) {
            (Self::Named(group), Place::Group { server, .. }) => {
                Some(Place::Group { group: group.clone(), server: *server })
            }
            (Self::Default(load_balancer), Place::Default { server, .. }) => {
                Some(Place::Default { load_balancer: load_balancer.clone(), server: *server })
            }
            _ => None,
        }
    }
}

impl Uses {
    /// The uses in a configuration.
    pub(super) fn of(config: &Config) -> Self {
        let mut uses = BTreeMap::new();
        for balancer in &config.load_balancers {
            for listener in &balancer.listeners {
                let sides = match &listener.target {
                    Target::DefaultGroup { .. } => vec![(Primary, Group::Default(balancer.name.to_string()))],
                    Target::ServerGroup(name) | Target::PrimarySecondaryGroup(name) => {
                        vec![(Primary, Group::Named(name.to_string()))]
                    }
                    Target::PrimarySecondary { primary, secondary, .. } => vec![
                        (Primary, Group::Named(primary.to_string())),
                        (Secondary, Group::Named(secondary.to_string())),
                    ],
                };
                for vip in &balancer.addresses {
                    let used = sides.iter().cloned();
                    let number = listener.protocol.number();
                    uses.extend(used.map(|(side, group)| ((*vip, listener.port, number, side), group)));
                }
            }
        }
        Self(uses)
    }

    /// The uses in the maps, as an earlier run left them. The maps do not name secondary groups.
    pub(super) fn found(held: &State) -> Self {
        let of = |service| {
            let (vip, port, protocol) = key_of(service);
            let group = match unpad_name(&service.group)? {
                "" => Group::Default(unpad_name(&service.load_balancer)?.to_owned()),
                name => Group::Named(name.to_owned()),
            };
            Some(((vip, port, protocol, Primary), group))
        };
        Self(held.services.values().filter_map(of).collect())
    }

    /// The entries in `new` of a server whose group no longer exists: in the added groups that its listeners now use.
    pub(super) fn followed(&self, place: &Place, used: &Self, new: &Config) -> BTreeSet<Place> {
        if place.entries(new).is_some() {
            return BTreeSet::new();
        }
        let listeners = self.0.iter().filter(|(_, group)| group.has(place));
        let entries = listeners.filter_map(|(key, _)| used.0.get(key)?.entry(place));
        entries.filter(|entry| entry.exists(new) && !self.0.values().any(|group| group.has(entry))).collect()
    }
}
