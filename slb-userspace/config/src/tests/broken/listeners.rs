//! Invalid listeners and health checks, and limits of counts.

use super::{super::accepted, assert_single, changed, check, errors};

const WEB_PORT: &str = "port = 80\n";
const WEB_TARGET: &str = "server_group = \"web\"";
const DNS_TARGET: &str = "default_group_port = 5353";

#[test]
fn invalid_listeners_are_refused() {
    check(&[
        (
            "protocol = \"tcp\"",
            "protocol = \"tpc\"",
            "19:12",
            &["`protocol` cannot be `tpc`", "did you mean \"tcp\"?", "allowed: \"tcp\", \"udp\""],
        ),
        ("protocol = \"tcp\"", "protocol = \"TCP\"", "19:12", &["did you mean \"tcp\"?"]),
        ("protocol = \"tcp\"", "protocol = \"sctp\"", "19:12", &["`sctp`", "\"udp\""]),
        ("protocol = \"tcp\"\n", "", "17:1", &["`protocol` is missing"]),
        (WEB_PORT, "", "17:1", &["`port` is missing"]),
        (WEB_PORT, "port = 70000\n", "20:8", &["`port` is out of range", "1 to 65535"]),
        (WEB_PORT, "port = 0\n", "20:8", &["`port` is out of range"]),
        (WEB_PORT, "port = \"80\"\n", "20:8", &["expected an integer for `port`, found a string"]),
        (
            WEB_TARGET,
            "server_group = \"web\"\nmode = \"drs\"",
            "22:8",
            &[
                "`mode` cannot be `drs`",
                "allowed: \"nat\", \"full-nat\", \"dsr\", \"ipip\", \"gue\"",
                "did you mean \"dsr\"?",
            ],
        ),
        (
            WEB_TARGET,
            "",
            "17:1",
            &["the listener has no servers", "`server_group`, `primary_secondary_group`"],
        ),
        (
            WEB_TARGET,
            "server_group = \"web\"\ndefault_group_port = 1",
            "22:22",
            &["either `server_group` or `default_group_port`", "names servers a second time"],
        ),
        (WEB_TARGET, "server_group = 7", "21:16", &["expected a string for `server_group`"]),
        (
            WEB_TARGET,
            "server_group = \"wbe\"",
            "21:16",
            &["server group `wbe` does not exist", "did you mean \"web\"?"],
        ),
        (
            WEB_TARGET,
            "server_group = \"database\"",
            "21:16",
            &["no server group of this name", "the file has: `web`"],
        ),
        (DNS_TARGET, "default_group_port = 65536", "15:22", &["`default_group_port` is out of range"]),
        (
            "[[load_balancer.server]]\naddress = \"10.0.0.21\"\n",
            "",
            "13:22",
            &["without a default server group", "[[load_balancer.server]]"],
        ),
        (
            "protocol = \"udp\"\nport = 53",
            "protocol = \"tcp\"\nport = 80",
            "20:8",
            &["tcp port 80 appears twice", "14 | port = 80", "first here"],
        ),
    ]);
}

#[test]
fn out_of_range_drain_and_idle_timeouts_are_refused() {
    for (line, column, words) in [
        ("drain_timeout = \"9s\"", 17, ["`drain_timeout` is out of range", "10s to 15m"]),
        ("drain_timeout = \"901s\"", 17, ["`drain_timeout` is out of range", "10s to 15m"]),
        ("drain_timeout = \"of\"", 17, ["`of` is not a duration", "or \"off\""]),
        ("drain_timeout = 0", 17, ["expected a duration", "or \"off\""]),
        ("drain_timeout = false", 17, ["expected a duration", "or \"off\""]),
        ("established_timeout = \"9999ms\"", 23, ["`established_timeout` is out of range", "10s to 15m"]),
        ("established_timeout = \"16m\"", 23, ["`established_timeout` is out of range", "10s to 15m"]),
        ("established_timeout = \"off\"", 23, ["`off` is not a duration", "10s to 15m"]),
    ] {
        check(&[(WEB_TARGET, &format!("{WEB_TARGET}\n{line}"), &format!("22:{column}"), &words)]);
    }
    let words = ["`established_timeout` has no meaning here", "TCP listeners", "remove it"];
    check(&[(DNS_TARGET, &format!("{DNS_TARGET}\nestablished_timeout = \"10s\""), "16:23", &words)]);
}

