//! The resolver's view of the kernel's tables, and the next hops that follow from it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use anyhow::Result;
use rtnetlink::{packet_core::NetlinkPayload, packet_route::RouteNetlinkMessage};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{
    Link, Mac, NextHop, Resolution, Unresolved,
    kernel::{self, Kernel, KernelRoute, Neighbour, NeighbourKey},
    limits::TableLimits,
    next_hop_cache::NextHopCache,
    notifications::{Notification, NotificationBody},
};

/// Longest interval at which neighbours are solicited and everything is read.
pub(super) const REFRESH: Duration = Duration::from_secs(20);

/// Interval at which everything is read without a notification, if that takes little time. The kernel does not announce
/// path MTUs that it learns (RFC 1191, RFC 8201).
const REREAD: Duration = Duration::from_secs(2);

/// Reading everything without a notification takes at most 1/50 of the time, unless [`REFRESH`] requires it.
const REREAD_SHARE_OF_TIME: u32 = 50;

/// Interval of solicitations of a neighbour that does not answer. The kernel solicits three times, one second apart, so
/// it solicits continuously, as for traffic of its own.
pub(super) const RETRY: Duration = Duration::from_secs(3);

/// Minimum interval between verifications of a neighbour: longer than one takes.
const VERIFY: Duration = Duration::from_secs(5);

/// Reading takes at most 1/5 of the time, however often routes change.
const MAX_SHARE_OF_TIME: u32 = 5;

/// What a notification makes outdated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Staleness {
    /// Nothing.
    Nothing,
    /// Neighbour entries.
    Neighbours,
    /// Everything, including routes and links.
    Everything,
}

/// The part of the kernel's tables that concerns the watched destinations.
pub(super) struct KernelView {
    links: HashMap<u32, Link>,
    /// The route to each destination.
    routes: BTreeMap<IpAddr, KernelRoute>,
    /// Route MTUs, of destinations whose route has one.
    mtus: BTreeMap<IpAddr, u32>,
    /// Entries of the next hops in `routes`; `None` if the kernel has none.
    neighbours: HashMap<NeighbourKey, Option<Neighbour>>,
    /// Next hops that stay in use while the tables lack them.
    cache: NextHopCache,
    /// When each next hop was last solicited.
    solicited: HashMap<NeighbourKey, Instant>,
    /// Next hops for which the neighbour table was full.
    table_full: HashSet<NeighbourKey>,
    limits: TableLimits,
    /// When each next hop was last verified because of a doubt.
    verified: HashMap<NeighbourKey, Instant>,
    /// The earliest time of the next pass.
    pub(super) next_pass_at: Instant,
    /// When everything is due to be read without a notification. Passes over neighbours alone do not postpone it.
    full_due: Instant,
}

impl Default for KernelView {
    fn default() -> Self {
        Self {
            links: HashMap::new(),
            routes: BTreeMap::new(),
            mtus: BTreeMap::new(),
            neighbours: HashMap::new(),
            cache: NextHopCache::default(),
            solicited: HashMap::new(),
            table_full: HashSet::new(),
            limits: TableLimits::default(),
            verified: HashMap::new(),
            next_pass_at: Instant::now(),
            full_due: Instant::now(),
        }
    }
}

impl KernelView {
    /// Reads the kernel's tables: always neighbours, and with `everything` also routes and links.
    pub(super) async fn read(
        &mut self,
        kernel: &mut Kernel,
        destinations: &BTreeSet<IpAddr>,
        everything: bool,
    ) -> Result<()> {
        let start = Instant::now();
        if everything {
            self.links = kernel.links().await?;
            self.routes.clear();
            self.mtus.clear();
            for &destination in destinations {
                let (route, mtu) = kernel.route(destination).await?;
                self.routes.insert(destination, route);
                self.mtus.extend(mtu.map(|mtu| (destination, mtu)));
            }
        }
        let entries = kernel.neighbours().await?;
        self.neighbours = self
            .routes
            .values()
            .filter_map(|route| match route {
                KernelRoute::Via(key) => Some(*key),
                KernelRoute::None | KernelRoute::Local => None,
            })
            .map(|key| (key, entries.get(&key).copied()))
            .collect();
        self.cache.update(&self.neighbours, Instant::now());
        self.solicited.retain(|key, _| self.neighbours.contains_key(key));
        self.verified.retain(|key, _| self.neighbours.contains_key(key));
        self.note_pass(start, Instant::now(), everything);
        Ok(())
    }

