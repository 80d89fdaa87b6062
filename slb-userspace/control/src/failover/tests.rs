mod next_hops;

use proptest::{collection::vec, prelude::*};

use slb_common::abi::{MacPair, backend::NextHop, ports::Ports};

use super::*;
use crate::{
    dataplane::fake::FakeDataPlane,
    desired::{ObservedInputs, desired},
    ids::MapLimits,
    model::{AdminState, DesiredServer, Health, OverrideKey},
    overrides::ServerOverride,
    reconcile::Reconciler,
    targets::destinations,
};
use slb_config::samples::forwarding;

const TEXT: &str = r#"
[[load_balancer]]
name = "shop"
addresses = ["192.0.2.10"]

[[load_balancer.listener]]
name = "db"
protocol = "tcp"
port = 5432
primary_secondary_group = "db"

[[load_balancer.listener]]
name = "web"
protocol = "tcp"
port = 80
primary = "a"
secondary = "b"
failover_threshold = 2
failback_after = "30s"

[[primary_secondary_group]]
name = "db"
primary = { address = "10.0.0.31", port = 5432 }
secondary = { address = "10.0.0.32", port = 5432 }

[[server_group]]
name = "a"
servers = [
  { address = "10.0.0.1", port = 80 },
  { address = "10.0.0.2", port = 80 },
  { address = "10.0.0.3", port = 80 },
]

[[server_group]]
name = "b"
servers = [
  { address = "10.0.1.1", port = 80 },
  { address = "10.0.1.2", port = 80 },
]
"#;

const DB: usize = 0;
const WEB: usize = 1;

struct World {
    config: Config,
    failover: Failover,
    health: BTreeMap<Target, HealthVerdict>,
    overrides: Overrides,
    next_hops: BTreeMap<IpAddr, Result<ServerRoute, String>>,
    lost: BTreeMap<IpAddr, Duration>,
}

impl World {
    fn new() -> Self {
        let config = forwarding(TEXT);
        Self {
            config,
            failover: Failover::default(),
            health: BTreeMap::new(),
            overrides: Overrides::new(),
            next_hops: BTreeMap::new(),
            lost: BTreeMap::new(),
        }
    }

    fn server_next_hops(&self) -> ServerNextHops<'_> {
        ServerNextHops { next_hops: &self.next_hops, lost: &self.lost }
    }

    /// Gives a server a next hop, or removes it. `lost` is the time of the loss in seconds since boot.
    fn reach(&mut self, server: &str, lost: Option<u64>) {
        let server: IpAddr = server.parse().unwrap();
        let hop = NextHop { ifindex: 2, mtu: 1500, macs: MacPair::default() };
        let reached = ServerRoute { hop, through_gateway: false };
        self.next_hops.insert(server, lost.map_or(Ok(reached), |_| Err("no answer".to_owned())));
        self.lost.remove(&server);
        self.lost.extend(lost.map(|seconds| (server, Duration::from_secs(seconds))));
    }

    fn set(&mut self, listener: usize, server: &str, healthy: bool) {
        let shop = &self.config.load_balancers[0];
        let target = Target::of(shop, &shop.listeners[listener], server.parse().unwrap()).unwrap();
        self.health.insert(target, HealthVerdict { health: Health::of(healthy), detail: None });
    }

    fn decide(&self, seconds: u64) -> FailoverDecision {
        let now = Duration::from_secs(seconds);
        self.failover.decide(&self.config, &self.health, self.server_next_hops(), Some(&self.overrides), now)
    }

    /// Decides and applies. Returns whether each listener's traffic is on the secondary side, and when to decide again.
    fn at(&mut self, seconds: u64) -> ([bool; 2], Option<Duration>) {
        let before = [DB, WEB].map(|n| self.is_on_secondary(n, "192.0.2.10"));
        let FailoverDecision { failover, changes, next } = self.decide(seconds);
        self.failover = failover;
        let on_secondary = [DB, WEB].map(|n| self.is_on_secondary(n, "192.0.2.10"));
        let changed = before.iter().zip(on_secondary).filter(|(before, after)| *before != after).count();
        let said =
            changes.iter().filter(|change| change.vips.contains(&"192.0.2.10".parse().unwrap())).count();
        assert_eq!(said, changed, "{changes:?}");
        for change in changes {
            let listener = usize::from(change.listener == "web");
            let is_on_secondary = |vip: &IpAddr| self.is_on_secondary(listener, &vip.to_string());
            assert!(change.vips.iter().all(|vip| is_on_secondary(vip) == (change.to == Side::Secondary)));
        }
        (on_secondary, next)
    }

    fn is_on_secondary(&self, listener: usize, vip: &str) -> bool {
        let listener = &self.config.load_balancers[0].listeners[listener];
        self.failover.side(listener, vip.parse().unwrap()) == Side::Secondary
    }

    /// Replaces the configuration by [`TEXT`] with these replacements.
    fn change(&mut self, replaced: &[(&str, &str)]) {
        self.config = forwarding(&replaced.iter().fold(TEXT.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from:?} must stand in the text");
            text.replace(from, to)
        }));
    }
}

