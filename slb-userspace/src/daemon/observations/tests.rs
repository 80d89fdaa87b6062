//! Tests: what health-check events and next hops change, and what is logged.

use std::sync::Arc;

use slb_common::{abi::MacPair, net::vlan::Vlan};

use super::*;
use crate::{
    neigh::{self, Resolution, Unresolved},
    telemetry::logged,
};
use slb_config::samples::shop;
use slb_control::{
    desired::desired, inputs::VipState, model::DesiredServer, one_way::AnswerCounts, targets::targets,
};

/// Observations of a daemon that has just started with this configuration, and the check of its first server.
fn started(config: &Config) -> (Observations, Target) {
    let mut observations = Observations::restored(config, &MapState::default(), BTreeMap::new());
    observations.expect([config], BTreeMap::new(), Duration::ZERO);
    let target = targets(config).into_iter().next().unwrap();
    (observations, target)
}

fn server_of(config: &Config, observations: &Observations, target: &Target) -> DesiredServer {
    let pools = desired(config, observations.known(&Overrides::new())).pools;
    let mut servers = pools.into_iter().flat_map(|pool| pool.servers);
    servers.find(|(address, _)| *address == target.address).unwrap().1
}

#[test]
fn unprobed_server_keeps_its_health_with_the_reason() {
    use slb_common::abi::health::ServerHealth::{Healthy, Unhealthy, Unknown};
    let config = shop(&[]);
    let (mut observations, target) = started(&config);
    let mut heard = |news: TargetUpdate| {
        observations.on_probe(TargetEvent { target: target.clone(), news }, Duration::ZERO);
        let server = server_of(&config, &observations, &target);
        (server.health, server.detail.unwrap_or_default())
    };
    let is = |health, detail: &str| (health, detail.to_owned());
    let not_probed = || TargetUpdate::NotProbed("not probed: no way".to_owned());
    assert_eq!(heard(not_probed()), is(Unknown, "not probed: no way"));
    assert_eq!(heard(TargetUpdate::Healthy), is(Healthy, ""));
    assert_eq!(heard(not_probed()), is(Healthy, "not probed: no way"));
    assert_eq!(heard(TargetUpdate::Probed), is(Healthy, ""));
    assert_eq!(heard(TargetUpdate::Unhealthy("refused".to_owned())), is(Unhealthy, "refused"));
    assert_eq!(heard(not_probed()), is(Unhealthy, "refused; not probed: no way"));
    observations.clear_not_probed();
    assert_eq!(server_of(&config, &observations, &target).detail.as_deref(), Some("refused"));
}

#[test]
fn explained_failure_gets_a_detail_and_is_logged_once() {
    let config = shop(&[]);
    let (mut observations, target) = started(&config);
    let log = logged(|| {
        for news in [
            TargetUpdate::Unhealthy("no answer".to_owned()),
            TargetUpdate::MoreDetail("no answer at the VIP".to_owned()),
        ] {
            observations.on_probe(TargetEvent { target: target.clone(), news }, Duration::ZERO);
        }
    });
    assert_eq!(log.matches(" unhealthy").count(), 1, "{log}");
    assert!(log.contains("no answer at the VIP"), "{log}");
    let server = server_of(&config, &observations, &target);
    assert_eq!(server.detail.as_deref(), Some("no answer at the VIP"));
}

/// All web servers of the shop are checked.
fn checked() -> Config {
    shop(&[(
        "server_group = \"web\"\n",
        "server_group = \"web\"\nhealth_check = { kind = \"http\", path = \"/\", passive = { failures = 3, within = \"5s\" } }\n",
    )])
}

/// Expects these fields in a log line, beside those that identify its listener.
#[track_caller]
fn expect_fields(line: &str, fields: &[&str]) {
    let users = ["load_balancer=\"shop\"", "listener=\"web\"", "server_group=\"web\"", "check=\"http\""];
    for field in users.iter().chain(fields) {
        assert!(line.contains(field), "{field} is missing: {line}");
    }
}