    /// Sets the earliest time of the next pass, and when everything is due to be read.
    fn note_pass(&mut self, start: Instant, end: Instant, everything: bool) {
        let took = end - start;
        self.next_pass_at = end + took * (MAX_SHARE_OF_TIME - 1);
        if everything {
            self.full_due = end + (took * REREAD_SHARE_OF_TIME).clamp(REREAD, REFRESH);
        }
    }

    /// The next hop to use to each destination of the last pass over everything.
    pub(super) fn resolutions(&mut self) -> BTreeMap<IpAddr, Resolution> {
        let now = Instant::now();
        self.cache.begin(|destination| self.routes.contains_key(destination));
        let mut resolutions = BTreeMap::new();
        for (&destination, route) in &self.routes {
            let neighbour = match route {
                KernelRoute::Via(key) => Some(*key),
                KernelRoute::None | KernelRoute::Local => None,
            };
            let found = self.found(&destination, route);
            let used = self.cache.resolve(destination, found, neighbour, &self.links, now);
            resolutions.insert(destination, used);
        }
        resolutions
    }

    /// The resolution of a destination by the kernel's tables alone.
    fn found(&self, destination: &IpAddr, route: &KernelRoute) -> Resolution {
        let key = match route {
            KernelRoute::Via(key) => key,
            KernelRoute::Local => return Resolution::Unresolved(Unresolved::Local),
            KernelRoute::None => return Resolution::Unresolved(Unresolved::NoRoute),
        };
        // The link appeared after links were read, or vanished before the route was read. A notification will follow.
        let Some(link) = self.links.get(&key.0) else { return Resolution::Unresolved(Unresolved::NoRoute) };
        let interface = link.name.clone();
        let Some(source_mac) = link.mac else {
            return Resolution::Unresolved(Unresolved::NotEthernet { interface });
        };
        if !link.up {
            return Resolution::Unresolved(Unresolved::InterfaceDown { interface });
        }
        match self.cache.mac(key) {
            Some(destination_mac) => Resolution::Resolved(NextHop {
                interface_index: link.index,
                interface,
                source_mac,
                destination_mac,
                mtu: self.mtus.get(destination).map_or(link.mtu, |mtu| link.mtu.min(*mtu)),
                through_gateway: key.1 != *destination,
            }),
            None if self.table_full.contains(key) => {
                Resolution::Unresolved(Unresolved::NeighbourTableFull { next_hop: key.1 })
            }
            None => Resolution::Unresolved(Unresolved::NoNeighbour {
                next_hop: key.1,
                interface,
                has_failed: self.cache.has_failed(key),
            }),
        }
    }

    /// The MAC address in the kernel's entry.
    fn mac(&self, key: &NeighbourKey) -> Option<Mac> {
        self.neighbours.get(key).copied().flatten()?.mac
    }