#[test]
fn secondary_side_takes_over_and_traffic_fails_back() {
    let mut world = World::new();
    assert_eq!(world.at(0), ([false, false], None), "nothing is known yet");
    world.set(DB, "10.0.0.31:5432", false);
    assert_eq!(world.at(1), ([true, false], None));
    world.set(DB, "10.0.0.31:5432", true);
    assert_eq!(world.at(2), ([false, false], None));
}

#[test]
fn disabled_primary_counts_as_unhealthy() {
    let mut world = World::new();
    world.set(DB, "10.0.0.31:5432", true);
    assert_eq!(world.at(0).0, [false, false]);
    let override_key =
        OverrideKey::Group { group: "db".parse().unwrap(), server: "10.0.0.31:5432".parse().unwrap() };
    world.overrides.insert(override_key, ServerOverride { weight: None, state: Some(AdminState::Disabled) });
    assert_eq!(world.at(1).0, [true, false]);
    world.overrides.clear();
    assert_eq!(world.at(2).0, [false, false]);
}

#[test]
fn failover_threshold_counts_unhealthy_servers() {
    let mut world = World::new();
    for server in ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.1.1:80"] {
        world.set(WEB, server, true);
    }
    world.set(WEB, "10.0.0.1:80", false);
    assert_eq!(world.at(1).0, [false, false], "one of two");
    world.set(WEB, "10.0.0.3:80", false);
    assert_eq!(world.at(2).0, [false, true]);
}

/// A server of weight 0 does not count as unhealthy, whatever its health is.
#[test]
fn server_of_weight_0_does_not_count_for_the_failover_threshold() {
    let mut world = World::new();
    world.change(&[("10.0.0.3\", port = 80 }", "10.0.0.3\", port = 80, weight = 0 }")]);
    for server in ["10.0.0.1:80", "10.0.0.2:80", "10.0.1.1:80"] {
        world.set(WEB, server, true);
    }
    world.set(WEB, "10.0.0.3:80", false);
    world.set(WEB, "10.0.0.1:80", false);
    assert_eq!(world.at(1).0, [false, false], "one of two");
    world.set(WEB, "10.0.0.2:80", false);
    assert_eq!(world.at(2).0, [false, true]);
}

#[test]
fn failback_waits_until_the_primary_side_is_healthy_for_long_enough() {
    let mut world = World::new();
    world.set(WEB, "10.0.1.1:80", true);
    for healthy in [false, true, false, true] {
        world.set(WEB, "10.0.0.1:80", healthy);
        world.set(WEB, "10.0.0.2:80", healthy);
        let next = healthy.then_some(Duration::from_secs(40));
        assert_eq!(world.at(10), ([false, true], next));
    }
    assert_eq!(world.at(39).0, [false, true]);
    assert_eq!(world.at(40), ([false, false], None));
}

#[test]
fn failover_chooses_no_side_that_cannot_serve() {
    let mut world = World::new();
    world.set(WEB, "10.0.0.3:80", true);
    for server in ["10.0.0.1:80", "10.0.0.2:80", "10.0.1.1:80", "10.0.1.2:80"] {
        world.set(WEB, server, false);
    }
    assert_eq!(world.at(1).0, [false, false], "one of the primary side is left");
    world.set(WEB, "10.0.0.3:80", false);
    assert_eq!(world.at(2).0, [false, true], "none is");
    world.set(WEB, "10.0.0.3:80", true);
    assert_eq!(world.at(3).0, [false, false], "no wait: no server of the other side can serve");
    world.set(WEB, "10.0.1.2:80", true);
    assert_eq!(world.at(4).0, [false, true]);
}

