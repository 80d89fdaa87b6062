//! Tests against the kernel: two network namespaces joined by a veth pair. They need root.

mod vips;

use std::{
    collections::BTreeSet,
    fs::File,
    future::Future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, setns, unshare},
    unistd::geteuid,
};
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection,
    packet_route::{
        AddressFamily,
        address::AddressHeaderFlags,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage},
        route::RouteMessage,
    },
};
use tokio::{sync::watch, time::timeout};

use super::{kernel::Kernel, *};

mod brief_outages;
mod nexthop_objects;
mod path_mtu;

const DEADLINE: Duration = Duration::from_secs(60);
const MAC: Mac = [0x02, 0, 0, 0, 0, 0x11];
const PEER_MAC: Mac = [0x02, 0, 0, 0, 0, 0x22];
const OTHER_MAC: Mac = [0x02, 0, 0, 0, 0, 0x33];

/// This side of the pair is `near`, with 192.0.2.1 and 2001:db8::1; the other is `far`, with addresses ending in 2.
struct Pair {
    near: Handle,
    near_index: u32,
    far: Handle,
    far_index: u32,
}

impl Pair {
    /// The calling thread ends up in `near`'s namespace.
    async fn create() -> Self {
        let far_namespace = File::open("/proc/thread-self/ns/net").unwrap();
        let far = connect();
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let near_namespace = File::open("/proc/thread-self/ns/net").unwrap();
        let near = connect();

        near.link().add(LinkVeth::new("near", "far").build()).execute().await.unwrap();
        let away = LinkUnspec::new_with_name("far").setns_by_fd(far_namespace.as_raw_fd()).build();
        near.link().change(away).execute().await.unwrap();
        let near_index = prepare(&near, "near", MAC, 1).await;
        setns(&far_namespace, CloneFlags::CLONE_NEWNET).unwrap();
        let far_index = prepare(&far, "far", PEER_MAC, 2).await;
        setns(&near_namespace, CloneFlags::CLONE_NEWNET).unwrap();
        Self { near, near_index, far, far_index }
    }

    async fn add_permanent(&self, address: IpAddr, mac: Mac) {
        let request = self.near.neighbours().add(self.near_index, address).link_layer_address(&mac);
        request.replace().execute().await.unwrap();
    }

    async fn delete_neighbour(&self, address: &str) {
        let (family, address) = match ip(address) {
            IpAddr::V4(address) => (AddressFamily::Inet, NeighbourAddress::Inet(address)),
            IpAddr::V6(address) => (AddressFamily::Inet6, NeighbourAddress::Inet6(address)),
        };
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        message.header.ifindex = self.near_index;
        message.attributes = vec![NeighbourAttribute::Destination(address)];
        self.near.neighbours().del(message).execute().await.unwrap();
    }

    async fn add_route(&self, route: RouteMessage) {
        self.near.route().add(route).execute().await.unwrap();
    }

    fn resolved(&self, destination_mac: Mac) -> Resolution {
        Resolution::Resolved(NextHop {
            interface_index: self.near_index,
            interface: "near".to_owned(),
            source_mac: MAC,
            destination_mac,
            mtu: 1500,
            through_gateway: false,
        })
    }

    fn resolved_through_gateway(&self, destination_mac: Mac) -> Resolution {
        match self.resolved(destination_mac) {
            Resolution::Resolved(hop) => Resolution::Resolved(NextHop { through_gateway: true, ..hop }),
            unresolved @ Resolution::Unresolved(_) => unresolved,
        }
    }
}

/// Runs shell commands, each of which must succeed.
fn run(lines: &str) -> String {
    let output = std::process::Command::new("sh").args(["-ec", lines]).output().unwrap();
    assert!(output.status.success(), "{lines}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn connect() -> Handle {
    let (connection, handle, _) = new_connection().unwrap();
    tokio::spawn(connection);
    handle
}

/// Adds the interface's addresses and sets it up. The calling thread is in its namespace.
async fn prepare(handle: &Handle, name: &str, mac: Mac, host: u8) -> u32 {
    let index = links().await.unwrap().into_iter().find(|link| link.name == name).unwrap().index;
    change(handle, LinkUnspec::new_with_index(index).address(mac.to_vec()).up()).await;
    let v4 = Ipv4Addr::new(192, 0, 2, host);
    handle.address().add(index, v4.into(), 24).execute().await.unwrap();
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into());
    let mut request = handle.address().add(index, v6.into(), 64);
    request.message_mut().header.flags = AddressHeaderFlags::Nodad;
    request.execute().await.unwrap();
    index
}

async fn change(handle: &Handle, link: LinkMessageBuilder<LinkUnspec>) {
    handle.link().change(link.build()).execute().await.unwrap();
}

/// Runs a test on a thread in a network namespace of its own. Without root it is skipped with a message.
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    if !geteuid().is_root() {
        eprintln!("skipped: a network namespace of its own needs root");
        return;
    }
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn set<const N: usize>(addresses: [&str; N]) -> BTreeSet<IpAddr> {
    addresses.into_iter().map(ip).collect()
}

