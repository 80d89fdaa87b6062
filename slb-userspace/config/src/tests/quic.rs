//! Routing by QUIC connection ID: what is accepted and refused.

use super::{BASE, accepted, assert_single, errors, warnings};
use crate::model::QuicRouting;

const DEFAULT_SERVER: &str = "address = \"10.0.0.21\"";
const DNS_TARGET: &str = "default_group_port = 5353";

/// The base with settings of the UDP listener, in line 16, and of its only server, in line 10.
fn dns(listener: &str, server: &str) -> String {
    BASE.replace(DEFAULT_SERVER, &format!("{DEFAULT_SERVER}\n{server}"))
        .replace(DNS_TARGET, &format!("{DNS_TARGET}\n{listener}"))
}

/// The UDP listener with these targets, in line 14, and these groups.
fn with_groups(target: &str, groups: &[(&str, &str)]) -> String {
    let groups = groups
        .iter()
        .map(|(name, servers)| format!("\n[[server_group]]\nname = \"{name}\"\nservers = [\n{servers}\n]\n"));
    let base = BASE.replace("[[load_balancer.server]]\naddress = \"10.0.0.21\"\n\n", "");
    base.replace(DNS_TARGET, &format!("{target}\nquic = {{}}")) + &groups.collect::<String>()
}

const A: &str = "  { address = \"10.0.0.31\", port = 443, quic_server_id = 1 },";
const B: &str = "  { address = \"10.0.0.32\", port = 443, quic_server_id = 2 },";

#[test]
fn listener_has_the_format_of_its_connection_ids() {
    for (settings, expected) in [
        ("quic = {}", (2, 0)),
        ("quic = { server_id_length = 1, config_rotation = 6 }", (1, 6)),
        ("quic = { server_id_length = 4 }", (4, 0)),
    ] {
        let config = accepted(&dns(settings, "quic_server_id = 255"));
        let (server_id_length, config_rotation) = expected;
        let expected = Some(QuicRouting { server_id_length, config_rotation });
        assert_eq!(config.load_balancers[0].listeners[0].quic, expected, "{settings}");
        assert_eq!(config.load_balancers[0].servers[0].quic_server_id, Some(255));
    }
    let config = accepted(&with_groups("server_group = \"quic\"", &[("quic", &format!("{A}\n{B}"))]));
    let ids: Vec<_> = config.server_groups[1].servers.iter().map(|server| server.quic_server_id).collect();
    assert_eq!(ids, [Some(1), Some(2)]);
}

#[test]
fn invalid_formats_are_refused_with_what_to_write() {
    let cases: [(&str, &str, &[&str]); 5] = [
        ("quic = { server_id_length = 0 }", "17:29", &["`server_id_length` is out of range", "1 to 4"]),
        ("quic = { server_id_length = 5 }", "17:29", &["1 to 4"]),
        ("quic = { config_rotation = 7 }", "17:28", &["`config_rotation` is out of range", "0 to 6"]),
        ("quic = { config_rotation = \"1\" }", "17:28", &["without quotes"]),
        ("quic = { rotation = 1 }", "17:10", &["unknown field `rotation`"]),
    ];
    for (settings, at, words) in cases {
        let text = dns(settings, "quic_server_id = 1");
        assert_single(&errors(&text), at, words, &text);
    }
}

#[test]
fn tcp_listener_and_pair_have_no_connection_ids() {
    let text = BASE.replace("server_group = \"web\"", "server_group = \"web\"\nquic = {}");
    let words = ["`quic` has no meaning here", "protocol `tcp`", "write `protocol = \"udp\"`, or remove it"];
    let line = text.lines().position(|line| line == "quic = {}").unwrap() + 1;
    assert_single(&errors(&text), &format!("{line}:8"), &words, &text);
    let pair = "\n[[primary_secondary_group]]\nname = \"two\"\nprimary = { address = \"10.0.0.31\", port = 443 }\n\
                secondary = { address = \"10.0.0.32\", port = 443 }\n";
    let text =
        with_groups("primary_secondary_group = \"two\"\nhealth_check = { kind = \"icmp\" }", &[]) + pair;
    let words = ["cannot use a primary/secondary server group", "write two server groups"];
    assert_single(&errors(&text), "12:27", &words, &text);
}