/// The primary side of `web` has failed, and is healthy again from 10 s on.
fn waiting_to_fall_back() -> World {
    let mut world = World::new();
    for server in ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"] {
        world.set(WEB, server, false);
    }
    world.set(WEB, "10.0.1.1:80", true);
    assert_eq!(world.at(0).0, [false, true]);
    for server in ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"] {
        world.set(WEB, server, true);
    }
    assert_eq!(world.at(10), ([false, true], Some(Duration::from_secs(40))));
    world
}

#[test]
fn configuration_change_does_not_restart_the_failback_wait() {
    let mut world = waiting_to_fall_back();
    world.change(&[
        ("[\"192.0.2.10\"]", "[\"192.0.2.10\", \"192.0.2.1\"]"),
        ("\"shop\"", "\"store\""),
        ("\"web\"", "\"www\""),
    ]);
    assert_eq!(world.at(20), ([false, true], Some(Duration::from_secs(40))));
    assert!(
        world.is_on_secondary(WEB, "192.0.2.1"),
        "the new VIP's traffic goes where that of the other does"
    );
    assert_eq!(world.at(40).0, [false, false]);
    assert!(!world.is_on_secondary(WEB, "192.0.2.1"));
}

/// A failback must wait until a primary server is known to be able to serve.
#[test]
fn replacements_of_failed_primary_servers_get_traffic_once_healthy() {
    let mut world = World::new();
    for server in ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"] {
        world.set(WEB, server, false);
    }
    world.set(WEB, "10.0.1.1:80", true);
    world.set(DB, "10.0.0.31:5432", false);
    assert_eq!(world.at(0).0, [true, true]);
    world.change(&[("10.0.0.", "10.0.9.")]);
    // All servers of `db` were replaced.
    assert_eq!(world.at(1), ([false, true], None));
    world.set(WEB, "10.0.9.1:80", true);
    assert_eq!(world.at(2), ([false, false], None), "nothing was wrong with it");
}

#[test]
fn new_pair_of_sides_starts_on_its_primary() {
    let mut world = waiting_to_fall_back();
    world.change(&[("10.0.0.", "10.0.8."), ("10.0.1.", "10.0.9.")]);
    assert_eq!(world.at(20), ([false, false], None));
    // The waiting primary side also receives the traffic at once if all secondary servers are replaced.
    let mut world = waiting_to_fall_back();
    world.change(&[("10.0.1.", "10.0.9.")]);
    world.set(WEB, "10.0.9.1:80", true);
    assert_eq!(world.at(20), ([false, false], None));
}

#[test]
fn stopped_listener_restarts_its_failback_wait_when_it_starts() {
    let mut world = waiting_to_fall_back();
    world.change(&[("failback_after = \"30s\"", "failback_after = \"30s\"\nstate = \"stopped\"")]);
    assert_eq!(world.decide(20).changes, []);
    assert_eq!(world.at(60), ([false, true], None));
    world.change(&[]);
    assert_eq!(world.at(100), ([false, true], Some(Duration::from_secs(130))));
    assert_eq!(world.at(130).0, [false, false]);
}

#[test]
fn failover_that_was_not_applied_is_decided_again() {
    let mut world = World::new();
    world.set(DB, "10.0.0.31:5432", false);
    let decision = world.decide(1);
    assert_eq!(decision.changes.len(), 1);
    assert_eq!(world.decide(1), decision);
    // A decision for a configuration that was not applied changes nothing.
    let world = waiting_to_fall_back();
    let without = Config { load_balancers: Vec::new(), ..world.config.clone() };
    let now = Duration::from_secs(15);
    let other = world.failover.decide(&without, &world.health, world.server_next_hops(), None, now);
    assert_eq!((other.failover, other.changes), (Failover::default(), Vec::new()));
    assert_eq!(world.decide(15).next, Some(Duration::from_secs(40)));
}

