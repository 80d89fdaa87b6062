//! Routes through nexthop objects (`ip nexthop`). A change of an object changes its routes, and the kernel may send no
//! notification about them. A deleted IPv4 object never causes one, and with `nexthop_compat_mode` 0 no change does.

use super::*;

/// Less than the time after which everything is read without a notification.
const SOON: Duration = Duration::from_secs(5);

struct Routes {
    seen: watch::Receiver<Resolutions>,
    _resolver: Resolver,
    compat: u8,
}

impl Routes {
    async fn expect(&mut self, step: &str, expected: &Resolution) {
        self.expect_of(step, expected, |_| true).await;
    }

    async fn expect_of(&mut self, step: &str, expected: &Resolution, which: impl Fn(&IpAddr) -> bool) {
        let all = |map: &Resolutions| {
            !map.is_empty() && map.iter().filter(|(to, _)| which(to)).all(|(_, found)| found == expected)
        };
        let waited = timeout(SOON, self.seen.wait_for(all)).await.map(drop);
        let last = self.seen.borrow().clone();
        waited.unwrap_or_else(|_| {
            panic!("compat {}, {step}: not {expected:?} within {SOON:?}; last: {last:?}", self.compat)
        });
    }
}

#[test]
fn changed_nexthop_objects_are_followed() {
    in_namespace(|| async {
        let pair = Pair::create().await;
        for gateway in ["192.0.2.3", "2001:db8::3"] {
            pair.add_permanent(ip(gateway), OTHER_MAC).await;
        }
        let (peer, other) =
            (pair.resolved_through_gateway(PEER_MAC), pair.resolved_through_gateway(OTHER_MAC));
        // The kernel has an IPv6 black hole on `lo`.
        run("ip link set lo up");
        for compat in [1, 0] {
            run(&format!("echo {compat} >/proc/sys/net/ipv4/nexthop_compat_mode"));
            // Objects 1 and 11 have routes of their own; 2 and 12 are members of groups.
            let add = |verb: &str, ids: [u8; 2], host: u8| {
                run(&format!(
                    "ip nexthop {verb} id {} via 192.0.2.{host} dev near
                     ip nexthop {verb} id {} via 2001:db8::{host} dev near",
                    ids[0], ids[1]
                ));
            };
            add("add", [1, 11], 2);
            add("add", [2, 12], 2);
            add("add", [3, 13], 3);
            run("ip nexthop add id 20 group 2; ip nexthop add id 21 group 12
                 ip route add 198.51.100.0/24 nhid 1; ip route add 2001:db8:9::/64 nhid 11
                 ip route add 198.51.101.0/24 nhid 20; ip route add 2001:db8:a::/64 nhid 21");
            let (resolver, seen) = Resolver::spawn().unwrap();
            resolver.watch(set(["198.51.100.7", "2001:db8:9::7", "198.51.101.7", "2001:db8:a::7"]));
            let mut routes = Routes { seen, _resolver: resolver, compat };
            routes.expect("begin", &peer).await;
            add("replace", [1, 11], 3);
            add("replace", [2, 12], 3);
            routes.expect("other gateways", &other).await;
            add("replace", [1, 11], 2);
            add("replace", [2, 12], 2);
            routes.expect("the first gateways again", &peer).await;
            add("replace", [1, 11], 3);
            run("ip nexthop replace id 20 group 3; ip nexthop replace id 21 group 13");
            routes.expect("other members of groups", &other).await;
            add("replace", [1, 11], 2);
            run("ip nexthop replace id 20 group 2/3; ip nexthop replace id 21 group 12/13
                 ip nexthop del id 3; ip nexthop del id 13");
            routes.expect("the only members left of groups", &peer).await;
            run("for id in 1 2; do ip nexthop replace id $id blackhole; done
                 for id in 11 12; do ip -6 nexthop replace id $id blackhole; done");
            routes.expect("black holes", &NO_ROUTE).await;
            add("replace", [1, 11], 2);
            add("replace", [2, 12], 2);
            routes.expect("no black holes", &peer).await;
            run("ip nexthop del id 1; ip nexthop del id 20");
            routes.expect_of("deleted objects of IPv4", &NO_ROUTE, IpAddr::is_ipv4).await;
            run("ip nexthop del id 11; ip nexthop del id 21");
            routes.expect("deleted", &NO_ROUTE).await;
            run("ip nexthop flush >/dev/null 2>&1");
        }
    });
}

/// Paths of a multipath route without nexthop objects.
#[test]
fn changed_paths_of_a_multipath_route_are_followed() {
    in_namespace(|| async {
        let pair = Pair::create().await;
        for gateway in ["192.0.2.3", "2001:db8::3"] {
            pair.add_permanent(ip(gateway), OTHER_MAC).await;
        }
        let (resolver, seen) = Resolver::spawn().unwrap();
        resolver.watch(set(["198.51.100.7", "2001:db8:9::7"]));
        let mut routes = Routes { seen, _resolver: resolver, compat: 1 };
        for (host, mac) in [(2, PEER_MAC), (3, OTHER_MAC), (2, PEER_MAC)] {
            run(&format!(
                "ip route replace 198.51.100.0/24 nexthop via 192.0.2.{host} dev near nexthop via 192.0.2.{host} dev near weight 3
                 ip route replace 2001:db8:9::/64 nexthop via 2001:db8::{host} dev near"
            ));
            routes.expect("paths", &pair.resolved_through_gateway(mac)).await;
        }
        run(
            "ip route replace blackhole 198.51.100.0/24; ip route del 2001:db8:9::/64; ip route replace blackhole 2001:db8:9::/64",
        );
        routes.expect("black holes", &NO_ROUTE).await;
    });
}