    /// Solicits the next hops that are due: usable ones to keep them fresh, others to resolve them. Returns whether the
    /// set of next hops without room in the table has changed.
    pub(super) async fn solicit(&mut self, kernel: &Kernel) -> bool {
        let now = Instant::now();
        let mut failed = 0_u32;
        let mut last_error = None;
        let mut table_full = HashSet::new();
        for (&key, neighbour) in &self.neighbours {
            let ethernet = self.links.get(&key.0).is_some_and(|link| link.up && link.mac.is_some());
            let pause = match neighbour {
                // Without an entry the kernel is not soliciting.
                None => Duration::ZERO,
                Some(Neighbour { mac: None, .. }) => RETRY,
                Some(Neighbour { mac: Some(_), .. }) => REFRESH,
            };
            let asked = self.solicited.get(&key).is_some_and(|&last| now < last + pause);
            if !ethernet || asked || neighbour.is_some_and(|neighbour| !neighbour.dynamic) {
                continue;
            }
            self.solicited.insert(key, now);
            match kernel.solicit(key).await {
                Ok(true) => {}
                Ok(false) => drop(table_full.insert(key)),
                Err(error) => {
                    failed += 1;
                    last_error = Some(error);
                }
            }
        }
        if let Some(error) = last_error {
            warn!(failed, error = format!("{error:#}"), "neighbours not solicited");
        }
        self.limits.check(self.neighbours.keys().map(|key| key.1), table_full.iter().map(|key| key.1));
        let has_changed = table_full != self.table_full;
        self.table_full = table_full;
        has_changed
    }

    /// Verifies the next hop to a destination that does not answer.
    pub(super) async fn doubt(&mut self, kernel: &Kernel, destination: IpAddr) {
        let Some(KernelRoute::Via(key)) = self.routes.get(&destination).copied() else { return };
        let Some(Some(Neighbour { mac: Some(_), dynamic: true, .. })) = self.neighbours.get(&key) else {
            return;
        };
        let now = Instant::now();
        if self.verified.get(&key).is_some_and(|&last| now < last + VERIFY) {
            return;
        }
        self.verified.insert(key, now);
        if let Err(error) = kernel.verify(key).await {
            // Its entry may just have been deleted.
            debug!(error = format!("{error:#}"), "neighbour not verified");
        }
    }

    /// When the next pass is due without a notification.
    pub(super) fn next_pass(&self, now: Instant) -> Instant {
        let is_complete = self.neighbours.keys().all(|key| self.mac(key).is_some());
        let neighbours = now + if is_complete { REFRESH } else { RETRY };
        let pass = neighbours.min(self.full_due);
        self.cache.due().map_or(pass, |due| due.min(pass))
    }

    /// Whether a pass reads routes and links too.
    pub(super) fn reads_everything(&self, outdated: Staleness, now: Instant) -> bool {
        // When a cached next hop expires, the missing entry may have returned without a notification.
        let ends_hold = || outdated == Staleness::Nothing && self.cache.due().is_some_and(|due| due <= now);
        outdated == Staleness::Everything || now >= self.full_due || ends_hold()
    }

    /// Records the kernel's verdicts. Returns what a notification makes outdated.
    pub(super) fn on_notification(&mut self, notification: &Notification) -> Staleness {
        let NetlinkPayload::InnerMessage(message) = &notification.payload else {
            // An overrun: notifications were lost.
            return Staleness::Everything;
        };
        let (message, is_deleted) = match message {
            NotificationBody::Known(RouteNetlinkMessage::NewNeighbour(message)) => (message, false),
            NotificationBody::Known(RouteNetlinkMessage::DelNeighbour(message)) => (message, true),
            _ => return Staleness::Everything,
        };
        let Some((key, neighbour)) = kernel::neighbour(message) else { return Staleness::Nothing };
        if !self.neighbours.contains_key(&key) {
            return Staleness::Nothing;
        }
        let had_failed = self.cache.has_failed(&key);
        if is_deleted {
            self.cache.delete(key);
        } else if neighbour.failed {
            // The kernel may solicit again, and change the entry, before it is read.
            self.cache.fail(key);
        }
        let mac = neighbour.mac.filter(|_| !is_deleted);
        let is_conclusive = neighbour.failed && !is_deleted && !had_failed;
        // Most notifications are of an entry that ages or was verified, which changes nothing here.
        if is_conclusive || self.mac(&key) != mac { Staleness::Neighbours } else { Staleness::Nothing }
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::{
        packet_core::NetlinkHeader,
        packet_route::neighbour::{
            NeighbourAddress, NeighbourAttribute, NeighbourHeader, NeighbourMessage, NeighbourState,
        },
    };

    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];
    const ADDRESS: [u8; 4] = [192, 0, 2, 1];