#[test]
fn invalid_schedulers_are_refused() {
    for (line, column, words) in [
        (
            "scheduler = \"wcl\"",
            13,
            &[
                "`scheduler` cannot be `wcl`",
                "did you mean \"wlc\"?",
                "\"maglev-client\", \"rr\", \"wrr\", \"wlc\"",
            ][..],
        ),
        ("scheduler = \"RR\"", 13, &["`scheduler` cannot be `RR`", "did you mean \"rr\"?"]),
        ("scheduler = \"random\"", 13, &["`scheduler` cannot be `random`", "allowed: \"maglev\""]),
        ("scheduler = 1", 13, &["expected a string for `scheduler`, found an integer"]),
        (
            "session_persistence = \"999ms\"",
            23,
            &["`session_persistence` is out of range", "1s to 1h, or \"off\""],
        ),
        ("session_persistence = \"3601s\"", 23, &["`session_persistence` is out of range", "1s to 1h"]),
        ("session_persistence = \"of\"", 23, &["`of` is not a duration", "or \"off\""]),
        ("session_persistence = \"0\"", 23, &["`0` is not a duration", "or \"off\""]),
        ("session_persistence = 300", 23, &["expected a duration", "or \"off\""]),
        ("session_persistence = false", 23, &["expected a duration", "or \"off\""]),
        ("session_persistance = \"5m\"", 1, &["unknown field", "did you mean `session_persistence`?"]),
    ] {
        check(&[(WEB_TARGET, &format!("{WEB_TARGET}\n{line}"), &format!("22:{column}"), words)]);
    }
}

#[test]
fn invalid_slow_starts_are_refused() {
    for (value, words) in [
        ("\"0s\"", ["`slow_start` is out of range", "1s to 5m, or \"off\""]),
        ("\"301s\"", ["`slow_start` is out of range", "1s to 5m, or \"off\""]),
        ("30", ["expected a duration", "`slow_start = \"30s\"`"]),
    ] {
        check(&[("[[server_group]]", &format!("[[server_group]]\nslow_start = {value}"), "24:14", &words)]);
    }
}

#[test]
fn invalid_health_checks_are_refused() {
    for (check_text, column, words) in [
        (
            "{ kind = \"ftp\" }",
            25,
            ["`kind` cannot be `ftp`", "\"tcp\", \"http\", \"https\", \"tls\", \"udp\", \"icmp\", \"none\""],
        ),
        ("{ kind = \"tpc\" }", 25, ["`kind` cannot be `tpc`", "did you mean \"tcp\"?"]),
        ("{ interval = \"2s\" }", 16, ["`kind` is missing", "kind = \"tcp\""]),
        ("{ kind = \"tcp\", port = 0 }", 39, ["`port` is out of range", "1 to 65535"]),
        ("{ kind = \"tcp\", interval = \"999ms\" }", 43, ["`interval` is out of range", "1s to 50s"]),
        ("{ kind = \"tcp\", interval = \"51s\" }", 43, ["`interval` is out of range", "1s to 50s"]),
        ("{ kind = \"tcp\", interval = 2 }", 43, ["expected a duration", "`interval = \"2s\"`"]),
        ("{ kind = \"tcp\", interval = \"2\" }", 43, ["`2` is not a duration", "ms, s, m or h"]),
        ("{ kind = \"tcp\", interval = \"2 s\" }", 43, ["`2 s` is not a duration", "ms, s, m or h"]),
        ("{ kind = \"tcp\", interval = \"1h\" }", 43, ["`interval` is out of range", "1s to 50s"]),
        ("{ kind = \"tcp\", interval = \"1d\" }", 43, ["`1d` is not a duration", "1s to 50s"]),
        ("{ kind = \"tcp\", interval = \"s\" }", 43, ["`s` is not a duration", "1s to 50s"]),
        ("{ kind = \"tcp\", interval = \"99999999999999999999s\" }", 43, ["is not a duration", "1s to 50s"]),
        ("{ kind = \"tcp\", timeout = \"0s\" }", 42, ["`timeout` is out of range", "1s to 5m"]),
        ("{ kind = \"tcp\", timeout = \"301s\" }", 42, ["`timeout` is out of range", "1s to 5m"]),
        ("{ kind = \"tcp\", healthy_threshold = 0 }", 52, ["`healthy_threshold` is out of range", "1 to 10"]),
        (
            "{ kind = \"tcp\", healthy_threshold = 11 }",
            52,
            ["`healthy_threshold` is out of range", "1 to 10"],
        ),
        (
            "{ kind = \"tcp\", unhealthy_threshold = 11 }",
            54,
            ["`unhealthy_threshold` is out of range", "1 to 10"],
        ),
        ("{ kind = \"tcp\", passive = true }", 42, ["expected a table, found a boolean", "braces"]),
        ("{ kind = \"tcp\", passive = { failures = 1 } }", 55, ["`failures` is out of range", "2 to 1000"]),
        ("{ kind = \"tcp\", passive = { within = \"4s\" } }", 53, ["`within` is out of range", "5s to 1m"]),
        ("{ kind = \"tcp\", passive = { after = 3 } }", 44, ["unknown field `after`", "`failures`"]),
        (
            "{ kind = \"none\", passive = {} }",
            43,
            ["`passive` without a health check", "return an ejected server"],
        ),
    ] {
        let text = format!("server_group = \"web\"\nhealth_check = {check_text}");
        check(&[(WEB_TARGET, &text, &format!("22:{column}"), &words)]);
    }
}