#[test]
fn health_log_line_names_users_and_previous_duration() {
    let config = checked();
    let (mut observations, target) = started(&config);
    let log = logged(|| {
        let mut heard = |news, second| {
            observations.on_probe(TargetEvent { target: target.clone(), news }, Duration::from_secs(second));
        };
        heard(TargetUpdate::Healthy, 1);
        heard(TargetUpdate::Unhealthy("refused".to_owned()), 61);
        heard(TargetUpdate::NotProbed("no way".to_owned()), 62);
        heard(TargetUpdate::Healthy, 64);
    });
    let lines: Vec<_> = log.lines().collect();
    let [first, unhealthy, not_probed, again] = lines[..] else { panic!("{log}") };
    expect_fields(first, &["server=10.0.0.11:8080", "healthy"]);
    assert!(!first.contains("lasted"), "{first}");
    expect_fields(unhealthy, &["server=10.0.0.11:8080", "lasted=60s", "detail=\"refused\""]);
    expect_fields(not_probed, &["server=10.0.0.11:8080", "detail=\"no way\""]);
    expect_fields(again, &["lasted=3s"]);
}

#[test]
fn ejection_log_line_names_users_and_previous_duration() {
    let config = checked();
    let (mut observations, target) = started(&config);
    let (server, policy) = watched(&target).unwrap();
    let other = outlier_detection::DetectorServer {
        is_counted: true,
        can_serve: true,
        signals: outlier_detection::PassiveSignals::default(),
    };
    let fails =
        outlier_detection::PassiveSignals { silent: 3, ..outlier_detection::PassiveSignals::default() };
    let servers = [
        (server, outlier_detection::DetectorServer { signals: fails, ..other }),
        (SocketAddr::from(([10, 0, 0, 12], 8081)), other),
    ];
    let pool = DetectorPool { policy, servers: servers.into() };
    let log = logged(|| {
        observations.on_probe(
            TargetEvent { target: target.clone(), news: TargetUpdate::Healthy },
            Duration::from_secs(1),
        );
        assert!(observations.on_outcomes(std::slice::from_ref(&pool), Duration::from_secs(9)));
        let well = DetectorPool { policy, servers: servers.map(|(address, _)| (address, other)).into() };
        assert!(observations.on_outcomes(&[well], Duration::from_secs(29)));
    });
    let lines: Vec<_> = log.lines().collect();
    let [_, held, back] = lines[..] else { panic!("{log}") };
    expect_fields(held, &["server=10.0.0.11:8080", "lasted=8s", "duration=6s"]);
    expect_fields(back, &["server=10.0.0.11:8080", "lasted=20s"]);
}

#[test]
fn next_hop_log_line_names_users_and_next_hop() {
    let config = checked();
    let interfaces = BTreeMap::from([(2, "eth0".to_owned())]);
    let mut observations = Observations::restored(&config, &MapState::default(), interfaces);
    observations.expect([&config], BTreeMap::new(), Duration::ZERO);
    let server: IpAddr = [10, 0, 0, 11].into();
    let log = logged(|| {
        let mut on_next_hops = |resolution: Resolution, second| {
            observations
                .on_next_hops(&BTreeMap::from([(server, resolution)]).into(), Duration::from_secs(second));
        };
        on_next_hops(hop(), 1);
        on_next_hops(no_answer(true), 11);
        on_next_hops(hop(), 14);
        let Resolution::Resolved(hop) = hop() else { panic!() };
        on_next_hops(Resolution::Resolved(neigh::NextHop { destination_mac: [6; 6], ..hop }), 15);
    });
    let lines: Vec<_> = log.lines().collect();
    let [lost, again, other] = lines[..] else { panic!("{log}") };
    expect_fields(lost, &["server=10.0.0.11", "lasted=10s", "why=\"10.0.0.1 does not answer on eth0\""]);
    expect_fields(again, &["server=10.0.0.11", "lasted=3s", "interface=\"eth0\""]);
    expect_fields(
        other,
        &["server=10.0.0.11", "interface=\"eth0\"", "mac=\"06:06:06:06:06:06\"", "mtu=1500"],
    );
}