    fn message(state: NeighbourState, mac: Mac) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header = NeighbourHeader { ifindex: 7, state, ..NeighbourHeader::default() };
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ADDRESS.into())),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        message
    }

    fn notification(message: RouteNetlinkMessage) -> Notification {
        Notification::new(
            NetlinkHeader::default(),
            NetlinkPayload::InnerMessage(NotificationBody::Known(message)),
        )
    }

    fn new(state: NeighbourState, mac: Mac) -> Notification {
        notification(RouteNetlinkMessage::NewNeighbour(message(state, mac)))
    }

    fn view(mac: Option<Mac>) -> KernelView {
        let neighbour = Neighbour { mac, dynamic: true, failed: false };
        KernelView {
            neighbours: HashMap::from([((7, ADDRESS.into()), Some(neighbour))]),
            ..KernelView::default()
        }
    }

    #[test]
    fn neighbour_changes_do_not_shift_the_next_full_read() {
        let begin = Instant::now();
        let at = |milliseconds| begin + Duration::from_millis(milliseconds);
        for mac in [Some(MAC), None] {
            // Reading takes less than 2 % of 2 s, more than that, and more than 2 % of 20 s.
            for (took, due) in [(1, 2_001), (100, 5_100), (600, 20_600)] {
                let mut view = view(mac);
                view.note_pass(begin, at(took), true);
                let neighbours = at(took) + if mac.is_some() { REFRESH } else { RETRY };
                assert_eq!(view.next_pass(at(took)), at(due).min(neighbours), "{took} ms");
                for now in (took..due).step_by(100).map(at) {
                    assert!(!view.reads_everything(Staleness::Nothing, now));
                    assert!(!view.reads_everything(Staleness::Neighbours, now));
                    view.note_pass(now, now, false);
                    assert!(view.next_pass(now) <= at(due));
                }
                assert!(view.reads_everything(Staleness::Neighbours, at(due)));
            }
        }
    }

    #[test]
    fn only_changes_of_a_next_hop_outdate_neighbours() {
        let mut view = view(Some(MAC));
        assert_eq!(view.on_notification(&new(NeighbourState::Stale, MAC)), Staleness::Nothing);
        assert_eq!(view.on_notification(&new(NeighbourState::Reachable, [2; 6])), Staleness::Neighbours);
        assert_eq!(view.on_notification(&new(NeighbourState::Failed, MAC)), Staleness::Neighbours);
        let gone = RouteNetlinkMessage::DelNeighbour(message(NeighbourState::Reachable, MAC));
        assert_eq!(view.on_notification(&notification(gone)), Staleness::Neighbours);
        assert_eq!(
            KernelView::default().on_notification(&new(NeighbourState::Failed, MAC)),
            Staleness::Nothing
        );
    }

    #[test]
    fn entry_that_becomes_usable_outdates_neighbours() {
        let mut view = view(None);
        assert_eq!(view.on_notification(&new(NeighbourState::Incomplete, MAC)), Staleness::Nothing);
        assert_eq!(view.on_notification(&new(NeighbourState::Reachable, MAC)), Staleness::Neighbours);
    }

    #[test]
    fn lost_notifications_outdate_everything() {
        let overrun = Notification::new(NetlinkHeader::default(), NetlinkPayload::Overrun(Vec::new()));
        assert_eq!(view(Some(MAC)).on_notification(&overrun), Staleness::Everything);
        let unknown = Notification::new(
            NetlinkHeader::default(),
            NetlinkPayload::InnerMessage(NotificationBody::Unknown),
        );
        assert_eq!(view(Some(MAC)).on_notification(&unknown), Staleness::Everything);
        let link = RouteNetlinkMessage::NewLink(rtnetlink::packet_route::link::LinkMessage::default());
        assert_eq!(view(Some(MAC)).on_notification(&notification(link)), Staleness::Everything);
    }
}
