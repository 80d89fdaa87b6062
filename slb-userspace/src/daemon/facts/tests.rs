//! What is kept of what probers say, and what the log says of it.

use super::*;
use crate::{
    config::samples::shop,
    control::{
        desired::{self, Server, desired},
        targets::targets,
    },
    neigh::{self, Unresolved},
    telemetry::logged,
};

/// The facts of a daemon that has just started with this configuration, and the check of its first server.
fn started(config: &Config) -> (Facts, Target) {
    let mut facts = Facts::remembered(config, &State::default(), BTreeMap::new());
    facts.expect(targets(config), BTreeMap::new());
    let target = targets(config).into_iter().next().unwrap();
    (facts, target)
}

fn server_of(config: &Config, facts: &Facts, target: &Target) -> Server {
    let pools = desired(config, facts.known(&Overrides::new())).pools;
    let mut servers = pools.into_iter().flat_map(|pool| pool.servers);
    servers.find(|(address, _)| *address == target.address).unwrap().1
}

#[test]
fn what_is_not_probed_keeps_its_health_and_says_so() {
    use desired::Health::{Healthy, Unhealthy, Unknown};
    let config = shop(&[]);
    let (mut facts, target) = started(&config);
    let mut heard = |news: News| {
        facts.heed(Event { target: target.clone(), news });
        let server = server_of(&config, &facts, &target);
        (server.health, server.detail.unwrap_or_default())
    };
    let is = |health, detail: &str| (health, detail.to_owned());
    let not_probed = || News::NotProbed("not probed: no way".to_owned());
    assert_eq!(heard(not_probed()), is(Unknown, "not probed: no way"));
    assert_eq!(heard(News::Healthy), is(Healthy, ""));
    assert_eq!(heard(not_probed()), is(Healthy, "not probed: no way"));
    assert_eq!(heard(News::Probed), is(Healthy, ""));
    assert_eq!(heard(News::Unhealthy("refused".to_owned())), is(Unhealthy, "refused"));
    assert_eq!(heard(not_probed()), is(Unhealthy, "refused; not probed: no way"));
    facts.forget_not_probed();
    assert_eq!(server_of(&config, &facts, &target).detail.as_deref(), Some("refused"));
}

#[test]
fn what_is_found_out_of_a_failure_is_its_detail_and_no_second_one() {
    let config = shop(&[]);
    let (mut facts, target) = started(&config);
    let log = logged(|| {
        for news in
            [News::Unhealthy("no answer".to_owned()), News::Explained("no answer at the VIP".to_owned())]
        {
            facts.heed(Event { target: target.clone(), news });
        }
    });
    assert_eq!(log.matches(" unhealthy").count(), 1, "{log}");
    assert!(log.contains("no answer at the VIP"), "{log}");
    let server = server_of(&config, &facts, &target);
    assert_eq!(server.detail.as_deref(), Some("no answer at the VIP"));
}

const SERVER: [u8; 4] = [10, 0, 0, 1];

fn hop() -> Resolution {
    Resolution::Resolved(neigh::NextHop {
        interface_index: 2,
        interface: "eth0".to_owned(),
        source_mac: [2; 6],
        destination_mac: [4; 6],
        mtu: 1500,
        through_gateway: false,
    })
}

fn no_answer(has_failed: bool) -> Resolution {
    let interface = "eth0".to_owned();
    Resolution::Unresolved(Unresolved::NoNeighbour { next_hop: SERVER.into(), interface, has_failed })
}

fn with_interface() -> Facts {
    let interfaces = BTreeMap::from([(2, "eth0".to_owned())]);
    Facts::remembered(&shop(&[]), &State::default(), interfaces)
}

#[test]
fn next_hop_that_comes_or_changes_is_urgent_and_one_that_goes_is_noted() {
    let mut facts = with_interface();
    let mut learn = |resolution: Resolution, seconds| {
        let map = BTreeMap::from([(SERVER.into(), resolution)]);
        let urgent = facts.learn(&map.into(), Duration::from_secs(seconds));
        (urgent, facts.lost.get(&IpAddr::from(SERVER)).map(Duration::as_secs))
    };
    assert_eq!(learn(no_answer(true), 0), (false, None), "it never had one");
    assert_eq!(learn(hop(), 1), (true, None));
    assert_eq!(learn(hop(), 2), (false, None));
    assert_eq!(learn(no_answer(true), 3), (false, Some(3)));
    assert_eq!(learn(Resolution::Unresolved(Unresolved::NoRoute), 4), (false, Some(3)));
    assert_eq!(learn(hop(), 5), (true, None));
    // What the configuration says is no blip.
    let Resolution::Resolved(other) = hop() else { panic!() };
    let elsewhere = neigh::NextHop { interface_index: 3, ..other };
    assert_eq!(learn(Resolution::Resolved(elsewhere), 6), (false, None));
}

#[test]
fn next_hop_of_an_earlier_run_ends_with_the_kernels_verdict() {
    let mut facts = with_interface();
    let left = NextHop { ifindex: 2, mtu: 1500, stations: Stations::new([4; 6], [2; 6]) };
    facts.remembered.insert(SERVER.into(), left);
    let mut is_used = |resolution: Resolution| {
        facts.learn(&BTreeMap::from([(SERVER.into(), resolution)]).into(), Duration::ZERO);
        facts.has_way_to(&SERVER.into())
    };
    assert!(is_used(no_answer(false)));
    assert!(!is_used(no_answer(true)));
    assert!(!is_used(Resolution::Unresolved(Unresolved::NoRoute)));
}