/// The log of two servers that get these next hops one after the other.
fn logged_of_next_hops(resolutions: &[Resolution]) -> String {
    let config = checked();
    let interfaces = BTreeMap::from([(2, "eth0".to_owned())]);
    let mut observations = Observations::restored(&config, &MapState::default(), interfaces);
    observations.expect([&config], BTreeMap::new(), Duration::ZERO);
    logged(|| {
        for (resolution, second) in resolutions.iter().zip(1..) {
            let servers = [11, 12].map(|last| IpAddr::from([10, 0, 0, last]));
            let all: BTreeMap<_, _> =
                servers.into_iter().map(|server| (server, resolution.clone())).collect();
            observations.on_next_hops(&all.into(), Duration::from_secs(second));
        }
    })
}

fn changed(change: impl FnOnce(&mut neigh::NextHop)) -> Resolution {
    let Resolution::Resolved(mut hop) = hop() else { panic!() };
    change(&mut hop);
    Resolution::Resolved(hop)
}

#[test]
fn gateway_change_logs_one_line_for_all_servers_behind_it() {
    let other = changed(|hop| hop.destination_mac = [6; 6]);
    let log = logged_of_next_hops(&[hop(), other, no_answer(true), hop()]);
    let lines: Vec<_> = log.lines().collect();
    let [changed, lost, again] = lines[..] else { panic!("{log}") };
    let both = ["count=2", "servers=\"10.0.0.11, 10.0.0.12\""];
    expect_fields(
        changed,
        &[&both[..], &["next hop changed", "mac=\"06:06:06:06:06:06\"", "mtu=1500"]].concat(),
    );
    expect_fields(
        lost,
        &[&both[..], &["WARN", "gets no packets", "lasted=2s", "why=\"10.0.0.1 does not"]].concat(),
    );
    expect_fields(again, &[&both[..], &["gets packets again", "lasted=1s"]].concat());
}

#[test]
fn next_hop_log_line_names_the_changed_field() {
    let smaller = changed(|hop| hop.mtu = 1400);
    let routed = changed(|hop| (hop.mtu, hop.through_gateway) = (1400, true));
    let log = logged_of_next_hops(&[hop(), smaller.clone(), routed, smaller]);
    let lines: Vec<_> = log.lines().collect();
    let [mtu, routed, direct] = lines[..] else { panic!("{log}") };
    expect_fields(mtu, &["path MTU changed", "mtu=1400", "before=1500", "interface=\"eth0\""]);
    expect_fields(routed, &["reached through a gateway now"]);
    expect_fields(direct, &["reached without a gateway now"]);
    assert!(!log.contains("next hop changed"), "{log}");
}

/// The log after five unanswered connections to the first web server, with this check and this result of it.
fn logged_of_silence(check: &str, news: &TargetUpdate) -> String {
    let group = "server_group = \"web\"\n";
    let config = shop(&[(group, &format!("{group}{check}"))]);
    let interfaces = BTreeMap::from([(2, "eth0".to_owned())]);
    let mut observations = Observations::restored(&config, &MapState::default(), interfaces);
    observations.expect([&config], BTreeMap::new(), Duration::ZERO);
    for target in targets(&config) {
        observations.on_probe(TargetEvent { target, news: news.clone() }, Duration::ZERO);
    }
    let server = SocketAddr::from(([10, 0, 0, 11], 8080));
    observations.on_next_hops(&BTreeMap::from([(server.ip(), hop())]).into(), Duration::ZERO);
    let silent =
        BTreeMap::from([(server, AnswerCounts { answered: 0, silent: 5, ..AnswerCounts::default() })]);
    logged(|| {
        observations.on_answers(&silent);
    })
}

