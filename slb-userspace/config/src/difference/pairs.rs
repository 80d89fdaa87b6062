//! Matches objects of two configurations, including renamed ones. Pure.

use std::collections::{BTreeMap, VecDeque};

use crate::model::{Config, LoadBalancer, Name, PrimarySecondaryGroup, ServerGroup};

/// Renamed objects: new names by old name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Renames {
    /// Load balancers with the same VIPs.
    pub load_balancers: BTreeMap<String, String>,
    /// Server groups with the same servers.
    pub server_groups: BTreeMap<String, String>,
    /// Primary/secondary server groups with the same servers.
    pub primary_secondary_groups: BTreeMap<String, String>,
}

/// Finds the objects that have another name in `new` than in `old`.
pub fn renames(old: &Config, new: &Config) -> Renames {
    Renames {
        load_balancers: renamed(&balancers(old, new), |balancer| &balancer.name),
        server_groups: renamed(&groups(old, new), |group| &group.name),
        primary_secondary_groups: renamed(&primary_secondary_groups(old, new), |group| &group.name),
    }
}

fn renamed<T>(pairs: &Pairs<'_, T>, name: impl Fn(&T) -> &Name) -> BTreeMap<String, String> {
    let names = pairs.both.iter().map(|(before, after)| (name(before), name(after)));
    let names = names.filter(|(before, after)| before != after);
    names.map(|(before, after)| (before.to_string(), after.to_string())).collect()
}

pub(super) fn balancers<'a>(old: &'a Config, new: &'a Config) -> Pairs<'a, LoadBalancer> {
    let by_addresses = |balancer: &LoadBalancer| {
        let mut addresses = balancer.addresses.clone();
        addresses.sort();
        addresses
    };
    Pairs::of(&old.load_balancers, &new.load_balancers, |balancer| balancer.name.clone(), by_addresses)
}

pub(super) fn groups<'a>(old: &'a Config, new: &'a Config) -> Pairs<'a, ServerGroup> {
    let by_servers = |group: &ServerGroup| {
        let servers = group.servers.iter();
        let mut servers: Vec<_> = servers.map(|server| (server.address, server.port)).collect();
        servers.sort();
        servers
    };
    Pairs::of(&old.server_groups, &new.server_groups, |group| group.name.clone(), by_servers)
}

pub(super) fn primary_secondary_groups<'a>(
    old: &'a Config,
    new: &'a Config,
) -> Pairs<'a, PrimarySecondaryGroup> {
    let (old, new) = (&old.primary_secondary_groups, &new.primary_secondary_groups);
    Pairs::of(old, new, |pair| pair.name.clone(), |pair| (pair.primary, pair.secondary))
}

/// Objects in both lists or in one of them, in the order of the lists.
pub(super) struct Pairs<'a, T> {
    pub(super) both: Vec<(&'a T, &'a T)>,
    pub(super) removed: Vec<&'a T>,
    pub(super) added: Vec<&'a T>,
}

impl<'a, T> Pairs<'a, T> {
    /// Pairs objects of the same name. Of the rest it pairs those that are otherwise equal: they were renamed.
    pub(super) fn of<N: Ord, I: Ord>(
        old: &'a [T],
        new: &'a [T],
        name: impl Fn(&T) -> N,
        identity: impl Fn(&T) -> I,
    ) -> Self {
        let (mut both, removed, added) = paired(old.iter(), new.iter(), name);
        let (renamed, removed, added) = paired(removed.into_iter(), added.into_iter(), identity);
        both.extend(renamed);
        Self { both, removed, added }
    }
}

type Paired<'a, T> = (Vec<(&'a T, &'a T)>, Vec<&'a T>, Vec<&'a T>);

fn paired<'a, T, K: Ord>(
    old: impl Iterator<Item = &'a T>,
    new: impl Iterator<Item = &'a T>,
    key: impl Fn(&T) -> K,
) -> Paired<'a, T> {
    let new: Vec<_> = new.collect();
    // Equal objects are paired in their order.
    let mut by_key: BTreeMap<K, VecDeque<usize>> = BTreeMap::new();
    for (index, item) in new.iter().enumerate() {
        by_key.entry(key(item)).or_default().push_back(index);
    }
    let (mut both, mut removed) = (Vec::new(), Vec::new());
    let mut taken = vec![false; new.len()];
    for item in old {
        match by_key.get_mut(&key(item)).and_then(VecDeque::pop_front) {
            Some(index) => {
                taken[index] = true;
                both.push((item, new[index]));
            }
            None => removed.push(item),
        }
    }
    let added = new.into_iter().zip(taken).filter(|(_, taken)| !taken).map(|(item, _)| item).collect();
    (both, removed, added)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_with_equal_keys_are_paired_in_order() {
        let (old, new) = (["a", "b", "long"], ["c", "longer", "d"]);
        let (both, removed, added) = paired(old.iter(), new.iter(), |name| name.len());
        assert_eq!(both, [(&"a", &"c"), (&"b", &"d")]);
        assert_eq!((removed, added), (vec![&"long"], vec![&"longer"]));
    }
}
