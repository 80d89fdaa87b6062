//! Valid configurations: defaults, limits, and the shipped example.

use std::{net::IpAddr, path::Path, time::Duration};

use super::{BASE, accepted, changed};
use crate::{
    load,
    model::{
        Announce, CertificateCheck, CheckKind, ExpectedStatus, HealthCheck, HttpCheck, HttpMethod,
        ListenerTarget, Mode, OnNoHealthy, PassiveCheck, Protocol, RunState, Scheduler, TlsCheck, Tracking,
        UdpCheck, UnknownDatagrams, XdpMode,
    },
};

const DEFAULT_CHECK: HealthCheck = HealthCheck {
    kind: CheckKind::Tcp,
    port: None,
    interval: Duration::from_secs(2),
    timeout: Duration::from_secs(5),
    healthy_threshold: 3,
    unhealthy_threshold: 3,
    passive: None,
};

#[test]
fn unset_settings_have_their_defaults() {
    let config = accepted(BASE);
    assert_eq!(config.daemon.interfaces, ["eth0"]);
    assert_eq!(config.daemon.xdp_mode, XdpMode::Auto);
    assert_eq!(config.daemon.pin_dir, Path::new("/sys/fs/bpf/slb"));
    assert_eq!(config.daemon.socket, Path::new("/run/slb/slbd.sock"));
    assert_eq!(config.daemon.read_only_socket, None);
    assert_eq!(config.daemon.metrics_address, None);
    assert_eq!(config.daemon.flow_table_entries, 262_144);
    assert_eq!(config.daemon.max_servers, 16_384);
    assert_eq!(config.daemon.tunnel_addresses, [] as [IpAddr; 0]);
    assert_eq!(config.daemon.gue_port, 6080);
    assert_eq!(config.daemon.local_addresses, [] as [IpAddr; 0]);
    assert_eq!(config.daemon.hash_seed, None);
    assert_eq!((config.daemon.probe_source.as_slice(), config.daemon.probe_mark), ([].as_slice(), None));

    let [shop] = config.load_balancers.as_slice() else { panic!("{config:?}") };
    assert_eq!(shop.name.as_str(), "shop");
    assert_eq!(shop.addresses, ["192.0.2.10".parse::<IpAddr>().expect("address")]);
    assert_eq!(shop.table_size.slots(), 65_537);
    assert_eq!(shop.servers[0].address, "10.0.0.21".parse::<IpAddr>().expect("address"));
    assert_eq!(shop.servers[0].weight.value(), 100);

    let [dns, web] = shop.listeners.as_slice() else { panic!("{shop:?}") };
    assert_eq!((dns.name.as_str(), dns.protocol, dns.port), ("dns", Protocol::Udp, 53.into()));
    assert_eq!(dns.target, ListenerTarget::DefaultGroup { default_group_port: 5353 });
    assert_eq!((dns.mode, &dns.health_check), (Mode::Nat, &None));
    assert_eq!((dns.tracking, dns.unknown_datagrams), (Tracking::Auto, UnknownDatagrams::Keep));
    assert_eq!((web.name.as_str(), web.protocol, web.port), ("web", Protocol::Tcp, 80.into()));
    assert_eq!((web.state, web.on_no_healthy), (RunState::Running, OnNoHealthy::Drop));
    assert_eq!((web.scheduler, shop.state), (Scheduler::Maglev, RunState::Running));
    assert_eq!((web.session_persistence, dns.session_persistence), (None, None));
    assert_eq!((web.mode, &web.health_check), (Mode::Nat, &Some(DEFAULT_CHECK)));

    let [group] = config.server_groups.as_slice() else { panic!("{config:?}") };
    assert_eq!(web.target, ListenerTarget::ServerGroup(group.name.clone()));
    assert_eq!(group.table_size.slots(), 65_537);
    let servers: Vec<_> = group
        .servers
        .iter()
        .map(|server| (server.address.to_string(), server.port, server.weight.value()))
        .collect();
    assert_eq!(servers, [("10.0.0.11".to_owned(), 8080, 100), ("10.0.0.12".to_owned(), 8081, 100)]);
}

