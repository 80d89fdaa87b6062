//! Listeners with a port range or any port.

use slb_common::abi::ports::Ports;

use super::{BASE, accepted, assert_single, errors, warnings};

const PORT: &str = "port = 80\n";
const TARGET: &str = "server_group = \"web\"";
const CHECK: &str = "health_check = { kind = \"icmp\" }";

/// The base, whose listener `web` has this port. Its servers have none, and the check needs none.
fn ranged(port: &str) -> String {
    BASE.replace(PORT, &format!("port = {port}\n"))
        .replace(TARGET, &format!("{TARGET}\n{CHECK}"))
        .replace(", port = 8080", "")
        .replace(", port = 8081", "")
}

/// Another listener after `web`.
fn with_listener(text: &str, listener: &str) -> String {
    text.replace("[[server_group]]", &format!("[[load_balancer.listener]]\n{listener}\n[[server_group]]"))
}

fn broken(text: &str, at: &str, words: &[&str]) {
    assert_single(&errors(text), at, words, text);
}

#[test]
fn ranges_and_any_port_are_accepted_with_servers_without_ports() {
    for (port, expected) in [
        ("\"8000-8999\"", Ports::range(8000, 8999).unwrap()),
        ("\"1-2\"", Ports::range(1, 2).unwrap()),
        ("\"any\"", Ports::ANY),
        ("\"1-65535\"", Ports::ANY),
    ] {
        let config = accepted(&ranged(port));
        assert_eq!(config.load_balancers[0].listeners[1].port, expected);
        assert!(config.server_groups[0].servers.iter().all(|server| server.port == 0));
    }
    for mode in ["dsr", "nat"] {
        accepted(&ranged("\"any\"").replace(TARGET, &format!("{TARGET}\nmode = \"{mode}\"")));
    }
    let with_port = "health_check = { kind = \"tcp\", port = 8000 }";
    accepted(&ranged("\"any\"").replace(CHECK, with_port));
    warnings(&ranged("\"any\"").replace(CHECK, "health_check = { kind = \"none\" }"));
}

#[test]
fn text_that_is_no_range_is_refused_and_says_what_to_write() {
    for (port, words) in [
        ("\"9000-8000\"", ["must be below", "write `port = \"8000-9000\"`"]),
        ("\"80-80\"", ["must be below", "write `port = 80`"]),
        ("\"0-80\"", ["out of range", "a range as \"8000-8999\""]),
        ("\"80-65536\"", ["out of range", "or \"any\""]),
        ("\"80-\"", ["is no port and no range", "a range as \"8000-8999\""]),
        ("\"http\"", ["is no port and no range", "or \"any\""]),
        ("\"80\"", ["expected an integer", "without quotes"]),
    ] {
        let text = BASE.replace(PORT, &format!("port = {port}\n"));
        let report = errors(&text).to_string();
        assert!(
            words.iter().all(|word| report.contains(word)) && report.contains("base.toml:20:8"),
            "{report}"
        );
    }
}

#[test]
fn ranges_of_a_protocol_may_not_overlap_and_any_port_may_stand_beside_them() {
    let other = |name: &str, protocol: &str, port: &str| {
        format!("name = \"{name}\"\nprotocol = \"{protocol}\"\nport = {port}\n{TARGET}\n{CHECK}")
    };
    let text = ranged("\"8000-8999\"");
    accepted(&with_listener(&text, &other("b", "tcp", "\"9000-9999\"")));
    accepted(&with_listener(&text, &other("b", "udp", "\"8000-8999\"")));
    accepted(&with_listener(&text, &other("b", "tcp", "\"any\"")));
    let overlapping = with_listener(&text, &other("b", "tcp", "\"8999-9999\""));
    broken(&overlapping, "27:8", &["8999-9999 and 8000-8999 overlap", "the other range"]);
    let twice = with_listener(&ranged("\"any\""), &other("b", "tcp", "\"any\""));
    broken(&twice, "27:8", &["tcp port any appears twice", "first here"]);
    let many = (1..9).fold(text, |text, n| {
        with_listener(&text, &other(&format!("l{n}"), "tcp", &format!("\"{n}00-{n}99\"")))
    });
    let report = errors(&many).to_string();
    assert!(report.contains("more than 8 tcp port ranges"), "{report}");
}

#[test]
fn servers_and_checks_behind_a_range_have_no_port_of_the_server() {
    let with_port = ranged("\"any\"").replacen("\"10.0.0.11\"", "\"10.0.0.11\", port = 8080", 1);
    broken(&with_port, "27:35", &["behind a port range has no port", "at the port that the client used"]);
    let unchecked = ranged("\"any\"").replace(CHECK, "health_check = { kind = \"tcp\" }");
    broken(&unchecked, "22:16", &["needs a port", "kind = \"tcp\", port = 8000", "kind = \"icmp\""]);
    let default = ranged("\"any\"").replace(&format!("{CHECK}\n"), "");
    broken(&default, "20:8", &["needs a port"]);
    let passive = ranged("\"any\"").replace(CHECK, "health_check = { kind = \"icmp\", passive = {} }");
    broken(&passive, "22:43", &["`passive` has no meaning for a port range", "a group of its own"]);
    let default_group = BASE.replace("port = 53\n", "port = \"50-59\"\n");
    let report = errors(&default_group).to_string();
    assert!(report.contains("`default_group_port` has no meaning for a port range"), "{report}");
}

#[test]
fn group_is_not_shared_between_a_range_and_a_single_port() {
    let single = format!("name = \"b\"\nprotocol = \"tcp\"\nport = 8080\n{TARGET}\n{CHECK}");
    let text = BASE.replace(PORT, "port = \"8000-8999\"\n").replace(TARGET, &format!("{TARGET}\n{CHECK}"));
    broken(
        &with_listener(&text, &single),
        "21:16",
        &["is behind a port range and behind a single port", "without ports", "here with a single port"],
    );
}
