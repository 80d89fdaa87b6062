//! Keeps next hops in use while the kernel resolves them again. Pure.
//!
//! A deleted neighbour entry, or a link or route that is briefly absent, proves nothing about a server: the kernel
//! queues packets meanwhile and loses none. A next hop that was good is therefore used until the kernel reports
//! otherwise.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Link, Mac, NextHop, Resolution, Unresolved,
    kernel::{Neighbour, NeighbourKey},
};

/// How long a next hop without a usable neighbour entry stays in use if the kernel reports no failure. The kernel
/// reports it within 3 s. Exceptions: the table is full, or `mcast_solicit` or `retrans_time_ms` are changed.
const NEIGHBOUR_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a next hop stays in use after its link or route has gone. No network converges faster, and no check notices
/// less.
const BLIP_TIMEOUT: Duration = Duration::from_millis(250);

/// The last good value, and since when it has been in doubt.
#[derive(Debug)]
struct LastGood<T> {
    last: T,
    since: Option<Instant>,
}

impl<T> LastGood<T> {
    fn good(last: T) -> Self {
        Self { last, since: None }
    }

    /// Marks it as in doubt. Returns since when it has been.
    fn doubt(&mut self, now: Instant) -> Instant {
        *self.since.get_or_insert(now)
    }
}

/// Next hops in use, including those that the kernel's tables lack.
#[derive(Debug, Default)]
pub(super) struct NextHopCache {
    /// The last usable MAC address of each neighbour.
    macs: HashMap<NeighbourKey, LastGood<Mac>>,
    /// Neighbours whose resolution has failed and that have not answered since.
    failed: HashSet<NeighbourKey>,
    /// The last next hop to each destination, with its neighbour.
    hops: BTreeMap<IpAddr, LastGood<(NeighbourKey, NextHop)>>,
    /// When the first next hop in doubt expires.
    due: Option<Instant>,
}

impl NextHopCache {
    /// The kernel reports that a neighbour has failed.
    pub(super) fn fail(&mut self, key: NeighbourKey) {
        self.failed.insert(key);
    }

    /// The kernel reports a deleted entry. It reports such an entry as failed first, which is then no verdict.
    pub(super) fn delete(&mut self, key: NeighbourKey) {
        self.failed.remove(&key);
    }

    /// Whether the resolution of a neighbour has failed.
    pub(super) fn has_failed(&self, key: &NeighbourKey) -> bool {
        self.failed.contains(key)
    }

    /// Processes the kernel's entries of all neighbours that routes lead to.
    pub(super) fn update(&mut self, entries: &HashMap<NeighbourKey, Option<Neighbour>>, now: Instant) {
        for (&key, entry) in entries {
            match entry {
                Some(Neighbour { mac: Some(mac), .. }) => {
                    self.failed.remove(&key);
                    self.macs.insert(key, LastGood::good(*mac));
                    continue;
                }
                Some(Neighbour { failed: true, .. }) => self.fail(key),
                _ => {}
            }
            let is_over = |held: &mut LastGood<Mac>| now >= held.doubt(now) + NEIGHBOUR_TIMEOUT;
            if self.failed.contains(&key) || self.macs.get_mut(&key).is_some_and(is_over) {
                self.macs.remove(&key);
            }
        }
        // When a route returns after a short absence, it has the same neighbour.
        let used: HashSet<_> = self.hops.values().map(|held| held.last.0).collect();
        self.macs.retain(|key, _| entries.contains_key(key) || used.contains(key));
        self.failed.retain(|key| entries.contains_key(key));
    }

    /// The MAC address to use for a neighbour.
    pub(super) fn mac(&self, key: &NeighbourKey) -> Option<Mac> {
        self.macs.get(key).map(|held| held.last)
    }

    /// Begins a round of [`Self::resolve`], which is called once for each watched destination.
    pub(super) fn begin(&mut self, is_watched: impl Fn(&IpAddr) -> bool) {
        self.due = None;
        self.hops.retain(|destination, _| is_watched(destination));
    }