#[test]
fn daemon_settings_are_accepted() {
    let config = accepted(&changed(
        "interfaces = [\"eth0\"]",
        "interfaces = [\"eth0\", \"abcdefghijklmno\"]\nxdp_mode = \"native\"\npin_dir = \"/a\"\nsocket = \"/b\"\nread_only_socket = \"/c\"\n\
         metrics_address = \"[::1]:9813\"\n\
         flow_table_entries = 1024\nhash_seed = 18446744073709551615",
    ));
    assert_eq!(config.daemon.interfaces, ["eth0", "abcdefghijklmno"]);
    assert_eq!(config.daemon.xdp_mode, XdpMode::Native);
    assert_eq!(config.daemon.pin_dir, Path::new("/a"));
    assert_eq!(config.daemon.socket, Path::new("/b"));
    assert_eq!(config.daemon.read_only_socket.as_deref(), Some(Path::new("/c")));
    assert_eq!(config.daemon.metrics_address, Some("[::1]:9813".parse().unwrap()));
    assert_eq!(config.daemon.flow_table_entries, 1_024);
    assert_eq!(config.daemon.hash_seed, Some(u64::MAX));
    let with = |line: &str| changed("[daemon]", &format!("[daemon]\n{line}"));
    assert_eq!(accepted(&with("xdp_mode = \"generic\"")).daemon.xdp_mode, XdpMode::Generic);
    assert_eq!(accepted(&with("xdp_mode = \"auto\"")).daemon.xdp_mode, XdpMode::Auto);
    let probes = accepted(&with("probe_source = [\"fd00::2\", \"10.0.0.2\"]\nprobe_mark = 0x51b")).daemon;
    let sources: Vec<_> = probes.probe_source.iter().map(ToString::to_string).collect();
    assert_eq!(
        (sources, probes.probe_mark),
        (vec!["fd00::2".to_owned(), "10.0.0.2".to_owned()], Some(0x51b))
    );
    assert_eq!(accepted(&with("flow_table_entries = 16777216")).daemon.flow_table_entries, 1 << 24);
}

#[test]
fn forwarding_modes_are_accepted() {
    let text = BASE
        .replace(
            "[daemon]",
            "[daemon]\nmax_servers = 1048576\ntunnel_addresses = [\"fd00::1\", \"10.0.0.1\"]",
        )
        .replace(
            "default_group_port = 5353",
            "default_group_port = 53\nmode = \"ipip\"\ntracking = \"always\"\nunknown_datagrams = \"follow\"",
        )
        .replace("server_group = \"web\"", "server_group = \"web\"\nmode = \"dsr\"\ntracking = \"auto\"")
        .replace("port = 8080", "port = 80")
        .replace("port = 8081", "port = 80");
    let config = accepted(&text);
    assert_eq!(config.daemon.max_servers, 1 << 20);
    let addresses: Vec<_> = config.daemon.tunnel_addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["fd00::1", "10.0.0.1"]);
    let [dns, web] = config.load_balancers[0].listeners.as_slice() else { panic!("{config:?}") };
    assert_eq!((dns.mode, dns.tracking), (Mode::Ipip, Tracking::Always));
    assert_eq!(dns.unknown_datagrams, UnknownDatagrams::Follow);
    assert_eq!((web.mode, web.tracking), (Mode::Dsr, Tracking::Auto));
}

#[test]
fn drain_and_idle_timeouts_are_accepted() {
    let seconds = Duration::from_secs;
    let config = accepted(BASE);
    let [dns, web] = config.load_balancers[0].listeners.as_slice() else { panic!("{config:?}") };
    assert_eq!((dns.drain_timeout, dns.idle_timeout), (None, seconds(90)));
    assert_eq!((web.drain_timeout, web.idle_timeout), (None, seconds(900)));
    let with = |lines: &str| {
        let text = format!("server_group = \"web\"\n{lines}");
        let config = accepted(&changed("server_group = \"web\"", &text));
        let web = &config.load_balancers[0].listeners[1];
        (web.drain_timeout, web.idle_timeout)
    };
    assert_eq!(with("drain_timeout = \"off\""), (None, seconds(900)));
    let least = "drain_timeout = \"10s\"\nestablished_timeout = \"10s\"";
    assert_eq!(with(least), (Some(seconds(10)), seconds(10)));
    let most = "drain_timeout = \"15m\"\nestablished_timeout = \"900s\"";
    assert_eq!(with(most), (Some(seconds(900)), seconds(900)));
    let datagrams =
        accepted(&changed("default_group_port = 5353", "default_group_port = 5353\ndrain_timeout = \"30s\""));
    assert_eq!(datagrams.load_balancers[0].listeners[0].drain_timeout, Some(seconds(30)));
}

