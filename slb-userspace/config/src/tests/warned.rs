//! Valid configurations with a warning.

use super::{assert_single, changed, warnings};

#[test]
fn doubtful_configuration_causes_one_warning() {
    let unused = "[[server_group]]\nname = \"old\"\nservers = [{ address = \"10.0.0.9\", port = 1 }]\n[[server_group]]";
    let idle = "[[load_balancer]]\nname = \"idle\"\naddresses = [\"192.0.2.11\"]\n[[server_group]]";
    let cases: &[(&str, &str, &str, &[&str])] = &[
        ("[[server_group]]", unused, "24:8", &["server group `old` is not used", "server_group = \"old\""]),
        ("[[server_group]]", idle, "24:8", &["no listener", "[[load_balancer.listener]]"]),
        (
            "default_group_port = 5353",
            "server_group = \"web\"",
            "8:1",
            &["default server group is not used", "default_group_port"],
        ),
        (
            "server_group = \"web\"",
            "server_group = \"web\"\nhealth_check = { kind = \"none\", interval = \"2s\" }",
            "22:44",
            &["health check that is off", "no effect"],
        ),
        (
            "\"10.0.0.21\"",
            "\"fd00::21\"",
            "15:22",
            &["the default server group has no IPv4 server", "IPv4 connections", "dropped"],
        ),
        (
            "address = \"10.0.0.21\"",
            "address = \"10.0.0.21\"\nweight = 0",
            "16:22",
            &["the default server group has no IPv4 server", "weight above 0"],
        ),
    ];
    for (from, to, at, words) in cases {
        let text = changed(from, to);
        assert_single(&warnings(&text), at, words, &text);
    }
}

#[test]
fn hash_seed_0_causes_a_warning() {
    let text = changed("[daemon]", "[daemon]\nhash_seed = 0");
    assert_single(
        &warnings(&text),
        "2:13",
        &["`hash_seed = 0` is a well-known value", "leave it out", "random"],
        &text,
    );
    super::accepted(&text.replace("hash_seed = 0", "hash_seed = 1"));
}

#[test]
fn address_family_without_servers_causes_a_warning_per_listener() {
    let text = changed("[\"192.0.2.10\"]", "[\"192.0.2.10\", \"2001:db8::1\"]");
    let shown = warnings(&text).to_string();
    assert!(
        shown.contains("15:22") && shown.contains("the default server group has no IPv6 server"),
        "{shown}"
    );
    assert!(shown.contains("21:16") && shown.contains("group `web` has no IPv6 server"), "{shown}");
    let only_weight_0 = "servers = [\n  { address = \"fd00::1\", port = 1, weight = 0 },\n";
    let still = warnings(&text.replace("servers = [\n", only_weight_0)).to_string();
    assert!(still.contains("group `web` has no IPv6 server"), "{still}");
    let served = warnings(&text.replace("servers = [\n", &only_weight_0.replace("weight = 0", "weight = 1")))
        .to_string();
    assert!(!served.contains("group `web`"), "{served}");
}

#[test]
fn empty_server_group_causes_a_warning() {
    let text = super::BASE.split("servers = [").next().expect("start");
    assert_single(&warnings(text), "21:16", &["group `web` has no IPv4 server"], text);
}

#[test]
fn table_with_fewer_slots_than_servers_causes_a_warning() {
    let servers: String =
        (0..249).map(|i| format!("  {{ address = \"10.1.0.{i}\", port = 1 }},\n")).collect();
    let text = changed("servers = [\n", &format!("table_size = 251\nservers = [\n{servers}"));
    assert_single(&warnings(&text), "25:14", &["251 slots are too few for 251 servers"], &text);
    super::accepted(&text.replacen("  { address = \"10.1.0.7\", port = 1 },\n", "", 1));
}

#[test]
fn configuration_without_load_balancer_causes_a_warning() {
    let text = "[daemon]\ninterfaces = [\"eth0\"]\n";
    assert_single(&warnings(text), "1:1", &["there is no load balancer"], text);
}