#[test]
fn each_server_needs_an_id_that_fits() {
    let text = dns("quic = {}", "");
    let words =
        ["`quic_server_id` is missing", "this listener routes by connection ID", "`quic_server_id = 1`"];
    assert_single(&errors(&text), "8:1", &words, &text);
    let text = dns("quic = { server_id_length = 1 }", "quic_server_id = 256");
    let words = ["`quic_server_id` 256 does not fit", "0 to 255", "a greater `server_id_length`"];
    assert_single(&errors(&text), "10:18", &words, &text);
    accepted(&dns("quic = { server_id_length = 4 }", "quic_server_id = 4294967295"));
    let text = dns("", "quic_server_id = 4294967296");
    assert_single(&errors(&text), "10:18", &["`quic_server_id` is out of range"], &text);
}

#[test]
fn ids_are_unique_among_the_servers_of_a_family() {
    let same = B.replace("= 2", "= 1");
    let text = with_groups("server_group = \"quic\"", &[("quic", &format!("{A}\n{same}"))]);
    assert_single(&errors(&text), "32:57", &["`quic_server_id` 1 appears twice", "first here"], &text);
    // The same machine.
    let v6 = A.replace("10.0.0.31", "2001:db8::31");
    accepted(&with_groups("server_group = \"quic\"", &[("quic", &format!("{A}\n{v6}"))]));
}

#[test]
fn ids_are_unique_across_the_groups_of_a_listener() {
    let target =
        "primary = \"a\"\nsecondary = \"b\"\nfailover_threshold = 1\nhealth_check = { kind = \"icmp\" }";
    accepted(&with_groups(target, &[("a", A), ("b", B)]));
    accepted(&with_groups(target, &[("a", A), ("b", A)]));
    let text = with_groups(target, &[("a", A), ("b", &B.replace("= 2", "= 1"))]);
    assert_single(&errors(&text), "40:57", &["`quic_server_id` 1 appears twice"], &text);
    let text = with_groups(target, &[("a", A), ("b", &A.replace("= 1", "= 2"))]);
    let words = ["has two values of `quic_server_id`", "write `quic_server_id = 1` in both groups"];
    assert_single(&errors(&text), "40:57", &words, &text);
}

#[test]
fn servers_behind_several_listeners_have_one_diagnostic_each() {
    let text = dns("quic = {}", "");
    let second = "\n[[load_balancer.listener]]\nname = \"quic\"\nprotocol = \"udp\"\nport = 54\n\
                  default_group_port = 54\nquic = {}\nhealth_check = { kind = \"icmp\" }\n";
    let at = text.find("\n[[server_group]]").unwrap();
    let text = format!("{}{second}{}", &text[..at], &text[at..]);
    assert_single(&errors(&text), "8:1", &["`quic_server_id` is missing"], &text);
}

#[test]
fn one_address_in_two_notations_is_one_server() {
    let v6 = |address: &str, id: u8| A.replace("10.0.0.31", address).replace("= 1", &format!("= {id}"));
    let target =
        "primary = \"a\"\nsecondary = \"b\"\nfailover_threshold = 1\nhealth_check = { kind = \"icmp\" }";
    let (a, same) = (v6("2001:db8::31", 1), v6("2001:db8:0:0::31", 1));
    let text = with_groups(target, &[("a", &a), ("b", &same)]);
    assert!(!warnings(&text).to_string().contains("quic_server_id"), "{}", warnings(&text));
    let text = with_groups(target, &[("a", &a), ("b", &v6("2001:db8:0:0::31", 2))]);
    assert!(errors(&text).to_string().contains("has two values of `quic_server_id`"), "{}", errors(&text));
}

#[test]
fn ids_that_no_listener_with_quic_uses_bring_a_warning() {
    let text = dns("", "quic_server_id = 1");
    let words = ["`quic_server_id` is not used", "no listener with `quic` leads here", "`quic = {}`"];
    assert_single(&warnings(&text), "10:18", &words, &text);
    let text = with_groups("server_group = \"quic\"", &[("quic", &format!("{A}\n{B}"))]);
    let text = text.replace("\nquic = {}", "");
    let report = warnings(&text).to_string();
    assert_eq!(report.matches("`quic_server_id` is not used").count(), 1, "{report}");
}