#[test]
fn schedulers_are_accepted() {
    let with = |lines: &str| {
        let text = format!("server_group = \"web\"\n{lines}");
        let config = accepted(&changed("server_group = \"web\"", &text));
        let web = &config.load_balancers[0].listeners[1];
        (web.scheduler, web.session_persistence)
    };
    for (word, scheduler) in [
        ("maglev", Scheduler::Maglev),
        ("maglev-client", Scheduler::MaglevClient),
        ("rr", Scheduler::RoundRobin),
        ("wrr", Scheduler::WeightedRoundRobin),
        ("wlc", Scheduler::WeightedLeastConnections),
    ] {
        let line = format!("scheduler = \"{word}\"");
        assert_eq!(with(&line), (scheduler, None));
        let kept = format!("{line}\nsession_persistence = \"90s\"");
        assert_eq!(with(&kept), (scheduler, Some(Duration::from_secs(90))));
    }
    let off = ["off", "0s", "0ms", "0m", "0h", "00s"].map(|none| (none, None));
    let on = [("1s", Some(1)), ("5m", Some(300)), ("1h", Some(3_600))];
    for (time, persistence) in off.into_iter().chain(on) {
        let line = format!("session_persistence = \"{time}\"");
        assert_eq!(with(&line), (Scheduler::Maglev, persistence.map(Duration::from_secs)));
    }
    let lines = "default_group_port = 5353\nscheduler = \"wlc\"\nsession_persistence = \"1h\"";
    let datagrams = accepted(&changed("default_group_port = 5353", lines));
    let dns = &datagrams.load_balancers[0].listeners[0];
    let expected = (Scheduler::WeightedLeastConnections, Some(Duration::from_secs(3_600)));
    assert_eq!((dns.scheduler, dns.session_persistence), expected);
}

#[test]
fn slow_starts_are_accepted() {
    let config = accepted(BASE);
    assert_eq!((config.load_balancers[0].slow_start, config.server_groups[0].slow_start), (None, None));
    let text = BASE
        .replace("name = \"shop\"", "name = \"shop\"\nslow_start = \"1s\"")
        .replace("[[server_group]]\n", "[[server_group]]\nslow_start = \"5m\"\n");
    let config = accepted(&text);
    assert_eq!(config.load_balancers[0].slow_start, Some(Duration::from_secs(1)));
    assert_eq!(config.server_groups[0].slow_start, Some(Duration::from_secs(300)));
    let off = accepted(&changed("[[server_group]]", "[[server_group]]\nslow_start = \"off\""));
    assert_eq!(off.server_groups[0].slow_start, None);
}

#[test]
fn health_checks_are_accepted() {
    let with = |check: &str| {
        let config = accepted(&changed(
            "server_group = \"web\"",
            &format!("server_group = \"web\"\nhealth_check = {check}"),
        ));
        config.load_balancers[0].listeners[1].health_check.clone()
    };
    assert_eq!(with("{ kind = \"tcp\" }"), Some(DEFAULT_CHECK));
    assert_eq!(with("{ kind = \"none\" }"), None);
    let passive = |failures, seconds| {
        let passive = PassiveCheck { failures, within: Duration::from_secs(seconds) };
        Some(HealthCheck { passive: Some(passive), ..DEFAULT_CHECK })
    };
    assert_eq!(with("{ kind = \"tcp\", passive = {} }"), passive(5, 10));
    assert_eq!(with("{ kind = \"tcp\", passive = { failures = 2, within = \"1m\" } }"), passive(2, 60));
    let least = HealthCheck {
        kind: CheckKind::Tcp,
        port: Some(1),
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(1_500),
        healthy_threshold: 1,
        unhealthy_threshold: 2,
        passive: None,
    };
    assert_eq!(
        with(
            "{ kind = \"tcp\", port = 1, interval = \"1s\", timeout = \"1500ms\", healthy_threshold = 1, unhealthy_threshold = 2 }"
        ),
        Some(least)
    );
    let most = HealthCheck {
        kind: CheckKind::Tcp,
        port: Some(65_535),
        interval: Duration::from_secs(50),
        timeout: Duration::from_secs(300),
        healthy_threshold: 9,
        unhealthy_threshold: 10,
        passive: None,
    };
    assert_eq!(
        with(
            "{ kind = \"tcp\", port = 65535, interval = \"50s\", timeout = \"5m\", healthy_threshold = 9, unhealthy_threshold = 10 }"
        ),
        Some(most)
    );
}