#[test]
fn invalid_passive_signals_are_refused() {
    let with_check = "default_group_port = 5353\nhealth_check = { kind = \"udp\", request = \"?\", expect = \"!\", passive = {} }";
    check(&[(
        DNS_TARGET,
        with_check,
        "16:71",
        &["`passive` has no meaning for a UDP listener", "a server need not answer a datagram"],
    )]);
    let target = "server_group = \"web\"\nmode = \"dsr\"\nhealth_check = { kind = \"tcp\", passive = {} }";
    let text =
        changed(WEB_TARGET, target).replace("port = 8080", "port = 80").replace("port = 8081", "port = 80");
    let words =
        ["`passive` has no meaning in mode `dsr`", "answers do not pass through SLB", "`mode = \"nat\"`"];
    assert_single(&errors(&text), "23:42", &words, &text);
}

#[test]
fn invalid_http_checks_are_refused() {
    for (check_text, column, words) in [
        ("path = \"\"", 40, ["is not a path", "write \"/\""]),
        ("path = \"healthz\"", 40, ["`healthz` is not a path", "write \"/healthz\""]),
        ("path = \"/a b\"", 40, ["a path cannot contain ` `", "percent-encoded"]),
        ("path = \"/a\\r\\nX: y\"", 40, ["a path cannot contain", "visible ASCII"]),
        ("path = \"/ä\"", 40, ["a path cannot contain `ä`", "percent-encoded"]),
        ("path = \"/a#b\"", 40, ["a path cannot contain `#`", "percent-encoded"]),
        ("path = 7", 40, ["expected a string for `path`", "\"/healthz\""]),
        ("method = \"head\"", 42, ["did you mean \"HEAD\"?", "allowed: \"HEAD\", \"GET\""]),
        ("method = \"POST\"", 42, ["`method` cannot be `POST`", "\"GET\""]),
        ("host = \"\"", 40, ["is not a host", "www.example.org"]),
        ("host = \"a b\"", 40, ["`a b` is not a host", "www.example.org"]),
        ("host = \"a\\r\\nX: y\"", 40, ["is not a host", "a port may follow"]),
        ("expect = []", 42, ["`expect` is empty", "[\"2xx\", 301]"]),
        ("expect = [\"2xx\", 99]", 50, ["`expect` is out of range", "200 to 599"]),
        ("expect = 100", 42, ["`expect` is out of range", "200 to 599"]),
        ("expect = [\"1xx\"]", 43, ["`1xx` is not a class of statuses", "\"2xx\" to \"5xx\""]),
        ("expect = \"200\"", 42, ["`200` is not a class of statuses", "without quotes: `200`"]),
        ("expect = [true]", 43, ["expected a status for `expect`, found a boolean", "\"2xx\""]),
        ("expect = [[200]]", 43, ["expected a status for `expect`, found a list", "204"]),
        (
            "verify = true",
            42,
            ["`verify` has no meaning in a health check of kind `http`", "kind \"https\", \"tls\""],
        ),
        (
            "request = \"x\"",
            43,
            ["`request` has no meaning in a health check of kind `http`", "kind \"udp\""],
        ),
    ] {
        let text = format!("server_group = \"web\"\nhealth_check = {{ kind = \"http\", {check_text} }}");
        check(&[(WEB_TARGET, &text, &format!("22:{column}"), &words)]);
    }
    let long = format!(
        "server_group = \"web\"\nhealth_check = {{ kind = \"http\", path = \"/{}\" }}",
        "x".repeat(1_024)
    );
    check(&[(WEB_TARGET, &long, "22:40", &["is not a path", "up to 1024 characters"])]);
    let https = "server_group = \"web\"\nhealth_check = { kind = \"https\", verify = \"yes\" }";
    check(&[(
        WEB_TARGET,
        https,
        "22:43",
        &["expected a boolean for `verify`", "true or false, without quotes"],
    )]);
}

