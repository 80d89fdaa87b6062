use std::{net::IpAddr, path::PathBuf};

use super::{
    AccessList, CHECK_INTERVAL, CHECK_TIMEOUT, Group, Ids, Listener, ListenerSettings, LoadBalancer, Mode,
    Names, Pair, Plan, PlannedServer, Target,
};
use crate::{net::Family, server::Service};

#[test]
fn plan_renders_valid_configuration_without_warnings() {
    for mode in [Mode::Nat, Mode::FullNat, Mode::Dsr, Mode::Ipip, Mode::Gue] {
        is_valid(mode, false);
    }
    is_valid(Mode::Nat, true);
}

/// Sources of mode `full-nat`.
fn local_addresses(mode: Mode) -> Vec<IpAddr> {
    let all = [[10, 90, 0, 2].into(), [0xfd90, 0, 0, 0, 0, 0, 0, 2].into()];
    if mode == Mode::FullNat { all.into() } else { Vec::new() }
}

fn office() -> AccessList {
    let entries = ["192.0.2.0/24", "2001:db8::7"].map(str::to_owned);
    AccessList { name: "office", kind: "white", entries: entries.into() }
}

/// Targets of every kind, whatever groups they leave unused.
fn targets_are_valid(mut plan: Plan) {
    plan.pairs = vec![Pair {
        name: "pair".to_owned(),
        primary: ([10, 90, 1, 10], Service::Http.backend_port()).into(),
        secondary: ([10, 90, 2, 10], Service::Http.backend_port()).into(),
    }];
    let groups = Target::Groups {
        primary: "http".to_owned(),
        secondary: "http2".to_owned(),
        threshold: 1,
        failback_after: Some("1s"),
    };
    plan.groups.push(Group { name: "http2".to_owned(), id: None, ..plan.groups[0].clone() });
    let mut targets = vec![groups, Target::Group("http2".to_owned())];
    // The pair has servers of one family alone, which `full-nat` refuses.
    if plan.mode != Mode::FullNat {
        targets.push(Target::Pair("pair".to_owned()));
    }
    for target in targets {
        plan.listeners.entry(Service::Http).or_default().target = Some(target);
        let parsed = slb_config::parse("slb.toml", &plan.toml());
        parsed.unwrap_or_else(|rejected| panic!("{rejected}"));
    }
}

/// Every setting of a single listener but its servers.
fn bulk_settings() -> ListenerSettings {
    ListenerSettings {
        scheduler: Some("wlc"),
        on_no_healthy: Some("all"),
        state: Some("running"),
        bandwidth: Some("100Mbit"),
        new_connections: Some(1000),
        syn_cookies: None,
        target: None,
    }
}

fn is_valid(mode: Mode, direct: bool) {
    let server = |n: u8, weight| PlannedServer {
        name: format!("b{n}"),
        addresses: [[10, 90, n, 10].into(), [0xfd90, n.into(), 0, 0, 0, 0, 0, 10].into()].into(),
        weight,
    };
    let plan = Plan {
        interfaces: vec!["client0".to_owned(), "b1".to_owned()],
        pin_dir: PathBuf::from("/sys/fs/bpf/slbt-1-1"),
        socket: PathBuf::from("/run/slb.sock"),
        state_dir: PathBuf::from("/var/lib/slb"),
        flow_table_entries: super::FLOW_TABLE_ENTRIES,
        names: Names::default(),
        servers: vec![server(1, 100), server(2, 0)],
        mode,
        direct,
        tunnel_addresses: vec![[10, 90, 0, 1].into(), [0xfd90, 0, 0, 0, 0, 0, 0, 1].into()],
        local_addresses: local_addresses(mode),
        unknown_datagrams: matches!(mode, Mode::Dsr | Mode::Ipip | Mode::Gue).then_some("follow"),
        roles: [("client0".to_owned(), "client")].into(),
        xdp_mode: "auto",
        hash_seed: None,
        vips: Family::ALL.map(Family::vip).into(),
        state: Some("running"),
        unmatched: Some("drop"),
        announce: Some("arp"),
        check_interval: CHECK_INTERVAL,
        check_timeout: CHECK_TIMEOUT,
        listeners: [(Service::Bulk, bulk_settings())].into(),
        groups: vec![Group {
            name: "http".to_owned(),
            id: Some("web"),
            table_size: Some(1021),
            slow_start: None,
            servers: vec![
                (([10, 90, 1, 10], 8080).into(), 7),
                (([0xfd90, 1, 0, 0, 0, 0, 0, 10], 8080).into(), 7),
            ],
            quic_server_ids: Vec::new(),
        }],
        pairs: Vec::new(),
        additional_listeners: vec![Listener {
            drain_timeout: Some("10s"),
            ..Listener::new("more", "tcp", 4444, Target::DefaultGroup(7007))
        }],
        additional_load_balancers: vec![LoadBalancer {
            name: "other".to_owned(),
            addresses: vec![[198, 51, 100, 99].into()],
            listeners: vec![Listener {
                check: None,
                ..Listener::new("more", "udp", 53, Target::Group("echo".to_owned()))
            }],
        }],
        ids: Ids {
            load_balancer: Some("store"),
            listeners: [(Service::Bulk, "large")].into(),
            groups: [(Service::Echo, "datagrams")].into(),
        },
        max_servers: Some(2048),
        slow_start: [(Service::Echo, std::time::Duration::from_secs(5))].into(),
        checks: [(Service::Http, "kind = \"http\", path = \"/healthz\"")].into(),
        daemon: "probe_mark = 7\n".to_owned(),
        drain_timeout: Some("10s"),
        established_timeout: Some("10s"),
        scheduler: Some("wrr"),
        session_persistence: Some("5m"),
        access: Some(office()),
    };
    targets_are_valid(plan.clone());
    let parsed = slb_config::parse("slb.toml", &plan.toml());
    let loaded = parsed.unwrap_or_else(|rejected| panic!("{rejected}"));
    let services = Service::ALL.len() + if direct { 3 } else { 0 };
    let counts: Vec<_> = loaded.config.load_balancers.iter().map(|other| other.listeners.len()).collect();
    assert_eq!(counts, [1 + services, 1], "one additional listener, one additional load balancer");
    assert_eq!(loaded.warnings.to_string(), "");
    assert_eq!(loaded.config.daemon.interfaces, plan.interfaces);
}