#[test]
fn one_way_traffic_log_line_depends_on_the_check_result() {
    let (own, other) = ("kind = \"tcp\"", "kind = \"tcp\", port = 9000");
    let failed = TargetUpdate::Unhealthy("refused".to_owned());
    let route = "the server passes its check, and its answers do not return";
    let unknown = "no answer to new connections of the server passes through SLB";
    for (check, news, said) in [
        ("kind = \"none\"", TargetUpdate::Healthy, Some(unknown)),
        (own, TargetUpdate::Healthy, Some(route)),
        (own, failed.clone(), None),
        // They do not check the port.
        (other, TargetUpdate::Healthy, Some(unknown)),
        ("kind = \"icmp\"", TargetUpdate::Healthy, Some(unknown)),
        (other, failed.clone(), None),
        ("kind = \"icmp\"", failed, None),
    ] {
        let settings =
            if check.is_empty() { String::new() } else { format!("health_check = {{ {check} }}\n") };
        let log = logged_of_silence(&settings, &news);
        let lines = log.lines().filter(|line| line.contains("WARN")).collect::<Vec<_>>();
        assert_eq!(lines.len(), usize::from(said.is_some()), "{check} {news:?}: {log}");
        let fields = [said.unwrap_or_default(), "unanswered=5", "within=30s", "server=10.0.0.11:8080"];
        assert!(said.is_none() || fields.iter().all(|field| log.contains(field)), "{check} {news:?}: {log}");
    }
}

