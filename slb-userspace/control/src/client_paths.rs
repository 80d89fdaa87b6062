//! Client paths of mode `nat`. A flow's entry stores the next hop to the client. The data path looks it up when the
//! flow begins, and when its packets come from elsewhere than before. While the client is silent, its entry follows
//! the kernel's route: to another gateway, or to a gateway's new hardware address.
//!
//! [`Samples`] finds representative clients, and [`Paths`] detects changes of the kernel's next hops to them.
//! [`PathChanges`] maps each flow to its new path. A flow whose path is not the kernel's next hop keeps its path.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use slb_common::abi::{Address, flow::ClientPath, mac_word};

use crate::dataplane::state::to_ip;
use crate::inputs::NextHop;

/// Samples at most. For each, SLB asks the kernel for the route and verifies the neighbour.
const MAX_SAMPLES: usize = 256;
/// Groups counted at most, from which the samples are chosen.
const MAX_COUNTED: usize = 16 * MAX_SAMPLES;

/// Addresses of no host (RFC 5737, RFC 3849) behind the default routes. With them the default gateways are known before
/// the first client.
const DEFAULT_ROUTE: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Addresses that share their routes: /24 in IPv4, /48 in IPv6, the longest prefixes in routing between networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(IpAddr);

impl Prefix {
    fn of(address: IpAddr) -> Self {
        Self(match address {
            IpAddr::V4(address) => IpAddr::V4((u32::from(address) & 0xffff_ff00).into()),
            IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 80 << 80).into()),
        })
    }
}

/// The client path by a next hop of the kernel.
fn path(hop: &NextHop) -> ClientPath {
    ClientPath::new(hop.interface_index, mac_word(hop.destination_mac))
}

/// Clients sampled in a GC pass. One client represents all with the same client path and prefix. A client on the link
/// represents itself only.
#[derive(Debug)]
pub struct Samples<'a> {
    on_link: &'a BTreeSet<Prefix>,
    found: HashMap<(ClientPath, IpAddr), (IpAddr, u32)>,
}

impl<'a> Samples<'a> {
    /// No samples yet. Clients in the prefixes `on_link` are on the link.
    pub fn new(on_link: &'a BTreeSet<Prefix>) -> Self {
        Self { on_link, found: HashMap::new() }
    }

    /// Counts a flow of a client.
    pub fn note(&mut self, client: &Address, path: ClientPath) {
        let client = to_ip(client);
        let prefix = Prefix::of(client);
        let is_on_link = self.on_link.contains(&prefix);
        let is_itself = is_on_link || path.mac() == 0;
        let key = (path, if is_itself { client } else { prefix.0 });
        let is_full = self.found.len() >= MAX_COUNTED;
        if is_full && !self.found.contains_key(&key) {
            return;
        }
        let (sample, count) = self.found.entry(key).or_insert((client, 0));
        // The lowest address, so that each pass chooses the same sample.
        *sample = client.min(*sample);
        *count = count.saturating_add(1);
    }

    /// The samples with the most flows. At most half have an unresolved path, because forged sources can create any
    /// number of these.
    pub fn chosen(self) -> BTreeSet<IpAddr> {
        let found = self.found.into_iter().map(|((path, _), found)| (path.mac() == 0, found));
        let (mut unresolved, mut resolved): (Vec<_>, Vec<_>) =
            found.partition(|(is_unresolved, _)| *is_unresolved);
        for found in [&mut unresolved, &mut resolved] {
            found.sort_unstable_by_key(|(_, (sample, count))| (std::cmp::Reverse(*count), *sample));
        }
        let unresolved = unresolved.into_iter().take(MAX_SAMPLES / 2);
        let chosen = unresolved.chain(resolved).take(MAX_SAMPLES).map(|(_, (sample, _))| sample);
        chosen.chain(DEFAULT_ROUTE).collect()
    }
}

/// The kernel's last known next hops to the samples.
#[derive(Debug, Default)]
pub struct Paths {
    last: BTreeMap<IpAddr, NextHop>,
    on_link: BTreeSet<Prefix>,
}

impl Paths {
    /// Prefixes with a sample on the link.
    pub fn on_link(&self) -> &BTreeSet<Prefix> {
        &self.on_link
    }

    /// Replaces the next hops by `hops`, with `None` for a sample that has none now, and returns the changed paths. A
    /// sample keeps its last next hop while it has none through an interface that `is_attached`.
    pub fn update<'a>(
        &mut self,
        hops: impl Iterator<Item = (IpAddr, Option<&'a NextHop>)>,
        is_attached: impl Fn(u32) -> bool,
    ) -> PathChanges {
        let (mut changes, mut last) = (PathChanges::default(), BTreeMap::new());
        for (sample, hop) in hops {
            let before = self.last.remove(&sample);
            let usable = hop.filter(|hop| is_attached(hop.interface_index)).or(before.as_ref());
            let Some(hop) = usable.cloned() else { continue };
            if let Some(before) = before {
                changes.note(sample, &before, &hop);
            }
            last.insert(sample, hop);
        }
        self.last = last;
        let on_link = self.last.iter().filter(|(_, hop)| !hop.through_gateway);
        self.on_link = on_link.map(|(sample, _)| Prefix::of(*sample)).collect();
        changes
    }
}

/// Changed client paths: from the path before to the present one.
#[derive(Debug, Default)]
pub struct PathChanges {
    has_changes: bool,
    /// For samples on the link.
    by_client: BTreeMap<(ClientPath, IpAddr), ClientPath>,
    /// For samples behind gateways, by prefix.
    by_prefix: BTreeMap<(ClientPath, Prefix), ClientPath>,
    /// The new path that all samples behind a gateway share, by family (`true` for IPv4). If they differ, the path
    /// stays.
    by_path: BTreeMap<(ClientPath, bool), ClientPath>,
    on_link: BTreeSet<Prefix>,
}

impl PathChanges {
    /// Whether no path has changed.
    pub fn is_empty(&self) -> bool {
        !self.has_changes
    }

    fn note(&mut self, sample: IpAddr, before: &NextHop, hop: &NextHop) {
        let (from, to, prefix) = (path(before), path(hop), Prefix::of(sample));
        self.has_changes |= from != to;
        if !before.through_gateway {
            self.on_link.insert(prefix);
            self.by_client.insert((from, sample), to);
            return;
        }
        if !DEFAULT_ROUTE.contains(&sample) {
            self.by_prefix.insert((from, prefix), to);
        }
        let common = self.by_path.entry((from, sample.is_ipv4())).or_insert(to);
        if *common != to {
            *common = from;
        }
    }

    /// The new path of a flow; `None` if its path stays.
    pub fn to(&self, client: &Address, path: ClientPath) -> Option<ClientPath> {
        let client = to_ip(client);
        let prefix = Prefix::of(client);
        let of_prefix = || self.by_prefix.get(&(path, prefix));
        let of_path =
            || self.by_path.get(&(path, client.is_ipv4())).filter(|_| !self.on_link.contains(&prefix));
        let to = self.by_client.get(&(path, client)).or_else(of_prefix).or_else(of_path)?;
        (*to != path).then_some(*to)
    }
}

#[cfg(test)]
mod tests;
