//! Which listeners use a server group. This identifies a group that has changed both name and servers. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use slb_common::abi::unpad_name;

use super::OverrideKey;
use crate::{
    dataplane::state::MapState,
    ids::key_of,
    listener_servers::Side::{self, Primary, Secondary},
};
use slb_config::model::{Config, ListenerTarget};

/// A use of a group: VIP, port and protocol number of a listener, and the side.
type GroupUse = (IpAddr, u16, u8, Side);

/// The group of each use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct GroupUses(BTreeMap<GroupUse, UsedGroup>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum UsedGroup {
    Named(String),
    /// The default group of this load balancer.
    Default(String),
}

impl UsedGroup {
    fn has(&self, override_key: &OverrideKey) -> bool {
        match (self, override_key) {
            (Self::Named(name), OverrideKey::Group { group, .. }) => name == group,
            (Self::Default(name), OverrideKey::Default { load_balancer, .. }) => name == load_balancer,
            _ => false,
        }
    }

    /// The entry of `override_key`'s server in this group; `None` if the group is of the other kind.
    fn entry(&self, override_key: &OverrideKey) -> Option<OverrideKey> {
        match (self, override_key) {
            (Self::Named(group), OverrideKey::Group { server, .. }) => {
                Some(OverrideKey::Group { group: group.clone(), server: *server })
            }
            (Self::Default(load_balancer), OverrideKey::Default { server, .. }) => {
                Some(OverrideKey::Default { load_balancer: load_balancer.clone(), server: *server })
            }
            _ => None,
        }
    }
}

impl GroupUses {
    /// The uses in a configuration.
    pub(super) fn of(config: &Config) -> Self {
        let mut uses = BTreeMap::new();
        for balancer in &config.load_balancers {
            for listener in &balancer.listeners {
                let sides = match &listener.target {
                    ListenerTarget::DefaultGroup { .. } => {
                        vec![(Primary, UsedGroup::Default(balancer.name.to_string()))]
                    }
                    ListenerTarget::ServerGroup(name) | ListenerTarget::PrimarySecondaryGroup(name) => {
                        vec![(Primary, UsedGroup::Named(name.to_string()))]
                    }
                    ListenerTarget::PrimarySecondary { primary, secondary, .. } => vec![
                        (Primary, UsedGroup::Named(primary.to_string())),
                        (Secondary, UsedGroup::Named(secondary.to_string())),
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
    pub(super) fn from_maps(actual: &MapState) -> Self {
        let of = |service| {
            let (vip, port, protocol) = key_of(service);
            let group = match unpad_name(&service.group)? {
                "" => UsedGroup::Default(unpad_name(&service.load_balancer)?.to_owned()),
                name => UsedGroup::Named(name.to_owned()),
            };
            Some(((vip, port, protocol, Primary), group))
        };
        Self(actual.services.values().filter_map(of).collect())
    }

    /// The entries in `new` of a server whose group no longer exists: in the added groups that its listeners now use.
    pub(super) fn successors(
        &self,
        override_key: &OverrideKey,
        used: &Self,
        new: &Config,
    ) -> BTreeSet<OverrideKey> {
        if override_key.entries(new).is_some() {
            return BTreeSet::new();
        }
        let listeners = self.0.iter().filter(|(_, group)| group.has(override_key));
        let entries = listeners.filter_map(|(key, _)| used.0.get(key)?.entry(override_key));
        entries.filter(|entry| entry.exists(new) && !self.0.values().any(|group| group.has(entry))).collect()
    }
}