/// Clients of a family are served by servers of that family.
#[test]
fn address_families_fail_over_independently() {
    let mut world = World::new();
    let both = [
        ("[\"192.0.2.10\"]", "[\"192.0.2.10\", \"2001:db8::10\"]"),
        ("  { address = \"10.0.0.3\", port = 80 },", "  { address = \"fd00::1\", port = 80 },"),
        ("  { address = \"10.0.1.2\", port = 80 },", "  { address = \"fd00::2\", port = 80 },"),
    ];
    world.change(&both);
    for server in ["10.0.0.1:80", "10.0.0.2:80", "[fd00::1]:80", "10.0.1.1:80", "[fd00::2]:80"] {
        world.set(WEB, server, true);
    }
    let on_secondary = |world: &mut World, seconds| {
        world.at(seconds);
        ["192.0.2.10", "2001:db8::10"].map(|vip| world.is_on_secondary(WEB, vip))
    };
    assert_eq!(on_secondary(&mut world, 0), [false, false]);
    world.set(WEB, "10.0.0.1:80", false);
    assert_eq!(on_secondary(&mut world, 1), [false, false]);
    // Two servers are unhealthy, one of each family. The IPv6 side has only one server.
    world.set(WEB, "[fd00::1]:80", false);
    let changes = world.decide(2).changes;
    assert_eq!(changes[0].vips, ["2001:db8::10".parse::<IpAddr>().unwrap()]);
    assert_eq!(on_secondary(&mut world, 2), [false, true]);
    world.set(WEB, "10.0.0.2:80", false);
    assert_eq!(on_secondary(&mut world, 3), [true, true]);
    // Servers of the other family do not help.
    world.set(WEB, "10.0.0.2:80", true);
    world.set(WEB, "10.0.1.1:80", false);
    assert_eq!(on_secondary(&mut world, 4), [false, true]);
    // Packets of mode `dsr` are not translated, so any server can serve any VIP.
    let dsr = ("port = 80\nprimary", "port = 80\nmode = \"dsr\"\nprimary");
    world.change(&[both.as_slice(), &[dsr]].concat());
    world.failover = Failover::default();
    for (server, healthy) in [("10.0.0.1:80", false), ("[fd00::1]:80", true), ("10.0.1.1:80", true)] {
        world.set(WEB, server, healthy);
    }
    assert_eq!(on_secondary(&mut world, 0), [false, false]);
    world.set(WEB, "[fd00::1]:80", false);
    assert_eq!(on_secondary(&mut world, 1), [true, true], "two of three");
}

/// 10.0.0.3 is in both groups.
const IN_BOTH: (&str, &str) = ("10.0.1.2\", port = 80 }", "10.0.0.3\", port = 80, weight = 7 }");

#[test]
fn server_on_both_sides_has_weight_and_override_of_each_side() {
    let mut world = World::new();
    world.change(&[IN_BOTH]);
    let override_key = |group: &str| OverrideKey::Group {
        group: group.parse().unwrap(),
        server: "10.0.0.3:80".parse().unwrap(),
    };
    let servers = |world: &World, on_secondary: bool| {
        let web = &world.config.load_balancers[0].listeners[WEB];
        let on_secondary =
            on_secondary.then(|| (key_at(web, "192.0.2.10".parse().unwrap()), ListenerFailover::default()));
        let failover = Failover { on_secondary: on_secondary.into_iter().collect(), ..Failover::default() };
        let known = ObservedInputs {
            failover: Some(&failover),
            overrides: Some(&world.overrides),
            ..ObservedInputs::default()
        };
        let server = desired(&world.config, known).pools.remove(WEB).servers;
        server.into_iter().find(|(address, _)| *address == "10.0.0.3:80".parse().unwrap()).unwrap().1
    };
    let seen = |server: DesiredServer| (server.weight, server.admin_state, server.is_standby);
    assert_eq!(seen(servers(&world, false)), (100, None, false));
    assert_eq!(seen(servers(&world, true)), (7, None, false));
    world
        .overrides
        .insert(override_key("b"), ServerOverride { weight: None, state: Some(AdminState::Disabled) });
    assert_eq!(seen(servers(&world, false)), (100, None, false));
    assert_eq!(seen(servers(&world, true)), (7, Some(AdminState::Disabled), false));

    // The server counts for each side, with that side's weight and override.
    for server in ["10.0.0.1:80", "10.0.0.3:80", "10.0.1.1:80"] {
        world.set(WEB, server, true);
    }
    world.set(WEB, "10.0.0.2:80", false);
    assert_eq!(world.at(0).0, [false, false]);
    world.overrides.insert(override_key("a"), ServerOverride { weight: Some(0), state: None });
    assert_eq!(world.at(1).0, [false, true]);
    world.overrides.clear();
    world.set(WEB, "10.0.1.1:80", false);
    world.overrides.insert(override_key("b"), ServerOverride { weight: Some(0), state: None });
    assert_eq!(world.at(2).0, [false, false], "no server of the secondary side can serve");
}

