//! Next hops of primary and secondary servers.

use super::*;

/// In mode `dsr` frames must reach the server without a router.
#[test]
fn server_behind_a_router_serves_no_client_in_dsr() {
    let mut world = World::new();
    world.set(DB, "10.0.0.31:5432", true);
    let through = |through_gateway| {
        let hop = NextHop { ifindex: 2, mtu: 1500, macs: MacPair::default() };
        Ok(ServerRoute { hop, through_gateway })
    };
    world.next_hops.insert("10.0.0.31".parse().unwrap(), through(true));
    world.next_hops.insert("10.0.0.32".parse().unwrap(), through(false));
    assert_eq!(world.at(0).0, [false, false]);
    world.change(&[(
        "port = 5432\nprimary_secondary_group",
        "port = 5432\nmode = \"dsr\"\nprimary_secondary_group",
    )]);
    world.set(DB, "10.0.0.31:5432", true);
    assert_eq!(world.at(1).0, [true, false]);
    world.next_hops.insert("10.0.0.32".parse().unwrap(), through(true));
    assert_eq!(world.at(2).0, [true, false], "no reason to move: neither can serve");
    world.next_hops.insert("10.0.0.31".parse().unwrap(), through(false));
    assert_eq!(world.at(3).0, [false, false]);
}

#[test]
fn unreachable_primary_fails_over_and_weight_0_takes_over_nothing() {
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

/// The check makes a server unhealthy after three failures, two seconds apart.
#[test]
fn next_hop_counts_as_lost_after_the_detection_window() {
    let mut world = World::new();
    world.set(DB, "10.0.0.31:5432", true);
    world.reach("10.0.0.32", None);
    world.reach("10.0.0.31", Some(10));
    assert_eq!(world.at(10), ([false, false], Some(Duration::from_secs(16))));
    assert_eq!(world.at(15), ([false, false], Some(Duration::from_secs(16))));
    world.reach("10.0.0.31", None);
    assert_eq!(world.at(16), ([false, false], None), "a blip");
    world.reach("10.0.0.31", Some(20));
    assert_eq!(world.at(26), ([true, false], None));
    // The same holds for the active secondary side. Without any reachable server the traffic stays where it is.
    world.reach("10.0.0.32", Some(30));
    assert_eq!(world.at(30), ([true, false], Some(Duration::from_secs(36))));
    assert_eq!(world.at(36).0, [true, false], "no reason to move: neither can serve");
    world.reach("10.0.0.31", None);
    assert_eq!(world.at(37).0, [false, false]);
}

#[test]
fn next_hop_loss_without_check_uses_the_default_detection_window() {
    let mut world = World::new();
    world.change(&[("port = 5432\nprimary", "port = 5432\nhealth_check = { kind = \"none\" }\nprimary")]);
    world.reach("10.0.0.32", None);
    world.reach("10.0.0.31", Some(10));
    assert_eq!(world.at(10), ([false, false], Some(Duration::from_secs(16))));
    assert_eq!(world.at(16).0, [true, false]);
}