/// Waits until `address` has the resolution `expected`.
async fn until(resolutions: &mut watch::Receiver<Resolutions>, address: &str, expected: &Resolution) {
    let address = ip(address);
    let waited =
        timeout(DEADLINE, resolutions.wait_for(|map| map.get(&address) == Some(expected))).await.map(drop);
    let last = resolutions.borrow().clone();
    waited.unwrap_or_else(|_| panic!("{address} does not become {expected:?}; last: {last:?}"));
}

fn no_neighbour(next_hop: &str) -> Resolution {
    let (next_hop, interface) = (ip(next_hop), "near".to_owned());
    Resolution::Unresolved(Unresolved::NoNeighbour { next_hop, interface, has_failed: true })
}

const NO_ROUTE: Resolution = Resolution::Unresolved(Unresolved::NoRoute);
const LOCAL: Resolution = Resolution::Unresolved(Unresolved::Local);

#[test]
fn resolver_solicits_unknown_neighbours() {
    in_namespace(|| async {
        let pair = Pair::create().await;
        let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(v4("198.51.100.0"), 24);
        pair.add_route(route.gateway(v4("192.0.2.2")).build()).await;
        let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(v4("198.51.101.0"), 24);
        let via = "2001:db8::2".parse().unwrap();
        pair.add_route(route.via(via).output_interface(pair.near_index).build()).await;

        let (resolver, mut seen) = Resolver::spawn().unwrap();
        let silent = "192.0.2.99";
        let wanted = set([
            "192.0.2.1",
            "192.0.2.2",
            silent,
            "198.51.100.7",
            "198.51.101.7",
            "203.0.113.1",
            "2001:db8::1",
            "2001:db8::2",
            "2001:db9::1",
        ]);
        resolver.watch(wanted.clone());
        for peer in ["192.0.2.2", "2001:db8::2"] {
            until(&mut seen, peer, &pair.resolved(PEER_MAC)).await;
        }
        for distant in ["198.51.100.7", "198.51.101.7"] {
            until(&mut seen, distant, &pair.resolved_through_gateway(PEER_MAC)).await;
        }
        until(&mut seen, silent, &no_neighbour(silent)).await;
        for (address, expected) in [
            ("192.0.2.1", LOCAL),
            ("2001:db8::1", LOCAL),
            ("203.0.113.1", NO_ROUTE),
            ("2001:db9::1", NO_ROUTE),
        ] {
            until(&mut seen, address, &expected).await;
        }
        assert!(seen.borrow().keys().eq(&wanted), "exactly what is watched");
        resolver.watch(set(["192.0.2.2"]));
        timeout(DEADLINE, seen.wait_for(|map| map.len() == 1)).await.unwrap().unwrap();
    });
}

#[test]
fn resolver_follows_neighbour_changes() {
    in_namespace(|| async {
        let pair = Pair::create().await;
        let (resolver, mut seen) = Resolver::spawn().unwrap();
        let (peer, silent) = ("192.0.2.2", "192.0.2.99");
        resolver.watch(set([peer, silent]));
        until(&mut seen, peer, &pair.resolved(PEER_MAC)).await;

        pair.add_permanent(ip(silent), PEER_MAC).await;
        until(&mut seen, silent, &pair.resolved(PEER_MAC)).await;
        pair.add_permanent(ip(silent), OTHER_MAC).await;
        until(&mut seen, silent, &pair.resolved(OTHER_MAC)).await;
        pair.delete_neighbour(silent).await;
        until(&mut seen, silent, &no_neighbour(silent)).await;

        // Whatever the entry said, the neighbour itself is solicited once the entry is deleted.
        pair.add_permanent(ip(peer), OTHER_MAC).await;
        until(&mut seen, peer, &pair.resolved(OTHER_MAC)).await;
        pair.delete_neighbour(peer).await;
        until(&mut seen, peer, &pair.resolved(PEER_MAC)).await;
    });
}

#[test]
fn resolver_keeps_permanent_entries_permanent() {
    in_namespace(|| async {
        let pair = Pair::create().await;
        let peer = "192.0.2.99";
        pair.add_permanent(ip(peer), OTHER_MAC).await;
        let (resolver, mut seen) = Resolver::spawn().unwrap();
        resolver.watch(set([peer]));
        until(&mut seen, peer, &pair.resolved(OTHER_MAC)).await;
        // The resolution of another destination is published after the first pass, including its solicitations.
        resolver.watch(set([peer, "192.0.2.1"]));
        until(&mut seen, "192.0.2.1", &LOCAL).await;
        let entries = Kernel::connect().unwrap().neighbours().await.unwrap();
        assert!(!entries[&(pair.near_index, ip(peer))].dynamic);
    });
}

