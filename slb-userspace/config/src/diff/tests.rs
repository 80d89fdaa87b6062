//! Tests the text of each kind of change.

mod data;
mod flip;
mod random;
mod written;

use super::{diff, in_full, lines};
use crate::{
    Config,
    samples::{SHOP, parsed, shop},
};

/// The diff in words.
fn words(old: &Config, new: &Config) -> Vec<String> {
    lines(&diff(old, new))
}

/// The words for replacements in the base.
fn changed(replaced: &[(&str, &str)]) -> Vec<String> {
    words(&shop(&[]), &shop(replaced))
}

#[test]
fn equal_configurations_have_no_changes() {
    assert_eq!(changed(&[]), [""; 0]);
    assert_eq!(changed(&[("port = 53\n", "port = 53 # comment\n")]), [""; 0]);
}

#[test]
fn changed_servers_are_described() {
    assert_eq!(
        changed(&[("port = 8080 }", "port = 8080, weight = 5 }")]),
        ["server group web: server 10.0.0.11:8080 weight 100 -> 5"]
    );
    assert_eq!(
        changed(&[("{ address = \"10.0.0.11\", port = 8080 }", "{ address = \"10.0.0.13\", port = 8080 }")]),
        [
            "server group web: server 10.0.0.11:8080 removed",
            "server group web: server 10.0.0.13:8080 added (weight 100)"
        ]
    );
    assert_eq!(
        changed(&[("address = \"10.0.0.21\"", "address = \"10.0.0.21\"\nweight = 0")]),
        ["default group of shop: server 10.0.0.21 weight 100 -> 0"]
    );
}

#[test]
fn changed_listeners_are_described() {
    assert_eq!(changed(&[("port = 80\n", "port = 81\n")]), ["listener shop/web: port 80 -> 81"]);
    assert_eq!(
        changed(&[("name = \"dns\"", "name = \"names\"\nid = \"dns\"")]),
        ["listener shop/dns: renamed to names"]
    );
    assert_eq!(
        changed(&[("name = \"dns\"", "name = \"names\"")]),
        [
            "listener shop/dns: removed",
            "listener shop/names: added (udp port 53 to the default group, port 5353) in place of dns: connections stay \
             where VIP, port and server stay"
        ]
    );
    assert_eq!(
        changed(&[(
            "name = \"dns\"\nprotocol = \"udp\"\nport = 53\n",
            "name = \"d\"\nprotocol = \"udp\"\nport = 54\n"
        )]),
        [
            "listener shop/dns: removed",
            "listener shop/d: added (udp port 54 to the default group, port 5353)"
        ]
    );
    assert_eq!(
        changed(&[("server_group = \"web\"", "server_group = \"web\"\ntracking = \"always\"")]),
        ["listener shop/web: tracking auto -> always"]
    );
    assert_eq!(
        changed(&[(
            "server_group = \"web\"",
            "server_group = \"web\"\nscheduler = \"rr\"\nsession_persistence = \"5m\""
        )]),
        ["listener shop/web: scheduler maglev -> rr", "listener shop/web: session persistence off -> 300s"]
    );
}

#[test]
fn changed_health_checks_are_described() {
    let with = |check: &str| {
        changed(&[("server_group = \"web\"", &format!("server_group = \"web\"\nhealth_check = {check}"))])
    };
    assert_eq!(
        with("{ kind = \"tcp\", interval = \"3s\", port = 9 }"),
        [
            "listener shop/web: health check: port the server's -> 9",
            "listener shop/web: health check: interval 2s -> 3s"
        ]
    );
    assert_eq!(
        with("{ kind = \"tcp\", passive = { failures = 9 } }"),
        ["listener shop/web: health check: passive off -> 9 in 10s"]
    );
    assert_eq!(
        with("{ kind = \"none\" }"),
        ["listener shop/web: health check removed: its servers are taken as able to serve"]
    );
    assert_eq!(
        changed(&[(
            "default_group_port = 5353",
            "default_group_port = 5353\nhealth_check = { kind = \"tcp\" }"
        )]),
        ["listener shop/dns: health check added (tcp every 2s)"]
    );
}

