//! State of VIPs on a host.

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::{
    AddressFamily,
    neighbour::{NeighbourFlags, NeighbourState},
};

use super::{super::vips::VipWatcher, *};

#[test]
fn vip_watch_follows_local_addresses_of_the_host() {
    in_namespace(|| async {
        let _pair = Pair::create().await;
        run("ip link set lo up; ip addr add 198.51.100.6/32 dev near");
        let all = ["198.51.100.6", "198.51.100.7", "198.51.100.8", "2001:db8:7::7"];
        let (vips, mut seen) = VipWatcher::spawn(set(all)).await.unwrap();
        let local = |seen: &watch::Receiver<_>| -> Vec<bool> {
            let seen: &super::super::vips::VipStates = &seen.borrow();
            seen.values().map(|standing| standing.is_local).collect()
        };
        assert_eq!(local(&seen), [true, false, false, false], "known at once");
        for (line, expected) in [
            ("ip addr add 198.51.100.7/32 dev lo", [true, true, false, false]),
            ("ip route add local 198.51.100.8/32 dev lo", [true, true, true, false]),
            ("ip addr add 2001:db8:7::7/128 dev lo nodad", [true; 4]),
            ("ip addr del 198.51.100.7/32 dev lo", [true, false, true, true]),
            ("ip route del local 198.51.100.8/32 dev lo", [true, false, false, true]),
            ("ip addr del 2001:db8:7::7/128 dev lo", [true, false, false, false]),
        ] {
            run(line);
            let is_so = |seen: &super::super::vips::VipStates| {
                seen.values().map(|standing| standing.is_local).eq(expected)
            };
            let waited = timeout(DEADLINE, seen.wait_for(is_so)).await.map(drop);
            assert!(waited.is_ok(), "{line}: {:?}", seen.borrow());
        }
        vips.watch(set(["198.51.100.6"]));
        timeout(DEADLINE, seen.wait_for(|seen| seen.len() == 1)).await.unwrap().unwrap();
    });
}

/// Local addresses that the host uses itself leave its ports alone.
#[test]
fn vip_watch_knows_from_which_addresses_the_host_opens_connections() {
    in_namespace(|| async {
        let _pair = Pair::create().await;
        run("ip addr add 192.0.2.70/24 dev near; ip addr add 192.0.2.71/32 dev near");
        run("ip addr add 198.51.100.70/24 dev near; ip addr add 198.51.100.71/24 dev near");
        run("ip addr add 2001:db8:7::70/64 dev near nodad; ip addr add 2001:db8:7::71/128 dev near nodad");
        run("sysctl -qw net.ipv4.ip_local_port_range='40000 50000'");
        let all = [
            ("192.0.2.71", None),
            ("192.0.2.72", None),
            ("198.51.100.70", Some(40_000)),
            ("198.51.100.71", None),
            ("2001:db8:7::70", Some(40_000)),
            ("2001:db8:7::71", None),
        ];
        let states = super::super::vips::read(&set(all.map(|(address, _)| address))).await.unwrap();
        for (address, expected) in all {
            assert_eq!(states[&ip(address)].own_ports_from, expected, "{address}");
        }
    });
}

/// Compares the prediction with the kernel's answers to requests from the other end of the link.
#[test]
fn vip_watch_predicts_which_vips_the_host_answers_for() {
    in_namespace(|| async {
        let pair = Pair::create().await;
        run("ip link set lo up; sysctl -qw net.ipv6.conf.near.forwarding=1 net.ipv6.conf.near.proxy_ndp=1");
        run("ip addr add 192.0.2.71/32 dev lo; ip addr add 192.0.2.72/32 dev near");
        run("ip addr add 2001:db8::71/128 dev lo nodad; ip addr add 2001:db8::72/128 dev near nodad");
        run("ip neigh add proxy 2001:db8::73 dev near");
        let vips = set([
            "192.0.2.70",
            "192.0.2.71",
            "192.0.2.72",
            "2001:db8::70",
            "2001:db8::71",
            "2001:db8::72",
            "2001:db8::73",
        ]);
        let as_set_up = compare(&pair, &vips).await;
        assert_eq!(as_set_up, set(["192.0.2.71", "192.0.2.72", "2001:db8::72", "2001:db8::73"]));

        run("sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv6.conf.near.forwarding=0");
        assert_eq!(compare(&pair, &vips).await, set(["192.0.2.72", "2001:db8::72"]));

        let standings = super::super::vips::read(&vips).await.unwrap();
        let why = |vip: &str| standings[&ip(vip)].unanswered.clone().unwrap_or_default();
        for (vip, parts) in [
            (
                "192.0.2.71",
                ["ARP for it on near (192.0.2.0/24)", "arp_ignore is 1", "192.0.2.71/32 dev near"],
            ),
            (
                "2001:db8::71",
                ["on near (2001:db8::/64)", "one of lo does not count", "2001:db8::71/128 dev near"],
            ),
            ("2001:db8::73", ["on near", "proxy entry", "net.ipv6.conf.near.forwarding=1"]),
        ] {
            assert!(parts.iter().all(|part| why(vip).contains(part)), "{vip}: {}", why(vip));
        }
        // Routed VIPs are not on a link: routers have a route and ask for its gateway only.
        let routed = super::super::vips::read(&set(["198.51.100.7"])).await.unwrap();
        assert_eq!(routed[&ip("198.51.100.7")].unanswered, None);
    });
}

/// The VIPs that the host answers for, by prediction and by requests from a host on the link, which must agree.
async fn compare(pair: &Pair, vips: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    let standings = super::super::vips::read(vips).await.unwrap();
    let said: BTreeSet<_> = vips.iter().filter(|vip| standings[vip].unanswered.is_none()).copied().collect();
    for vip in vips {
        let neighbour = pair.far.neighbours().add(pair.far_index, *vip);
        neighbour.state(NeighbourState::None).flags(NeighbourFlags::Use).replace().execute().await.unwrap();
    }
    let found = async {
        loop {
            let entries: Vec<NeighbourMessage> =
                pair.far.neighbours().get().execute().try_collect().await.unwrap();
            let of = |states: &[NeighbourState]| -> BTreeSet<IpAddr> {
                let entries = entries.iter().filter(|entry| states.contains(&entry.header.state));
                entries
                    .filter_map(kernel::neighbour)
                    .map(|((_, ip), _)| ip)
                    .filter(|ip| vips.contains(ip))
                    .collect()
            };
            use NeighbourState::{Delay, Failed, Probe, Reachable, Stale};
            let (reached, failed) = (of(&[Reachable, Stale, Delay, Probe]), of(&[Failed]));
            if reached.len() + failed.len() == vips.len() {
                return reached;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let found = timeout(DEADLINE, found).await.unwrap();
    assert_eq!(said, found, "{standings:?}");
    for vip in vips {
        let mut message = NeighbourMessage::default();
        let (family, address) = match vip {
            IpAddr::V4(vip) => (AddressFamily::Inet, NeighbourAddress::Inet(*vip)),
            IpAddr::V6(vip) => (AddressFamily::Inet6, NeighbourAddress::Inet6(*vip)),
        };
        message.header.family = family;
        message.header.ifindex = pair.far_index;
        message.attributes = vec![NeighbourAttribute::Destination(address)];
        pair.far.neighbours().del(message).execute().await.unwrap();
    }
    found
}
