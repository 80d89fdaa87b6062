//! Entries that vanish for a moment, and the kernel's final verdict.

use std::time::Instant;

use futures_util::TryStreamExt as _;

use super::*;

/// The kernel solicits three times, one second apart, before it gives up.
const VERDICT: Duration = Duration::from_secs(2);

/// On-link destinations, and destinations behind a gateway, of either family.
const DESTINATIONS: [&str; 4] = ["192.0.2.2", "2001:db8::2", "198.51.100.7", "198.51.101.7"];

impl Pair {
    /// Watches [`DESTINATIONS`] until all are resolved.
    async fn watched(&self) -> (Resolver, watch::Receiver<Resolutions>) {
        for route in self.routes() {
            self.add_route(route).await;
        }
        let (resolver, mut seen) = Resolver::spawn().unwrap();
        resolver.watch(set(DESTINATIONS));
        let all = |map: &Resolutions| map.len() == DESTINATIONS.len() && !lacks(map);
        timeout(DEADLINE, seen.wait_for(all)).await.unwrap().unwrap();
        (resolver, seen)
    }

    fn routes(&self) -> [RouteMessage; 2] {
        let to = |network| RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(v4(network), 24);
        let via = "2001:db8::2".parse().unwrap();
        [
            to("198.51.100.0").gateway(v4("192.0.2.2")).build(),
            to("198.51.101.0").via(via).output_interface(self.near_index).build(),
        ]
    }

    /// As `ip neigh flush` does.
    async fn flush(&self) {
        self.delete_neighbour("192.0.2.2").await;
        self.delete_neighbour("2001:db8::2").await;
    }

    /// Whether the kernel has entries of both gateways.
    async fn has_neighbours(&self) -> bool {
        let entries = Kernel::connect().unwrap().neighbours().await.unwrap();
        let has = |address| entries.get(&(self.near_index, ip(address))).is_some_and(|e| e.mac.is_some());
        has("192.0.2.2") && has("2001:db8::2")
    }