/// As in the file. Different values have different texts.
#[test]
fn changed_settings_of_checks_are_described() {
    let udp = |settings: &str| {
        let check = format!("default_group_port = 5353\nhealth_check = {{ kind = \"udp\"{settings} }}");
        shop(&[("default_group_port = 5353", &check)])
    };
    let http = |check: &str| {
        shop(&[("server_group = \"web\"", &format!("server_group = \"web\"\nhealth_check = {{ {check} }}"))])
    };
    let settings = |old: &Config, new: &Config| {
        let words = words(old, new).into_iter();
        words.map(|line| line.split_once("health check: ").unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        settings(&udp(""), &udp(", request = \"say \\\"hi\\\"\"")),
        ["request none -> \"say \\\"hi\\\"\""]
    );
    assert_eq!(
        settings(
            &udp(", request = \"hex:ff00\", expect = \"pong\""),
            &udp(", request = \"hex:fe00\", expect = \"hex:6865783a0d\"")
        ),
        ["request \"hex:ff00\" -> \"hex:fe00\"", "expect \"pong\" -> \"hex:6865783a0d\""]
    );
    // Text that would be read as hexadecimal bytes.
    assert_eq!(
        settings(&udp(", request = \"hex:6865783a\""), &udp(", request = \"HEX:\"")),
        ["request \"hex:6865783a\" -> \"HEX:\""]
    );
    assert_eq!(
        settings(
            &http("kind = \"http\""),
            &http(
                "kind = \"http\", method = \"GET\", path = \"/up\", host = \"a.example\", expect = [\"2xx\", 301]"
            )
        ),
        ["method HEAD -> GET", "path / -> /up", "host none -> a.example", "expect 2xx -> 2xx, 301"]
    );
    assert_eq!(
        settings(&http("kind = \"https\""), &http("kind = \"https\", verify = true")),
        ["verify false -> true"]
    );
    assert_eq!(
        settings(&http("kind = \"tcp\""), &http("kind = \"tls\", host = \"a.example\"")),
        ["kind tcp -> tls", "host none -> a.example", "verify none -> false"]
    );
    assert_eq!(
        settings(
            &http("kind = \"tcp\", passive = { failures = 9 }"),
            &http("kind = \"tcp\", passive = { failures = 8 }")
        ),
        ["passive: failures 9 -> 8"]
    );
}

/// The text tells targets of probes apart, in the daemon's failure counts too.
#[test]
fn check_is_described_in_full() {
    for (settings, described) in [
        (
            "kind = \"tcp\", port = 9",
            "tcp on port 9 every 2s, timeout 5s, healthy after 3, unhealthy after 3, passive off",
        ),
        (
            "kind = \"https\", verify = true, passive = {}",
            "https HEAD / of the server (expect 2xx; certificate verified) on port the server's every 2s, timeout 5s, \
             healthy after 3, unhealthy after 3, passive 5 in 10s",
        ),
        (
            "kind = \"udp\", request = \"a\", expect = \"b\"",
            "udp (request \"a\", expect \"b\") on port the server's every 5s, timeout 10s, healthy after 3, unhealthy \
             after 3, passive off",
        ),
        (
            "kind = \"tls\", host = \"a.example\"",
            "tls of a.example (certificate not verified) on port the server's every 2s, timeout 5s, healthy after 3, \
             unhealthy after 3, passive off",
        ),
    ] {
        let check = format!("server_group = \"web\"\nhealth_check = {{ {settings} }}");
        let config = shop(&[("server_group = \"web\"", &check)]);
        assert_eq!(in_full(config.load_balancers[0].listeners[1].health_check.as_ref().unwrap()), described);
    }
}

#[test]
fn other_target_is_described_in_one_line() {
    let with = |target: &str| {
        let groups = "[[primary_secondary_group]]\nname = \"p\"\nprimary = { address = \"fd00::1\", port = 80 }\n\
                      secondary = { address = \"fd00::2\", port = 80 }\n[[server_group]]\nname = \"b\"\n\
                      servers = [{ address = \"10.0.0.9\", port = 80 }]\n[[server_group]]\nname = \"web\"";
        shop(&[("server_group = \"web\"\n", target), ("[[server_group]]\nname = \"web\"", groups)])
    };
    let one = with("server_group = \"web\"\n");
    let two = with("primary = \"web\"\nsecondary = \"b\"\nfailover_threshold = 1\n");
    let line = "listener shop/web: target server group web -> server group web, and b when 1 are unhealthy (back after \
                0s)";
    assert_eq!(words(&one, &two), [line]);
    let three = with("primary = \"web\"\nsecondary = \"b\"\nfailover_threshold = 2\n");
    assert_eq!(words(&two, &three), ["listener shop/web: failover threshold 1 -> 2"]);
    let pair = with("primary_secondary_group = \"p\"\n");
    assert_eq!(
        words(&pair, &three),
        [
            "listener shop/web: target primary/secondary server group p -> server group web, and b when 2 are unhealthy \
          (back after 0s)"
        ]
    );
    let added = words(&shop(&[]), &one);
    assert!(
        added.contains(
            &"primary/secondary server group p: added ([fd00::1]:80, and [fd00::2]:80 in its place)"
                .to_owned()
        ),
        "{added:?}"
    );
}

#[test]
fn changed_idle_timeouts_are_described() {
    let timeout = "protocol = \"tcp\"\nestablished_timeout = \"60s\"";
    assert_eq!(
        changed(&[("protocol = \"tcp\"", timeout)]),
        ["listener shop/web: established timeout 900s -> 60s"]
    );
    // The timeout of the other protocol was not configured.
    let words = changed(&[("protocol = \"udp\"", "protocol = \"tcp\"\nhealth_check = { kind = \"none\" }")]);
    assert_eq!(words, ["listener shop/dns: protocol udp -> tcp"]);
}

#[test]
fn renamed_groups_and_load_balancers_are_described() {
    let target = "listener shop/web: server group web -> w";
    let with_name = |lines: &str| {
        changed(&[
            ("server_group = \"web\"", "server_group = \"w\""),
            ("name = \"web\"\nservers", &format!("{lines}\nservers")),
        ])
    };
    assert_eq!(with_name("name = \"w\"\nid = \"web\""), [target, "server group web: renamed to w"]);
    assert_eq!(
        with_name("name = \"w\""),
        [
            target,
            "server group web: removed (its overrides end; if it was renamed, `id = \"web\"` beside the new name keeps \
             them)",
            "server group w: added (2 servers)"
        ]
    );
    assert_eq!(
        changed(&[("name = \"web\"\nservers", "name = \"web\"\nid = \"g1\"\nservers")]),
        [
            "server group web: removed (its overrides end; if it was renamed, `id = \"web\"` beside the new name keeps \
             them)",
            "server group web (id g1): added (2 servers)"
        ]
    );
    assert_eq!(
        changed(&[("name = \"shop\"", "name = \"store\"\nid = \"shop\"")]),
        ["load balancer shop: renamed to store"]
    );
    assert_eq!(
        changed(&[("name = \"shop\"", "name = \"store\"")]),
        [
            "load balancer shop: removed (its overrides end; if it was renamed, `id = \"shop\"` beside the new name \
             keeps them)",
            "load balancer store: added (192.0.2.10; 2 listeners) in place of shop: connections stay where VIP, port \
             and server stay"
        ]
    );
    assert_eq!(
        changed(&[(
            "name = \"shop\"\naddresses = [\"192.0.2.10\"]",
            "name = \"s\"\naddresses = [\"192.0.2.11\"]"
        )]),
        [
            "load balancer shop: removed (its overrides end; if it was renamed, `id = \"shop\"` beside the new name \
             keeps them)",
            "load balancer s: added (192.0.2.11; 2 listeners)"
        ]
    );
    assert_eq!(
        changed(&[("[\"192.0.2.10\"]", "[\"192.0.2.10\", \"192.0.2.11\"]")]),
        ["load balancer shop: address 192.0.2.11 added"]
    );
}

#[test]
fn changed_daemon_settings_are_described() {
    assert_eq!(
        changed(&[("[\"eth0\"]", "[\"eth1\"]")]),
        ["daemon: interface eth0 removed", "daemon: interface eth1 added"]
    );
    assert_eq!(
        changed(&[("[\"eth0\"]", "[\"eth0\"]\nhash_seed = 7")]),
        ["daemon: hash seed of slbd's own -> 7"]
    );
    assert_eq!(
        changed(&[("[\"eth0\"]", "[\"eth0\"]\nprobe_mark = 0x51b")]),
        ["daemon: probe mark none -> 0x51b"]
    );
}

#[test]
fn reordered_entries_are_described_as_reordered_only() {
    let (first, second) =
        ("{ address = \"10.0.0.11\", port = 8080 }", "{ address = \"10.0.0.12\", port = 8081 }");
    let text = SHOP.replace(first, "FIRST").replace(second, first).replace("FIRST", second);
    assert_eq!(words(&parsed(SHOP), &parsed(&text)), ["the order of entries, and nothing else"]);
}

#[test]
fn changed_access_lists_are_described() {
    let office = "[[access_list]]\nname = \"office\"\nentries = [\"192.0.2.0/24\"]\n";
    let group = "[[server_group]]";
    let with = |list: &str, listener: &str| {
        let target = "server_group = \"web\"";
        shop(&[(target, &format!("{target}\n{listener}")), (group, &format!("{list}{group}"))])
    };
    let access = |kind: &str| format!("access_list = \"office\"\naccess_list_type = \"{kind}\"");
    let (without, white) = (shop(&[]), with(office, &access("white")));
    assert_eq!(
        words(&without, &white),
        [
            "listener shop/web: access list none -> office",
            "listener shop/web: access list type none -> white",
            "access list office: added (1 entry)"
        ]
    );
    assert_eq!(
        words(&white, &with(office, &access("black"))),
        ["listener shop/web: access list type white -> black"]
    );
    assert_eq!(
        words(&white, &with(&office.replace("192.0.2.0/24", "2001:db8::/32"), &access("white"))),
        ["access list office: entry 192.0.2.0/24 removed", "access list office: entry 2001:db8::/32 added"]
    );
    assert_eq!(words(&with(office, ""), &without), ["access list office: removed"]);
}

#[test]
fn changed_limits_are_described() {
    let with = |limits: &str| shop(&[("port = 80\n", &format!("port = 80\n{limits}"))]);
    let both = with("bandwidth = \"100Mbit\"\nnew_connections = 1000\n");
    assert_eq!(
        words(&shop(&[]), &both),
        ["listener shop/web: bandwidth none -> 100Mbit", "listener shop/web: new connections none -> 1000"]
    );
    assert_eq!(
        words(&both, &with("bandwidth = \"2000Mbit\"\nnew_connections = 1000\n")),
        ["listener shop/web: bandwidth 100Mbit -> 2Gbit"]
    );
    assert_eq!(words(&both, &with("bandwidth = \"100000kbit\"\nnew_connections = 1000\n")), [""; 0]);
}

#[test]
fn changed_quic_settings_are_described() {
    let with = |server: &str, listener: &str| {
        shop(&[
            ("address = \"10.0.0.21\"", &format!("address = \"10.0.0.21\"\n{server}")),
            ("port = 53\n", &format!("port = 53\n{listener}")),
        ])
    };
    let quic = with("quic_server_id = 17", "quic = { config_rotation = 1 }\n");
    assert_eq!(
        words(&shop(&[]), &quic),
        [
            "listener shop/dns: quic: server id length none -> 2",
            "listener shop/dns: quic: config rotation none -> 1",
            "default group of shop: server 10.0.0.21 quic server id none -> 17"
        ]
    );
    assert_eq!(
        words(&quic, &with("quic_server_id = 18", "quic = { config_rotation = 1 }\n")),
        ["default group of shop: server 10.0.0.21 quic server id 17 -> 18"]
    );
}