#[test]
fn health_check_kinds_are_accepted() {
    let with = |check: &str| {
        let config = accepted(&changed(
            "server_group = \"web\"",
            &format!("server_group = \"web\"\nhealth_check = {{ {check} }}"),
        ));
        config.load_balancers[0].listeners[1].health_check.clone()
    };
    let http = HttpCheck {
        method: HttpMethod::Head,
        path: "/".to_owned(),
        host: None,
        expect: vec![ExpectedStatus::Class(2)],
        tls: None,
    };
    let of = |kind| Some(HealthCheck { kind, ..DEFAULT_CHECK });
    assert_eq!(with("kind = \"http\""), of(CheckKind::Http(http.clone())));
    assert_eq!(
        with("kind = \"https\""),
        of(CheckKind::Http(HttpCheck { tls: Some(CertificateCheck::Any), ..http.clone() }))
    );
    assert_eq!(
        with("kind = \"https\", verify = true, expect = 204"),
        of(CheckKind::Http(HttpCheck {
            tls: Some(CertificateCheck::Verified),
            expect: vec![ExpectedStatus::Code(204)],
            ..http.clone()
        }))
    );
    assert_eq!(
        with(
            "kind = \"http\", method = \"GET\", path = \"/a?b=%20\", host = \"[2001:db8::1]:80\", expect = [\"3xx\", 200, 599]"
        ),
        of(CheckKind::Http(HttpCheck {
            method: HttpMethod::Get,
            path: "/a?b=%20".to_owned(),
            host: Some("[2001:db8::1]:80".to_owned()),
            expect: vec![ExpectedStatus::Class(3), ExpectedStatus::Code(200), ExpectedStatus::Code(599)],
            tls: None,
        }))
    );
    let tls =
        |host: Option<&str>, verify| of(CheckKind::Tls(TlsCheck { host: host.map(str::to_owned), verify }));
    assert_eq!(with("kind = \"tls\""), tls(None, CertificateCheck::Any));
    assert_eq!(
        with("kind = \"tls\", host = \"a.b\", verify = true"),
        tls(Some("a.b"), CertificateCheck::Verified)
    );
    assert_eq!(with("kind = \"icmp\""), of(CheckKind::Icmp));
    let udp = |request: &[u8], expect: Option<&[u8]>| {
        Some(HealthCheck {
            kind: CheckKind::Udp(UdpCheck { request: request.to_vec(), expect: expect.map(<[u8]>::to_vec) }),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
            ..DEFAULT_CHECK
        })
    };
    assert_eq!(with("kind = \"udp\""), udp(b"", None));
    assert_eq!(with("kind = \"udp\", request = \"ping\""), udp(b"ping", None));
    assert_eq!(
        with("kind = \"udp\", request = \"hex:00fF\", expect = \"süß\""),
        udp(&[0, 255], Some("süß".as_bytes()))
    );
    let longest = "x".repeat(500);
    assert_eq!(with(&format!("kind = \"udp\", request = \"{longest}\"")), udp(longest.as_bytes(), None));
}

#[test]
fn udp_listeners_may_have_a_tcp_check() {
    let config = accepted(&changed(
        "default_group_port = 5353",
        "default_group_port = 5353\nhealth_check = { kind = \"tcp\" }",
    ));
    assert_eq!(config.load_balancers[0].listeners[0].health_check, Some(DEFAULT_CHECK));
}

#[test]
fn limits_of_settings_are_inclusive() {
    let name = "a.Z_9-".repeat(11)[..63].to_owned();
    for (from, to) in [
        ("name = \"shop\"", format!("name = \"{name}\"")),
        ("port = 53\n", "port = 1\n".into()),
        ("port = 53\n", "port = 65535\n".into()),
        ("port = 8080 }", "port = 65535, weight = 1 }".into()),
        ("port = 8080 }", "port = 1, weight = 100 }".into()),
        ("port = 8080 }", "port = 1, weight = 0 }".into()),
        ("servers = [", "table_size = 251\nservers = [".into()),
        ("servers = [", "table_size = 65521\nservers = [".into()),
        // The same server on two ports, and the same port for both protocols.
        ("10.0.0.12", "10.0.0.11".into()),
        ("port = 53\n", "port = 80\n".into()),
        // A server may be in the default server group and in a named one.
        ("10.0.0.21", "10.0.0.11".into()),
    ] {
        accepted(&changed(from, &to));
    }
}