    /// When the first next hop in doubt expires, of which no notification may follow.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The next hop to use to a destination. `found` is the result from the kernel's tables, `neighbour` the route's
    /// neighbour.
    pub(super) fn resolve(
        &mut self,
        destination: IpAddr,
        found: Resolution,
        neighbour: Option<NeighbourKey>,
        links: &HashMap<u32, Link>,
        now: Instant,
    ) -> Resolution {
        let why = match (found, neighbour) {
            (Resolution::Resolved(hop), Some(key)) => {
                self.hops.insert(destination, LastGood::good((key, hop.clone())));
                return Resolution::Resolved(hop);
            }
            (Resolution::Resolved(hop), None) => return Resolution::Resolved(hop),
            (Resolution::Unresolved(why), _) => why,
        };
        let is_link_away = matches!(why, Unresolved::InterfaceDown { .. });
        let is_blip = is_link_away || why == Unresolved::NoRoute;
        if let Some(held) = self.hops.get_mut(&destination) {
            // The route has moved to another neighbour, which has neither answered nor failed yet.
            let is_migrating = neighbour.is_some_and(|key| key != held.last.0 && !self.failed.contains(&key));
            let bound = match why {
                _ if is_blip => BLIP_TIMEOUT,
                Unresolved::NoNeighbour { .. } | Unresolved::NeighbourTableFull { .. } if is_migrating => {
                    NEIGHBOUR_TIMEOUT
                }
                _ => Duration::ZERO,
            };
            let until = held.doubt(now) + bound;
            let hop = &held.last.1;
            if let Some(Link { mac: Some(source_mac), mtu, up, .. }) = links.get(&hop.interface_index)
                && (*up || is_blip)
                && now < until
            {
                self.due = Some(self.due.map_or(until, |due| due.min(until)));
                return Resolution::Resolved(NextHop {
                    source_mac: *source_mac,
                    mtu: hop.mtu.min(*mtu),
                    ..hop.clone()
                });
            }
            self.hops.remove(&destination);
        }
        if is_link_away && let Some(key) = neighbour {
            // When the link returns, another machine may be connected to it.
            self.macs.remove(&key);
        }
        Resolution::Unresolved(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];
    const SERVER: [u8; 4] = [198, 51, 100, 1];
    const MS: Duration = Duration::from_millis(1);
    /// MTU of the route to the server, for a resolved next hop and for a cached one.
    const ROUTE_MTU: u32 = 1400;

    /// The kernel's tables, for one server behind a gateway.
    struct KernelTables {
        cache: NextHopCache,
        links: HashMap<u32, Link>,
        gateway: Option<NeighbourKey>,
        begun: Instant,
    }

    fn gateway(n: u8) -> NeighbourKey {
        (u32::from(n), IpAddr::from([192, 0, 2, n]))
    }

    impl KernelTables {
        /// The server is behind gateway 1, on link 1. There is a gateway 2, on link 2.
        fn new() -> Self {
            let link = |index: u32| Link {
                mac: Some([2, 0, 0, 0, 1, 0]),
                ..Link::sample(index, &format!("eth{index}"))
            };
            let links = HashMap::from([(1, link(1)), (2, link(2))]);
            let mut tables = Self {
                cache: NextHopCache::default(),
                links,
                gateway: Some(gateway(1)),
                begun: Instant::now(),
            };
            assert_eq!(tables.at(0, Some(MAC)), Ok(1));
            tables
        }

        /// The interface in use `ms` after the beginning, if the gateway's entry has this address.
        fn at(&mut self, ms: u32, mac: Option<Mac>) -> Result<u32, Unresolved> {
            let now = self.begun + ms * MS;
            let entry = mac.map(|mac| Neighbour { mac: Some(mac), dynamic: true, failed: false });
            self.cache.update(&self.gateway.into_iter().map(|key| (key, entry)).collect(), now);
            self.cache.begin(|_| true);
            let found = self.found();
            match self.cache.resolve(SERVER.into(), found, self.gateway, &self.links, now) {
                Resolution::Resolved(hop) => {
                    assert_eq!(hop.mtu, ROUTE_MTU);
                    Ok(hop.interface_index)
                }
                Resolution::Unresolved(why) => Err(why),
            }
        }

        fn found(&self) -> Resolution {
            let Some(key) = self.gateway else { return Resolution::Unresolved(Unresolved::NoRoute) };
            let link = &self.links[&key.0];
            let interface = link.name.clone();
            match self.cache.mac(&key) {
                _ if !link.up => Resolution::Unresolved(Unresolved::InterfaceDown { interface }),
                None => Resolution::Unresolved(Unresolved::NoNeighbour {
                    next_hop: key.1,
                    interface,
                    has_failed: self.cache.has_failed(&key),
                }),
                Some(destination_mac) => Resolution::Resolved(NextHop {
                    interface_index: key.0,
                    interface,
                    source_mac: link.mac.unwrap(),
                    destination_mac,
                    mtu: link.mtu.min(ROUTE_MTU),
                    through_gateway: true,
                }),
            }
        }
    }

    #[test]
    fn missing_neighbour_entry_is_used_until_it_fails() {
        let mut tables = KernelTables::new();
        assert_eq!(tables.at(50, None), Ok(1));
        assert_eq!(tables.at(3000, None), Ok(1));
        tables.cache.fail(gateway(1));
        assert!(tables.at(3001, None).is_err());
        tables.cache.delete(gateway(1));
        assert!(tables.at(3002, None).is_err(), "the verdict stands though the entry is gone");
        assert_eq!(tables.at(4000, Some(MAC)), Ok(1));
    }

    #[test]
    fn deleted_neighbour_entry_has_not_failed() {
        let mut tables = KernelTables::new();
        tables.cache.fail(gateway(1));
        tables.cache.delete(gateway(1));
        assert_eq!(tables.at(50, None), Ok(1));
    }

    #[test]
    fn missing_neighbour_entry_is_used_for_10_seconds_at_most() {
        let mut tables = KernelTables::new();
        assert_eq!(tables.at(50, None), Ok(1));
        assert_eq!(tables.at(10_049, None), Ok(1));
        assert!(tables.at(10_050, None).is_err());
        assert!(tables.at(10_051, None).is_err());
    }

    #[test]
    fn link_down_for_300_ms_ends_its_next_hops() {
        let mut tables = KernelTables::new();
        tables.links.get_mut(&1).unwrap().up = false;
        assert_eq!(tables.at(50, None), Ok(1));
        assert_eq!(tables.cache.due(), Some(tables.begun + 300 * MS));
        assert_eq!(tables.at(299, None), Ok(1));
        assert!(tables.at(300, None).is_err());
        tables.links.get_mut(&1).unwrap().up = true;
        assert!(tables.at(400, None).is_err(), "another machine may be behind it");
        assert_eq!(tables.at(500, Some(MAC)), Ok(1));
    }

    #[test]
    fn removed_link_ends_its_next_hops_at_once() {
        let mut tables = KernelTables::new();
        tables.links.remove(&1);
        tables.gateway = None;
        assert_eq!(tables.at(50, None), Err(Unresolved::NoRoute));
    }

    /// Like a local interface that is set down and up: its routes and entries vanish.
    #[test]
    fn brief_loss_of_route_and_neighbour_entry_changes_nothing() {
        let mut tables = KernelTables::new();
        tables.gateway = None;
        assert_eq!(tables.at(50, None), Ok(1));
        tables.gateway = Some(gateway(1));
        assert_eq!(tables.at(100, None), Ok(1));
        assert_eq!(tables.at(200, Some(MAC)), Ok(1));
        tables.gateway = None;
        assert_eq!(tables.at(300, None), Ok(1));
        assert_eq!(tables.at(550, None), Err(Unresolved::NoRoute));
    }

    #[test]
    fn changed_route_uses_the_old_gateway_until_the_new_one_answers() {
        for fails in [false, true] {
            let mut tables = KernelTables::new();
            tables.gateway = Some(gateway(2));
            assert_eq!(tables.at(50, None), Ok(1));
            if fails {
                tables.cache.fail(gateway(2));
                assert!(tables.at(3000, None).is_err());
            } else {
                assert_eq!(tables.at(100, Some(MAC)), Ok(2));
            }
        }
        let mut tables = KernelTables::new();
        tables.gateway = Some(gateway(2));
        tables.links.get_mut(&1).unwrap().up = false;
        assert!(tables.at(50, None).is_err(), "the old one cannot be reached");
    }
}