#[test]
fn resolver_follows_routes_and_links() {
    in_namespace(|| async {
        let pair = Pair::create().await;
        pair.add_permanent(ip("192.0.2.3"), OTHER_MAC).await;
        let (resolver, mut seen) = Resolver::spawn().unwrap();
        let (peer, distant) = ("192.0.2.2", "198.51.100.7");
        resolver.watch(set([peer, distant]));
        until(&mut seen, distant, &NO_ROUTE).await;

        let via = |gateway| {
            let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(v4("198.51.100.0"), 24);
            route.gateway(v4(gateway)).build()
        };
        pair.add_route(via("192.0.2.3")).await;
        until(&mut seen, distant, &pair.resolved_through_gateway(OTHER_MAC)).await;
        pair.near.route().add(via(peer)).replace().execute().await.unwrap();
        until(&mut seen, distant, &pair.resolved_through_gateway(PEER_MAC)).await;
        pair.near.route().del(via(peer)).execute().await.unwrap();
        until(&mut seen, distant, &NO_ROUTE).await;

        let down = Resolution::Unresolved(Unresolved::InterfaceDown { interface: "near".to_owned() });
        until(&mut seen, peer, &pair.resolved(PEER_MAC)).await;
        change(&pair.far, LinkUnspec::new_with_index(pair.far_index).down()).await;
        until(&mut seen, peer, &down).await;
        change(&pair.far, LinkUnspec::new_with_index(pair.far_index).up()).await;
        until(&mut seen, peer, &pair.resolved(PEER_MAC)).await;

        let moved = LinkUnspec::new_with_index(pair.near_index).address(OTHER_MAC.to_vec());
        change(&pair.near, moved).await;
        let own_mac = |map: &Resolutions| match &map[&ip(peer)] {
            Resolution::Resolved(hop) => hop.source_mac == OTHER_MAC,
            Resolution::Unresolved(_) => false,
        };
        timeout(DEADLINE, seen.wait_for(own_mac)).await.unwrap().unwrap();

        pair.near.link().del(pair.near_index).execute().await.unwrap();
        until(&mut seen, peer, &NO_ROUTE).await;
    });
}

/// A route's MTU may be smaller than the interface's.
#[test]
fn next_hop_mtu_is_that_of_the_route() {
    in_namespace(|| async {
        let pair = Pair::create().await;
        let (resolver, mut seen) = Resolver::spawn().unwrap();
        let distant = ["198.51.100.7", "2001:db8:9::7"];
        resolver.watch(set(distant));
        for mtu in [1400, 1300, 1500] {
            let said = if mtu == 1500 { String::new() } else { format!("mtu {mtu}") };
            run(&format!("ip route replace 198.51.100.0/24 via 192.0.2.2 {said}"));
            run(&format!("ip route replace 2001:db8:9::/64 via 2001:db8::2 {said}"));
            for address in distant {
                let Resolution::Resolved(hop) = pair.resolved_through_gateway(PEER_MAC) else { panic!() };
                until(&mut seen, address, &Resolution::Resolved(NextHop { mtu, ..hop })).await;
            }
        }
    });
}

#[test]
fn resolver_ends_with_either_half() {
    in_namespace(|| async {
        let (resolver, mut seen) = Resolver::spawn().unwrap();
        drop(resolver);
        let ended = timeout(DEADLINE, seen.wait_for(|map| !map.is_empty())).await.unwrap();
        assert!(ended.is_err(), "the publishing half is gone");
    });
}

#[test]
fn links_are_listed_with_their_attributes() {
    in_namespace(|| async {
        let pair = Pair::create().await;
        let links = links().await.unwrap();
        let near = links.iter().find(|link| link.index == pair.near_index).unwrap();
        let expected = Link {
            index: pair.near_index,
            name: "near".into(),
            altnames: Vec::new(),
            mac: Some(MAC),
            up: true,
            is_enabled: true,
            kind: Some("veth".into()),
            xdp: None,
            mtu: 1500,
            master: None,
            vlan: None,
            // The peer, in the only other namespace that this one knows (nsid 0).
            below: Some(Below { index: pair.far_index, namespace: Some(0) }),
        };
        assert_eq!(*near, expected);
        let loopback = links.iter().find(|link| link.name == "lo").unwrap();
        assert_eq!((loopback.mac, loopback.up, &loopback.kind), (None, false, &None));
    });
}

#[test]
fn unresolved_reasons_name_the_cause() {
    let reason =
        Unresolved::NoNeighbour { next_hop: ip("192.0.2.9"), interface: "eth0".to_owned(), has_failed: true };
    assert_eq!(reason.to_string(), "192.0.2.9 does not answer on eth0");
    assert_eq!(
        Unresolved::NeighbourTableFull { next_hop: ip("192.0.2.9") }.to_string(),
        "the kernel's neighbour table is full, and has no room for 192.0.2.9: \
         raise net.ipv4.neigh.default.gc_thresh2 and gc_thresh3"
    );
    assert_eq!(
        Unresolved::InterfaceDown { interface: "eth0".to_owned() }.to_string(),
        "interface eth0 is down"
    );
}