#[test]
fn primary_side_without_health_check_causes_a_warning() {
    let pair = "\n[[primary_secondary_group]]\nname = \"db\"\nprimary = { address = \"10.0.0.31\", port = 80 }\n\
        secondary = { address = \"10.0.0.32\", port = 80 }\n";
    let spare = "\n[[server_group]]\nname = \"spare\"\nservers = [{ address = \"10.0.0.33\", port = 80 }]\n";
    for (target, more) in [
        ("primary_secondary_group = \"db\"", pair),
        ("primary = \"web\"\nsecondary = \"spare\"\nfailover_threshold = 1", spare),
    ] {
        let with = |check: &str| {
            let listener = "[[load_balancer.listener]]\nname = \"db\"\nprotocol = \"tcp\"\nport = 81\n";
            let all = format!("server_group = \"web\"\n\n{listener}{target}\n{check}");
            changed("server_group = \"web\"", &all) + more
        };
        let text = with("health_check = { kind = \"none\" }\n");
        let column = target.find(" = ").unwrap_or(0) + 4;
        assert_single(
            &warnings(&text),
            &format!("27:{column}"),
            &["without a health check nothing fails over", "add a `health_check` to this listener"],
            &text,
        );
        super::accepted(&with("health_check = { kind = \"tcp\" }\n"));
    }
}

/// `rr` ignores weights except 0: settings that it ignores cause a warning, and nothing else does.
#[test]
fn weights_and_slow_start_with_rr_cause_a_warning() {
    const LISTENER: &str = "server_group = \"web\"";
    let with = |scheduler: &str, group: &str, servers: &str| {
        let listener = format!("{LISTENER}\nscheduler = \"{scheduler}\"");
        changed(LISTENER, &listener)
            .replace("[[server_group]]", &format!("[[server_group]]{group}"))
            .replace("servers = [\n", &format!("servers = [\n{servers}"))
    };
    let slow = |scheduler| with(scheduler, "\nslow_start = \"30s\"", "");
    let words = [
        "`slow_start` has no effect where the scheduler is `rr`",
        "22 | scheduler = \"rr\"",
        "write `scheduler = \"wrr\"`",
    ];
    let text = slow("rr");
    assert_single(&warnings(&text), "25:14", &words, &text);
    let other = "{ address = \"10.1.0.1\", port = 1 },\n";
    let weighted = |scheduler, weight| {
        let servers = other.replace(" }", &format!(", weight = {weight} }}"));
        with(scheduler, "", &servers)
    };
    let text = weighted("rr", 50);
    let words = ["weights have no effect where the scheduler is `rr`", "scheduler = \"wrr\""];
    assert_single(&warnings(&text), "27:44", &words, &text);

    for scheduler in ["maglev", "maglev-client", "wrr", "wlc"] {
        super::accepted(&slow(scheduler));
        super::accepted(&weighted(scheduler, 50));
    }
    super::accepted(&with("rr", "\nslow_start = \"off\"", other));
    super::accepted(&weighted("rr", 100));
    super::accepted(&weighted("rr", 0));

    // Weights may be meant for another listener of the group. Slow start still does not work for this one.
    let second =
        "\n[[load_balancer.listener]]\nname = \"b\"\nprotocol = \"tcp\"\nport = 81\nserver_group = \"web\"\n";
    let shared = |text: String| text.replace("\n[[server_group]]", &format!("{second}\n[[server_group]]"));
    super::accepted(&shared(weighted("rr", 50)));
    let text = shared(slow("rr"));
    assert_single(&warnings(&text), "31:14", &["`slow_start` has no effect"], &text);
}

#[test]
fn weights_and_slow_start_of_default_group_with_rr_cause_a_warning() {
    let rr = "default_group_port = 5353\nscheduler = \"rr\"";
    let text =
        changed("default_group_port = 5353", rr).replace("\"shop\"\n", "\"shop\"\nslow_start = \"30s\"\n");
    assert_single(&warnings(&text), "6:14", &["`slow_start` has no effect"], &text);
    let text = changed("default_group_port = 5353", rr).replace(
        "address = \"10.0.0.21\"\n",
        "address = \"10.0.0.21\"\nweight = 7\n\n[[load_balancer.server]]\naddress = \"10.0.0.22\"\n",
    );
    assert_single(&warnings(&text), "10:10", &["weights have no effect"], &text);
}