#[test]
fn failover_log_line_names_group_and_previous_duration_through_a_rename() {
    let sides = "primary = \"web\"\nsecondary = \"spare\"\nfailover_threshold = 1\n\
                 failback_after = \"5m\"\nhealth_check = { kind = \"http\", path = \"/\" }\n";
    let spare = "[[server_group]]\nname = \"spare\"\nservers = [{ address = \"10.0.0.31\", port = 80 }]\n\
                 [[server_group]]\nname = \"web\"\n";
    let config = shop(&[("server_group = \"web\"\n", sides), ("[[server_group]]\nname = \"web\"\n", spare)]);
    // The same objects with other names.
    let renamed = shop(&[
        ("server_group = \"web\"\n", sides),
        ("[[server_group]]\nname = \"web\"\n", spare),
        ("name = \"shop\"", "id = \"shop\"\nname = \"store\""),
        ("name = \"web\"\nprotocol", "id = \"web\"\nname = \"www\"\nprotocol"),
    ]);
    let mut observations = Observations::restored(&config, &MapState::default(), BTreeMap::new());
    let at = Duration::from_secs;
    observations.expect([&config], BTreeMap::new(), at(0));
    let log = logged(|| {
        let mut play = |config: &Config, healthy: &[&str], second| {
            observations.expect([config], BTreeMap::new(), at(second));
            for target in targets(config) {
                let news = match healthy.contains(&target.address.ip().to_string().as_str()) {
                    true => TargetUpdate::Healthy,
                    false => TargetUpdate::Unhealthy("refused".to_owned()),
                };
                observations.on_probe(TargetEvent { target, news }, at(second));
            }
            let decision = observations.decide(config, &Overrides::new(), at(second));
            observations.on_decision(decision, at(second));
        };
        play(&config, &["10.0.0.31"], 7);
        play(&config, &["10.0.0.11", "10.0.0.12", "10.0.0.31"], 9);
        // `failback_after` has passed.
        play(&renamed, &["10.0.0.11", "10.0.0.12", "10.0.0.31"], 309);
    });
    let line = |what: &str| log.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{log}"));
    let over = line("failover: the secondary");
    assert!(over.contains("server_group=\"spare\"") && over.contains("lasted=7s"), "{over}");
    assert!(
        over.contains("load_balancer=\"shop\" listener=\"web\"") && over.contains("check=\"http\""),
        "{over}"
    );
    let back = line("failback: the primary");
    assert!(
        back.contains("load_balancer=\"store\" listener=\"www\"") && back.contains("lasted=302s"),
        "{back}"
    );
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

fn with_interface() -> Observations {
    let interfaces = BTreeMap::from([(2, "eth0".to_owned())]);
    Observations::restored(&shop(&[]), &MapState::default(), interfaces)
}

#[test]
fn new_or_changed_next_hop_is_urgent_and_lost_one_is_noted() {
    let mut observations = with_interface();
    let mut on_next_hops = |resolution: Resolution, seconds| {
        let map = BTreeMap::from([(SERVER.into(), resolution)]);
        let urgent = observations.on_next_hops(&map.into(), Duration::from_secs(seconds));
        (urgent, observations.lost.get(&IpAddr::from(SERVER)).map(Duration::as_secs))
    };
    assert_eq!(on_next_hops(no_answer(true), 0), (false, None), "it never had one");
    assert_eq!(on_next_hops(hop(), 1), (true, None));
    assert_eq!(on_next_hops(hop(), 2), (false, None));
    assert_eq!(on_next_hops(no_answer(true), 3), (false, Some(3)));
    assert_eq!(on_next_hops(Resolution::Unresolved(Unresolved::NoRoute), 4), (false, Some(3)));
    assert_eq!(on_next_hops(hop(), 5), (true, None));
    // A next hop on an unconfigured interface is no loss.
    let Resolution::Resolved(other) = hop() else { panic!() };
    let elsewhere = neigh::NextHop { interface_index: 3, ..other };
    assert_eq!(on_next_hops(Resolution::Resolved(elsewhere), 6), (false, None));
}

#[test]
fn next_hop_over_a_vlan_device_leaves_by_the_interface_below_in_its_vlan() {
    let mut observations = with_interface();
    let Resolution::Resolved(other) = hop() else { panic!() };
    let (interface_index, interface) = (7, "eth0.100".to_owned());
    let over_vlan = Resolution::Resolved(neigh::NextHop { interface_index, interface, ..other });
    let resolve = |observations: &mut Observations| {
        let map = BTreeMap::from([(SERVER.into(), over_vlan.clone())]);
        observations.on_next_hops(&map.into(), Duration::ZERO);
        observations.next_hops[&IpAddr::from(SERVER)].clone().map(|route| route.hop)
    };
    assert!(
        resolve(&mut observations).unwrap_err().contains("eth0.100, which is not in [daemon] interfaces")
    );
    let vlan = Vlan::new(100, false);
    observations.set_vlans(BTreeMap::from([(7, VlanExit { below: 2, vlan })]));
    let macs = MacPair::new([4; 6], [2; 6]).in_vlan(vlan);
    assert_eq!(resolve(&mut observations), Ok(NextHop { ifindex: 2, mtu: 1500, macs }));
    // The interface below does not run the program any more.
    observations.set_vlans(BTreeMap::from([(7, VlanExit { below: 3, vlan })]));
    assert!(resolve(&mut observations).is_err());
}

#[test]
fn next_hop_of_an_earlier_run_is_used_until_resolution_fails() {
    let mut observations = with_interface();
    let left = NextHop { ifindex: 2, mtu: 1500, macs: MacPair::new([4; 6], [2; 6]) };
    observations.restored.insert(SERVER.into(), left);
    let mut is_used = |resolution: Resolution| {
        observations.on_next_hops(&BTreeMap::from([(SERVER.into(), resolution)]).into(), Duration::ZERO);
        observations.has_next_hop_to(&SERVER.into())
    };
    assert!(is_used(no_answer(false)));
    assert!(!is_used(no_answer(true)));
    assert!(!is_used(Resolution::Unresolved(Unresolved::NoRoute)));
}

#[test]
fn host_need_not_answer_for_announced_vips() {
    let vip: IpAddr = "192.0.2.10".parse().unwrap();
    let mut observations = with_interface();
    let unanswered = VipState { unanswered: Some("no such address".to_owned()), ..VipState::default() };
    let shown = |observations: &Observations| observations.vips()[&vip].unanswered.is_some();
    observations.set_announced([vip].into());
    let lines = logged(|| observations.set_vips(Arc::new([(vip, unanswered)].into())));
    assert!(!lines.contains("not reachable"), "{lines}");
    assert!(!shown(&observations));
    // The last reading is kept.
    let lines = logged(|| observations.set_announced(BTreeSet::new()));
    assert!(lines.contains("VIP not reachable from a link"), "{lines}");
    assert!(shown(&observations));
}
