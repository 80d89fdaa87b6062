//! Tests the text of each kind of change.

mod data;
mod random;

use super::{diff, lines};
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
fn changed_check_kinds_are_described() {
    let udp = |settings: &str| {
        let check = format!("default_group_port = 5353\nhealth_check = {{ kind = \"udp\"{settings} }}");
        shop(&[("default_group_port = 5353", &check)])
    };
    let http = |check: &str| {
        shop(&[("server_group = \"web\"", &format!("server_group = \"web\"\nhealth_check = {{ {check} }}"))])
    };
    let kinds = |old: &Config, new: &Config| {
        let words = words(old, new);
        assert_eq!(words.len(), 1, "{words:?}");
        words[0].split_once("health check: kind ").map(|(_, kinds)| kinds.to_owned()).unwrap()
    };
    assert_eq!(
        kinds(&udp(""), &udp(", request = \"say \\\"hi\\\"\"")),
        "udp -> udp (request \"say \\\"hi\\\"\")"
    );
    assert_eq!(
        kinds(
            &udp(", request = \"hex:ff00\", expect = \"pong\""),
            &udp(", request = \"hex:fe00\", expect = \"hex:6865783a0d\"")
        ),
        "udp (request \"hex:ff00\", expect \"pong\") -> udp (request \"hex:fe00\", expect \"hex:6865783a0d\")"
    );
    // Text that would be read as hexadecimal bytes.
    assert_eq!(
        kinds(&udp(", request = \"hex:6865783a\""), &udp(", request = \"HEX:\"")),
        "udp (request \"hex:6865783a\") -> udp (request \"HEX:\")"
    );
    assert_eq!(
        kinds(
            &http("kind = \"http\""),
            &http(
                "kind = \"http\", method = \"GET\", path = \"/up\", host = \"a.example\", expect = [\"2xx\", 301]"
            )
        ),
        "http HEAD / of the server (expect 2xx) -> http GET /up of a.example (expect 2xx, 301)"
    );
    assert_eq!(
        kinds(&http("kind = \"https\""), &http("kind = \"https\", verify = true")),
        "https HEAD / of the server (expect 2xx; certificate not verified) -> https HEAD / of the server (expect \
         2xx; certificate verified)"
    );
    assert_eq!(
        kinds(&http("kind = \"tls\""), &http("kind = \"tls\", host = \"a.example\", verify = true")),
        "tls of the server (certificate not verified) -> tls of a.example (certificate verified)"
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
    let target = "listener shop/web: target server group web -> server group w";
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