#[test]
fn invalid_udp_and_icmp_checks_are_refused() {
    for (check_text, column, words) in [
        ("kind = \"udp\", request = \"\"", 42, ["`request` cannot have 0 characters", "1 to 500"]),
        ("kind = \"udp\", request = \"a\\tb\"", 42, ["holds a control character", "\"hex:0d0a\""]),
        ("kind = \"udp\", request = \"hex:0\"", 42, ["`request` is not hexadecimal", "pairs of the digits"]),
        ("kind = \"udp\", request = \"hex:0g\"", 42, ["`request` is not hexadecimal", "0-9 a-f"]),
        ("kind = \"udp\", request = \"hex:\"", 42, ["`request` is not hexadecimal", "for example"]),
        ("kind = \"udp\", request = 1", 42, ["expected a string for `request`", "hex:0d0a"]),
        ("kind = \"udp\", expect = \"pong\"", 41, ["`expect` without `request`", "request = \"ping\""]),
        (
            "kind = \"udp\", request = \"x\", expect = [\"2xx\"]",
            56,
            ["expected a string for `expect`", "found a list"],
        ),
        ("kind = \"udp\", path = \"/\"", 39, ["`path` has no meaning", "kind \"http\", \"https\""]),
        (
            "kind = \"tcp\", expect = 200",
            41,
            ["`expect` has no meaning", "kind \"http\", \"https\", \"udp\""],
        ),
        ("kind = \"tls\", path = \"/\"", 39, ["`path` has no meaning", "of kind `tls`"]),
        ("kind = \"tls\", verify = 1", 41, ["expected a boolean for `verify`", "true or false"]),
        ("kind = \"tls\", host = \"a b\"", 39, ["`a b` is not a host", "www.example.org"]),
        ("kind = \"tcp\", method = \"GET\"", 41, ["`method` has no meaning", "of kind `tcp`"]),
        ("kind = \"none\", host = \"a\"", 40, ["`host` has no meaning", "of kind `none`"]),
        ("kind = \"icmp\", port = 80", 40, ["`port` has no meaning", "of kind `icmp`"]),
    ] {
        let text = format!("server_group = \"web\"\nhealth_check = {{ {check_text} }}");
        check(&[(WEB_TARGET, &text, &format!("22:{column}"), &words)]);
    }
    let long = format!(
        "server_group = \"web\"\nhealth_check = {{ kind = \"udp\", request = \"{}\" }}",
        "ä".repeat(501)
    );
    check(&[(WEB_TARGET, &long, "22:42", &["cannot have 501 characters", "1 to 500"])]);
}

#[test]
fn too_many_listeners_or_servers_are_refused() {
    let listeners = |count: usize| {
        let one = |port| {
            format!(
                "[[load_balancer.listener]]\nname = \"l{port}\"\nprotocol = \"tcp\"\nport = {port}\nserver_group = \"web\"\n"
            )
        };
        let all: String = (1_000..1_000 + count).map(one).collect();
        changed("[[server_group]]", &format!("{all}[[server_group]]"))
    };
    accepted(&listeners(48));
    let text = listeners(49);
    assert_single(&errors(&text), "263:1", &["cannot have 51 listeners", "allowed: 50"], &text);

    let servers = |count: usize| {
        let all: String = (0..count)
            .map(|i| format!("  {{ address = \"10.1.{}.{}\", port = 1 }},\n", i / 256, i % 256))
            .collect();
        changed("servers = [\n", &format!("servers = [\n{all}"))
    };
    accepted(&servers(1_022));
    let text = servers(1_023);
    assert_single(&errors(&text), "1050:3", &["cannot have 1025 servers", "allowed: 1024"], &text);

    let servers = |count: usize| {
        let all: String = (0..count)
            .map(|i| format!("[[load_balancer.server]]\naddress = \"10.1.{}.{}\"\n", i / 256, i % 256))
            .collect();
        changed("[[load_balancer.server]]\n", &format!("{all}[[load_balancer.server]]\n"))
    };
    accepted(&servers(1_023));
    let text = servers(1_024);
    assert_single(&errors(&text), "2056:1", &["cannot have 1025 servers", "allowed: 1024"], &text);
}
