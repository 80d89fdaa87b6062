//! Ids of configured objects, and names of access lists, by names of objects, which is what the maps hold.

use std::collections::BTreeMap;

use slb_config::model::{Config, Id, Name};
use slb_control::model::ListenerId;

/// Ids by name. Without a configuration nothing has an id.
#[derive(Debug, Default)]
pub(super) struct ConfiguredIds<'a> {
    load_balancers: BTreeMap<&'a str, &'a Id>,
    listeners: BTreeMap<(&'a str, &'a str), &'a Id>,
    groups: BTreeMap<&'a str, &'a Id>,
    /// Names of access lists, by the names of load balancer and listener.
    access_lists: BTreeMap<(&'a str, &'a str), &'a Name>,
}

impl<'a> ConfiguredIds<'a> {
    pub(super) fn of(config: &'a Config) -> Self {
        let mut ids = Self::default();
        for balancer in &config.load_balancers {
            ids.load_balancers.insert(balancer.name.as_str(), &balancer.id);
            for listener in &balancer.listeners {
                let names = (balancer.name.as_str(), listener.name.as_str());
                ids.listeners.insert(names, &listener.id);
                ids.access_lists.extend(listener.access.as_ref().map(|access| (names, &access.list)));
            }
        }
        let pairs = config.primary_secondary_groups.iter().map(|group| (group.name.as_str(), &group.id));
        ids.groups
            .extend(config.server_groups.iter().map(|group| (group.name.as_str(), &group.id)).chain(pairs));
        ids
    }

    pub(super) fn load_balancer(&self, name: &str) -> Option<&'a Id> {
        self.load_balancers.get(name).copied()
    }

    /// A listener by its load balancer's name and its own.
    pub(super) fn listener(&self, load_balancer: &str, name: &str) -> Option<ListenerId> {
        Some(ListenerId {
            load_balancer: self.load_balancer(load_balancer)?.clone(),
            listener: (*self.listeners.get(&(load_balancer, name))?).clone(),
        })
    }

    /// The access list of a listener, by the names of load balancer and listener.
    pub(super) fn access_list(&self, load_balancer: &str, name: &str) -> Option<&'a Name> {
        self.access_lists.get(&(load_balancer, name)).copied()
    }

    /// A group of either kind.
    pub(super) fn group(&self, name: &str) -> Option<&'a Id> {
        self.groups.get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slb_config::samples::shop;

    #[test]
    fn ids_are_found_by_the_names_of_objects_that_were_renamed() {
        let config = shop(&[
            ("name = \"shop\"", "id = \"shop\"\nname = \"store\""),
            ("name = \"dns\"", "id = \"dns\"\nname = \"names\""),
            ("name = \"web\"\nservers", "id = \"g1\"\nname = \"web\"\nservers"),
        ]);
        let ids = ConfiguredIds::of(&config);
        let id = |id: Option<&Id>| id.map(ToString::to_string);
        assert_eq!(id(ids.load_balancer("store")).as_deref(), Some("shop"));
        assert_eq!(id(ids.load_balancer("shop")), None);
        assert_eq!(id(ids.group("web")).as_deref(), Some("g1"));
        let names = ids.listener("store", "names").unwrap();
        assert_eq!((names.load_balancer.as_str(), names.listener.as_str()), ("shop", "dns"));
        assert_eq!(ids.listener("store", "dns"), None);
        assert_eq!(ConfiguredIds::default().listener("store", "names"), None);
    }
}