    async fn until_neighbours(&self) {
        let found = async {
            while !self.has_neighbours().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(DEADLINE, found).await.expect("the kernel asks the neighbours");
    }

    /// The far end stops answering.
    async fn silence(&self) {
        let addresses: Vec<_> = self.far.address().get().execute().try_collect().await.unwrap();
        for address in addresses {
            if address.header.index == self.far_index {
                self.far.address().del(address).execute().await.unwrap();
            }
        }
    }
}

/// Whether one of the destinations has no next hop.
fn lacks(map: &Resolutions) -> bool {
    map.values().any(|resolution| matches!(resolution, Resolution::Unresolved(_)))
}

/// The maps that are published while `blips` runs.
async fn published(seen: &watch::Receiver<Resolutions>, blips: impl Future<Output = ()>) -> Vec<Resolutions> {
    let (mut seen, mut maps) = (seen.clone(), Vec::new());
    seen.mark_unchanged();
    let mut blips = std::pin::pin!(blips);
    loop {
        tokio::select! {
            () = &mut blips => return maps,
            changed = seen.changed() => {
                changed.unwrap();
                maps.push(seen.borrow_and_update().clone());
            }
        }
    }
}

#[test]
fn flushed_entry_that_is_resolved_again_changes_nothing() {
    in_namespace(|| async {
        let pair = Pair::create().await;
        let (_resolver, seen) = pair.watched().await;
        let maps = published(&seen, async {
            for _ in 0..3 {
                pair.flush().await;
                pair.until_neighbours().await;
            }
            // Longer than the debounce time.
            tokio::time::sleep(Duration::from_millis(200)).await;
        });
        let maps = maps.await;
        assert!(maps.is_empty(), "published: {maps:?}");
    });
}

#[test]
fn flushed_entry_is_used_until_the_kernel_fails_it() {
    in_namespace(|| async {
        let pair = Pair::create().await;
        let (_resolver, mut seen) = pair.watched().await;
        pair.silence().await;
        let begun = Instant::now();
        pair.flush().await;
        let all = |map: &Resolutions| map.values().all(|r| matches!(r, Resolution::Unresolved(_)));
        timeout(DEADLINE, seen.wait_for(lacks)).await.unwrap().unwrap();
        assert!(begun.elapsed() >= VERDICT, "withdrawn after {:?}", begun.elapsed());
        timeout(DEADLINE, seen.wait_for(all)).await.unwrap().unwrap();
    });
}

#[test]
fn own_hardware_address_changes_without_a_gap() {
    in_namespace(|| async {
        let pair = Pair::create().await;
        let (_resolver, seen) = pair.watched().await;
        let maps = published(&seen, async {
            let moved = LinkUnspec::new_with_index(pair.near_index).address(OTHER_MAC.to_vec());
            change(&pair.near, moved).await;
            let new = |map: &Resolutions| {
                map.values().all(|r| matches!(r, Resolution::Resolved(hop) if hop.source_mac == OTHER_MAC))
            };
            timeout(DEADLINE, seen.clone().wait_for(new)).await.unwrap().unwrap();
            pair.until_neighbours().await;
        });
        let maps = maps.await;
        assert!(!maps.iter().any(lacks), "published: {maps:?}");
    });
}

#[test]
fn brief_link_down_changes_nothing() {
    in_namespace(|| async {
        let pair = Pair::create().await;
        let (_resolver, seen) = pair.watched().await;
        let maps = published(&seen, async {
            change(&pair.far, LinkUnspec::new_with_index(pair.far_index).down()).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            change(&pair.far, LinkUnspec::new_with_index(pair.far_index).up()).await;
            // Setting the link down has removed it.
            let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
            let mut request = pair.far.address().add(pair.far_index, v6.into(), 64);
            request.message_mut().header.flags = AddressHeaderFlags::Nodad;
            request.replace().execute().await.unwrap();
            pair.until_neighbours().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        });
        let maps = maps.await;
        assert!(maps.is_empty(), "published: {maps:?}");
    });
}

#[test]
fn brief_loss_of_routes_changes_nothing() {
    in_namespace(|| async {
        let pair = Pair::create().await;
        let (_resolver, seen) = pair.watched().await;
        let maps = published(&seen, async {
            for route in pair.routes() {
                pair.near.route().del(route).execute().await.unwrap();
            }
            // Long enough for the change to be noticed.
            tokio::time::sleep(Duration::from_millis(100)).await;
            for route in pair.routes() {
                pair.add_route(route).await;
            }
            tokio::time::sleep(Duration::from_millis(400)).await;
        });
        let maps = maps.await;
        assert!(maps.is_empty(), "published: {maps:?}");
    });
}

/// Packets are lost until then. Takes the best of several runs, because the machine may be busy.
#[test]
fn restored_link_is_used_as_soon_as_its_neighbour_answers() {
    const LIMIT: Duration = Duration::from_millis(80);
    in_namespace(|| async {
        let pair = Pair::create().await;
        let (resolver, mut seen) = Resolver::spawn().unwrap();
        resolver.watch(set(["192.0.2.2"]));
        let mut best = DEADLINE;
        for _ in 0..6 {
            until(&mut seen, "192.0.2.2", &pair.resolved(PEER_MAC)).await;
            change(&pair.far, LinkUnspec::new_with_index(pair.far_index).down()).await;
            timeout(DEADLINE, seen.wait_for(lacks)).await.unwrap().unwrap();
            let begun = Instant::now();
            change(&pair.far, LinkUnspec::new_with_index(pair.far_index).up()).await;
            until(&mut seen, "192.0.2.2", &pair.resolved(PEER_MAC)).await;
            best = best.min(begun.elapsed());
            if best < LIMIT {
                return;
            }
        }
        panic!("resolved {best:?} after the carrier was back at the earliest");
    });
}