#[test]
fn shipped_example_has_no_warnings_and_shows_every_setting() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/slb.toml");
    let text = std::fs::read_to_string(&path).expect("config/slb.toml");
    let config = accepted(&text);
    assert_eq!(config, load(&path).expect("loads").config);
    for setting in [
        "interfaces",
        "xdp_mode",
        "pin_dir",
        "socket",
        "read_only_socket",
        "metrics_address",
        "flow_table_entries",
        "max_servers",
        "tunnel_addresses",
        "tunnel_sources",
        "gue_port",
        "local_addresses",
        "hash_seed",
        "probe_source",
        "probe_mark",
        "name",
        "addresses",
        "table_size",
        "address",
        "weight",
        "protocol",
        "port",
        "server_group",
        "default_group_port",
        "mode",
        "tracking",
        "unknown_datagrams",
        "kind",
        "interval",
        "timeout",
        "healthy_threshold",
        "unhealthy_threshold",
        "method",
        "path",
        "host",
        "expect",
        "verify",
        "passive",
        "request",
        "servers",
        "state",
        "scheduler",
        "session_persistence",
        "on_no_healthy",
        "primary_secondary_group",
        "primary",
        "secondary",
        "failover_threshold",
        "failback_after",
        "drain_timeout",
        "established_timeout",
        "slow_start",
        "state_dir",
        "unmatched",
        "announce",
    ] {
        assert!(text.contains(&format!("{setting} =")), "{setting}");
    }

    // The example's comments name the defaults correctly.
    let defaults = accepted(BASE);
    assert_eq!(config.daemon, defaults.daemon);
    let [shop, data] = config.load_balancers.as_slice() else { panic!("{config:?}") };
    assert!(
        matches!(&data.listeners[0].target, ListenerTarget::PrimarySecondaryGroup(name) if name.as_str() == "db")
    );
    assert_eq!(shop.name.as_str(), "shop");
    assert_eq!(shop.addresses.len(), 2);
    assert_eq!(shop.listeners[0].health_check, Some(DEFAULT_CHECK));
    assert_eq!(shop.listeners[1].health_check, Some(HealthCheck { port: Some(5380), ..DEFAULT_CHECK }));
    assert_eq!(shop.listeners[1].target, ListenerTarget::DefaultGroup { default_group_port: 5353 });
    assert_eq!(
        config.server_groups[0].servers.iter().map(|s| s.weight.value()).collect::<Vec<_>>(),
        [100, 50, 100]
    );
}

#[test]
fn vips_are_announced_only_where_that_is_configured() {
    let announce = |line: &str| {
        let text = changed("addresses = [", &format!("{line}addresses = ["));
        accepted(&text).load_balancers[0].announce
    };
    assert_eq!(announce(""), Announce::Off);
    assert_eq!(announce("announce = \"off\"\n"), Announce::Off);
    assert_eq!(announce("announce = \"arp\"\n"), Announce::Arp);
}

#[test]
fn interface_roles_are_accepted() {
    let roles = |list: &str| {
        let daemon = accepted(&changed("interfaces = [\"eth0\"]", &format!("interfaces = {list}"))).daemon;
        let roles =
            daemon.roles.into_iter().map(|(name, role)| format!("{name} {role:?}")).collect::<Vec<_>>();
        (daemon.interfaces.join(" "), roles.join(" "))
    };
    let list = "[\"eth0\", { name = \"eth1\", role = \"server\" }, { role = \"client\", name = \"eth2\" }]";
    assert_eq!(roles(list), ("eth0 eth1 eth2".to_owned(), "eth1 Server eth2 Client".to_owned()));
    let list = "[{ name = \"eth0\" }, { name = \"eth1\", role = \"both\" }]";
    assert_eq!(roles(list), ("eth0 eth1".to_owned(), String::new()));
}
