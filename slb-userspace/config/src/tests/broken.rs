//! Invalid configurations: each breaks one rule. The single error must be at the right position and name a remedy.

mod full_nat;
mod ids;
mod listeners;
mod modes;
mod primary_secondary;
mod values;

use super::{BASE, assert_single, changed, errors};

/// The replaced text, its replacement, the error's position, and words of the error.
type Case<'a> = (&'a str, &'a str, &'a str, &'a [&'a str]);

fn check(cases: &[Case<'_>]) {
    for (from, to, at, words) in cases {
        let text = changed(from, to);
        assert_single(&errors(&text), at, words, &text);
    }
}

const INTERFACES: &str = "interfaces = [\"eth0\"]";
const PORT_1: &str = "port = 8080 }";
const WEB_PORT: &str = "port = 80\n";
const WEB_TARGET: &str = "server_group = \"web\"";
const DNS_TARGET: &str = "default_group_port = 5353";

#[test]
fn invalid_syntax_and_types_are_refused() {
    check(&[
        ("[\"eth0\"]", "[\"eth0\"", "4:1", &["not valid TOML"]),
        (WEB_PORT, "port = 80\nport = 81\n", "21:1", &["duplicate key", "this was set before"]),
        (
            "[[server_group]]",
            "[server_group]",
            "23:1",
            &["expected a list, found a table", "`[[server_group]]`"],
        ),
        (
            "[daemon]",
            "[[daemon]]",
            "1:1",
            &["expected a table, found a list", "`[daemon]`", "one such table"],
        ),
        (
            INTERFACES,
            "interfaces = \"eth0\"",
            "2:14",
            &["expected a list, found a string", "between brackets"],
        ),
        (WEB_TARGET, "health_check = \"tcp\"", "21:16", &["expected a table, found a string", "braces"]),
        // serde alone would accept the fields in declaration order.
        (
            "{ address = \"10.0.0.11\", port = 8080 }",
            "[\"10.0.0.11\", 8080]",
            "26:3",
            &["expected a table, found a list"],
        ),
    ]);
}

#[test]
fn unknown_fields_are_refused_with_a_suggestion() {
    check(&[
        (
            "[[server_group]]",
            "[[server_groups]]",
            "23:3",
            &["unknown field `server_groups`", "did you mean `server_group`?"],
        ),
        (
            INTERFACES,
            "interface = [\"eth0\"]",
            "2:1",
            &["did you mean `interfaces`?", "`xdp_mode`", "`hash_seed`"],
        ),
        ("addresses = [", "adresses = [", "6:1", &["did you mean `addresses`?", "`listener`"]),
        (
            PORT_1,
            "port = 8080, weigth = 5 }",
            "26:41",
            &["`weigth`", "did you mean `weight`?", "`address`, `port`, `weight`"],
        ),
        (
            "address = \"10.0.0.21\"",
            "address = \"10.0.0.21\"\nport = 80",
            "10:1",
            &["no such field", "`address`, `weight`"],
        ),
        (
            DNS_TARGET,
            "default_group_prot = 5353",
            "15:1",
            &["did you mean `default_group_port`?", "`server_group`"],
        ),
        (
            WEB_TARGET,
            "health_check = { kind = \"tcp\", intervall = \"2s\" }",
            "21:32",
            &["did you mean `interval`?"],
        ),
        (
            "servers = [",
            "tabel_size = 251\nservers = [",
            "25:1",
            &["did you mean `table_size`?", "`name`, `table_size`, `slow_start`, `servers`"],
        ),
        (
            DNS_TARGET,
            "backend_port = 5353",
            "15:1",
            &["`backend_port` has another name now", "write `default_group_port`"],
        ),
        (
            WEB_TARGET,
            "connection_drain = \"60s\"",
            "21:1",
            &["`connection_drain` has another name now", "write `drain_timeout`"],
        ),
        (WEB_TARGET, "x = 1", "21:1", &["unknown field `x`", "no such field", "`health_check`"]),
    ]);
}

#[test]
fn invalid_interfaces_are_refused() {
    let cases = [
        (
            "[daemon]\ninterfaces = [\"eth0\"]".to_owned(),
            String::new(),
            "1:1",
            ["`[daemon]` is missing", "eth0"],
        ),
        (INTERFACES.into(), String::new(), "1:1", ["`interfaces` is missing", "interfaces = [\"eth0\"]"]),
        (INTERFACES.into(), "interfaces = []".into(), "2:14", ["`interfaces` is empty", "at least one"]),
        (
            INTERFACES.into(),
            "interfaces = [\"a\", \"b\", \"a\"]".into(),
            "2:25",
            ["`a` appears twice", "first here"],
        ),
        (
            INTERFACES.into(),
            "interfaces = [\"abcdefghijklmnop\"]".into(),
            "2:15",
            ["abcdefghijklmnop", "1 to 15"],
        ),
        (INTERFACES.into(), "interfaces = [\"\"]".into(), "2:15", ["cannot be the name", "ip -br link"]),
        (INTERFACES.into(), "interfaces = [\"a b\"]".into(), "2:15", ["`a b`", "spaces"]),
        (
            INTERFACES.into(),
            format!("interfaces = {:?}", (0..257).map(|n| format!("e{n}")).collect::<Vec<_>>()),
            "2:14",
            ["names 257 interfaces", "at most 256"],
        ),
        (INTERFACES.into(), "interfaces = [\"a/b\"]".into(), "2:15", ["`a/b`", "1 to 15"]),
        (INTERFACES.into(), "interfaces = [\"..\"]".into(), "2:15", ["`..`", "1 to 15"]),
        (INTERFACES.into(), "interfaces = [7]".into(), "2:15", ["found an integer", "in quotes"]),
    ];
    for (from, to, at, words) in &cases {
        check(&[(from, to, at, words)]);
    }
}

#[test]
fn invalid_daemon_settings_are_refused() {
    let with = |line: &str| format!("{INTERFACES}\n{line}");
    let cases = [
        (
            with("xdp_mode = \"nativ\""),
            "3:12",
            ["did you mean \"native\"?", "\"auto\", \"native\", \"generic\""],
        ),
        (with("xdp_mode = \"Native\""), "3:12", ["`Native`", "did you mean \"native\"?"]),
        (with("xdp_mode = true"), "3:12", ["expected a string", "a boolean"]),
        (with("pin_dir = \"slb\""), "3:11", ["absolute path", "/sys/fs/bpf/slb"]),
        (
            with(&format!("socket = \"/{}\"", "s".repeat(107))),
            "3:10",
            ["`socket` is 108 bytes long", "at most 107 bytes"],
        ),
        (with("pin_dir = \"/sys/fs/bpf/slb.1\""), "3:11", ["has a dot in a name", "/sys/fs/bpf/slb"]),
        (
            with("read_only_socket = \"/run/slb/slbd.sock\""),
            "3:20",
            ["`read_only_socket` is `socket`", "name another path"],
        ),
        (
            with("metrics_address = \"localhost:9813\""),
            "3:19",
            ["`metrics_address = \"localhost:9813\"` is no address and port", "\"127.0.0.1:9813\""],
        ),
        (with("metrics_address = \"127.0.0.1:0\""), "3:19", ["port 0", "\"127.0.0.1:9813\""]),
        (with("metrics_address = \"::1\""), "3:19", ["IPv6 address in brackets", "`\"[::1]:9813\"`"]),
        (with("metrics_address = 9813"), "3:19", ["expected an address and a port", "an integer"]),
        (with("socket = \"./s\""), "3:10", ["absolute path", "/run/slb/slbd.sock"]),
        (with("state_dir = \"slb\""), "3:13", ["absolute path", "/var/lib/slb"]),
        (with("flow_table_entries = 1023"), "3:22", ["out of range", "1024 to 16777216"]),
        (with("flow_table_entries = 16777217"), "3:22", ["out of range", "1024 to 16777216"]),
        (with("max_servers = 1023"), "3:15", ["out of range", "1024 to 1048576"]),
        (with("max_servers = 1048577"), "3:15", ["`max_servers`", "1024 to 1048576"]),
        (with("max_servers = \"many\""), "3:15", ["expected an integer", "a string"]),
        (
            with("probe_source = [\"10.0.0.5\", \"10.0.0.6\"]"),
            "3:29",
            ["an IPv4 address appears twice", "first here"],
        ),
        (with("probe_source = \"10.0.0.5\""), "3:16", ["expected a list", "between brackets"]),
        (with("probe_source = [\"eth0\"]"), "3:17", ["`eth0` is not an IP address", "2001:db8::10"]),
        (with("probe_mark = 0"), "3:14", ["out of range", "1 to 4294967295"]),
        (with("probe_mark = 0x100000000"), "3:14", ["out of range", "`probe_mark`"]),
        (with("probe_mark = \"0x1\""), "3:14", ["expected an integer", "a string"]),
        (with("hash_seed = -1"), "3:13", ["out of range", "0 to 18446744073709551615"]),
        (with("hash_seed = 18446744073709551616"), "3:13", ["out of range", "`hash_seed`"]),
    ];
    for (to, at, words) in &cases {
        check(&[(INTERFACES, to, at, words)]);
    }
}

#[test]
fn all_problems_are_reported_at_once_in_the_order_of_the_text() {
    let text = BASE
        .replace("\"eth0\"", "\"\"")
        .replace("\"192.0.2.10\"", "\"192.0.2.256\"")
        .replace("\"udp\"", "\"upd\"")
        .replace("port = 53\n", "port = 99999\n")
        .replace("default_group_port = 5353", "default_group_port = 0")
        .replace("\"10.0.0.11\", port = 8080", "\"::1\", port = \"8080\", weight = 101")
        .replace("servers = [", "table_size = 300\nservers = [");
    let report = errors(&text);
    let places: Vec<String> = report
        .to_string()
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("--> base.toml:").map(str::to_owned))
        .collect();
    assert_eq!(
        places,
        ["2:15", "6:14", "13:12", "14:8", "15:22", "25:14", "27:15", "27:29", "27:46"],
        "{report}"
    );
}

#[test]
fn refusal_shows_errors_without_warnings() {
    let text = changed(WEB_TARGET, "server_group = \"wbe\"");
    assert!(!errors(&text).to_string().contains("is not used"));
}