#[test]
fn server_on_both_sides_does_not_reveal_active_side_after_restart() {
    let mut world = World::new();
    world.change(&[IN_BOTH]);
    for server in ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.1.1:80"] {
        world.set(WEB, server, true);
    }
    for address in destinations(&world.config) {
        let hop = NextHop { ifindex: 2, mtu: 1500, macs: MacPair::default() };
        world.next_hops.insert(address, Ok(ServerRoute { hop, through_gateway: false }));
    }
    let mut reconciler =
        Reconciler::new(FakeDataPlane::default(), MapLimits { max_backends: 64, ..MapLimits::default() });
    let mut found = |world: &mut World, now: u64| {
        let on_secondary = world.at(now).0;
        let known = ObservedInputs {
            one_way: None,
            health: Some(&world.health),
            not_probed: None,
            next_hops: Some(&world.next_hops),
            failover: Some(&world.failover),
            overrides: None,
            vips: None,
        };
        reconciler.reconcile(&desired(&world.config, known), Duration::from_secs(now)).unwrap();
        world.failover = Failover::found(&world.config, reconciler.actual().unwrap());
        assert_eq!([DB, WEB].map(|n| world.is_on_secondary(n, "192.0.2.10")), on_secondary);
        on_secondary[WEB]
    };
    assert!(!found(&mut world, 1000));
    world.set(WEB, "10.0.0.1:80", false);
    world.set(WEB, "10.0.0.2:80", false);
    assert!(found(&mut world, 1001));
    // Only the server on both sides takes flows, while the primary side waits for failback.
    world.set(WEB, "10.0.1.1:80", false);
    world.set(WEB, "10.0.0.1:80", true);
    assert!(found(&mut world, 1002));
    world.set(WEB, "10.0.0.3:80", false);
    assert!(!found(&mut world, 1003));
}

/// The listener `web` has a range, whose servers have no port.
fn ranged(world: &mut World, ports: (u16, u16)) {
    world.change(&[
        ("port = 80\nprimary", "port = 8000\nprimary"),
        ("failback_after", "health_check = { kind = \"tcp\", port = 80 }\nfailback_after"),
    ]);
    world.config.load_balancers[0].listeners[WEB].port = Ports::range(ports.0, ports.1).unwrap();
}

#[test]
fn range_whose_first_port_moves_keeps_its_side_and_its_time_until_failback() {
    let mut world = World::new();
    ranged(&mut world, (8000, 8999));
    for server in ["10.0.1.1:80", "10.0.1.2:80"] {
        world.set(WEB, server, true);
    }
    for server in ["10.0.0.1:80", "10.0.0.2:80"] {
        world.set(WEB, server, false);
    }
    assert!(world.at(1).0[WEB]);
    for server in ["10.0.0.1:80", "10.0.0.2:80"] {
        world.set(WEB, server, true);
    }
    for (ports, second) in [((8500, 8999), 10), ((8500, 9999), 20), ((7000, 9999), 30)] {
        ranged(&mut world, ports);
        assert!(world.is_on_secondary(WEB, "192.0.2.10"), "{ports:?}, while the change waits");
        let FailoverDecision { failover, changes, next } = world.decide(second);
        assert_eq!((changes, next), (vec![], Some(Duration::from_secs(40))), "{ports:?}");
        world.failover = failover;
        assert!(world.is_on_secondary(WEB, "192.0.2.10"), "{ports:?}");
    }
    assert!(!world.at(40).0[WEB]);
}

proptest! {
    /// No change is missed if decisions are made only at the announced times.
    #[test]
    fn failover_changes_only_at_announced_times(steps in vec((0usize..5, any::<bool>(), 0u64..40), 1..60)) {
        let servers = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.1.1:80", "10.0.1.2:80"];
        let mut world = World::new();
        let mut now = 0;
        for (server, healthy, wait) in steps {
            world.set(WEB, servers[server], healthy);
            let (on_secondary, next) = world.at(now);
            prop_assert_eq!(world.at(now), (on_secondary, next), "decided twice");
            now += wait;
            let due = next.is_some_and(|next| next <= Duration::from_secs(now));
            let (later, _) = world.at(now);
            prop_assert!(later == on_secondary || due, "changed by itself");
            prop_assert!(!(due && later[WEB]), "did not return");
        }
    }
}
