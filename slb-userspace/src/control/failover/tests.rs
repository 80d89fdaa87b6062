use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    config::samples::forwarding,
    control::overrides::{Aside, Place, Setting},
};

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
    health: BTreeMap<Target, Verdict>,
    overrides: Overrides,
    next_hops: BTreeMap<IpAddr, Result<Reached, String>>,
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
        }
    }

    fn set(&mut self, listener: usize, server: &str, healthy: bool) {
        let shop = &self.config.load_balancers[0];
        let target = Target::of(shop, &shop.listeners[listener], server.parse().unwrap()).unwrap();
        self.health.insert(target, Verdict { healthy, detail: None });
    }

    /// Whether the listeners' traffic is with the secondary side, and when to ask again.
    fn at(&mut self, seconds: u64) -> ([bool; 2], Option<Duration>) {
        let (changes, next) = self.failover.decide(
            &self.config,
            &self.health,
            &self.next_hops,
            Some(&self.overrides),
            Duration::from_secs(seconds),
        );
        let shop = &self.config.load_balancers[0];
        let over = [DB, WEB].map(|n| self.failover.is_over(shop, &shop.listeners[n]));
        for change in changes {
            let n = usize::from(change.listener == "web");
            assert_eq!(over[n], change.to_secondary);
        }
        (over, next)
    }
}

#[test]
fn a_secondary_takes_over_and_gives_back() {
    let mut world = World::new();
    assert_eq!(world.at(0), ([false, false], None), "nothing is known yet");
    world.set(DB, "10.0.0.31:5432", false);
    assert_eq!(world.at(1), ([true, false], None));
    world.set(DB, "10.0.0.31:5432", true);
    assert_eq!(world.at(2), ([false, false], None));
}

#[test]
fn a_primary_that_is_taken_out_of_service_is_as_good_as_unhealthy() {
    let mut world = World::new();
    world.set(DB, "10.0.0.31:5432", true);
    assert_eq!(world.at(0).0, [false, false]);
    let place = Place::Group { group: "db".to_owned(), server: "10.0.0.31:5432".parse().unwrap() };
    world.overrides.insert(place, Setting { weight: None, state: Some(Aside::Disabled) });
    assert_eq!(world.at(1).0, [true, false]);
    world.overrides.clear();
    assert_eq!(world.at(2).0, [false, false]);
}

#[test]
fn nobody_takes_over_without_weight_and_who_is_not_reached_gives_up() {
    let mut world = World::new();
    world.next_hops.insert("10.0.0.31".parse().unwrap(), Err("no route".to_owned()));
    assert_eq!(world.at(0).0, [true, false]);
    let b = world.config.server_groups.iter_mut().find(|group| group.name.as_str() == "b").unwrap();
    let none = forwarding(&TEXT.replace("10.0.1.1\", port = 80", "10.0.1.1\", port = 80, weight = 0"));
    let groups = none.server_groups;
    b.servers = groups.into_iter().find(|group| group.name.as_str() == "b").unwrap().servers;
    world.set(WEB, "10.0.1.1:80", true);
    world.set(WEB, "10.0.0.3:80", true);
    world.set(WEB, "10.0.0.1:80", false);
    world.set(WEB, "10.0.0.2:80", false);
    assert_eq!(world.at(1).0, [true, false], "the only healthy one of the other side has no weight");
    world.set(WEB, "10.0.1.2:80", true);
    assert_eq!(world.at(2).0, [true, true]);
}

#[test]
fn the_threshold_counts_unhealthy_servers() {
    let mut world = World::new();
    for server in ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.1.1:80"] {
        world.set(WEB, server, true);
    }
    world.set(WEB, "10.0.0.1:80", false);
    assert_eq!(world.at(1).0, [false, false], "one of two");
    world.set(WEB, "10.0.0.3:80", false);
    assert_eq!(world.at(2).0, [false, true]);
}

#[test]
fn traffic_comes_back_once_the_primary_side_has_been_well_for_long_enough() {
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
fn nothing_goes_where_nobody_can_serve_it() {
    let mut world = World::new();
    world.set(WEB, "10.0.0.3:80", true);
    for server in ["10.0.0.1:80", "10.0.0.2:80", "10.0.1.1:80", "10.0.1.2:80"] {
        world.set(WEB, server, false);
    }
    assert_eq!(world.at(1).0, [false, false], "one of the primary side is left");
    world.set(WEB, "10.0.0.3:80", false);
    assert_eq!(world.at(2).0, [false, true], "nobody is");
    world.set(WEB, "10.0.0.3:80", true);
    assert_eq!(world.at(3).0, [false, false], "no wait: nobody is on the other side");
    world.set(WEB, "10.0.1.2:80", true);
    assert_eq!(world.at(4).0, [false, true]);
}

proptest! {
    /// Whatever happens: who is asked again at the time that was said, has everything in force.
    #[test]
    fn nothing_changes_before_it_is_said_to(steps in vec((0usize..5, any::<bool>(), 0u64..40), 1..60)) {
        let servers = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.1.1:80", "10.0.1.2:80"];
        let mut world = World::new();
        let mut now = 0;
        for (server, healthy, wait) in steps {
            world.set(WEB, servers[server], healthy);
            let (over, next) = world.at(now);
            prop_assert_eq!(world.at(now), (over, next), "decided twice");
            now += wait;
            let due = next.is_some_and(|next| next <= Duration::from_secs(now));
            let (later, _) = world.at(now);
            prop_assert!(later == over || due, "changed by itself");
            prop_assert!(!(due && later[WEB]), "did not come back");
        }
    }
}
