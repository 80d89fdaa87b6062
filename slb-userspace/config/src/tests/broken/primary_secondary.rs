//! Primary and secondary servers, and conflicting ways to specify servers.

use super::{super::accepted, WEB_TARGET, assert_single, changed, check, errors};

const GROUP: &str = "\n[[primary_secondary_group]]\nname = \"db\"\n\
    primary = { address = \"10.0.0.31\", port = 80 }\nsecondary = { address = \"10.0.0.32\", port = 80 }\n";
const SECOND: &str =
    "\n[[server_group]]\nname = \"web-b\"\nservers = [{ address = \"10.0.0.13\", port = 80 }]\n";

fn with_group(listener: &str, from: &str, to: &str) -> String {
    assert_eq!(GROUP.matches(from).count(), 1, "{from}");
    changed(
        WEB_TARGET,
        &format!(
            "{WEB_TARGET}\n\n[[load_balancer.listener]]\nname = \"db\"\nprotocol = \"tcp\"\nport = 81\n{listener}"
        ),
    ) + &GROUP.replace(from, to)
}

#[test]
fn invalid_primary_secondary_groups_are_refused() {
    accepted(&with_group("primary_secondary_group = \"db\"", "31", "31"));
    for (from, to, at, words) in [
        (
            "\nsecondary = { address = \"10.0.0.32\", port = 80 }",
            "",
            "36:1",
            &["`secondary` is missing", "secondary = {"][..],
        ),
        ("10.0.0.31", "10.0.0.32", "39:13", &["the same server", "the primary", "name another server"]),
        ("10.0.0.31", "192.0.2.10", "38:23", &["is a VIP"]),
        ("10.0.0.32", "fd00::1", "39:13", &["different address families", "both an IPv4 address"]),
        ("32\", port = 80", "32\"", "39:13", &["`port` is missing"]),
        ("32\", port = 80 }", "32\", port = 80, weight = 5 }", "39:49", &["unknown field `weight`"]),
        (
            "secondary =",
            "failback_after = \"2h\"\nsecondary =",
            "39:18",
            &["`failback_after` is out of range", "0s to 1h"],
        ),
    ] {
        let text = with_group("primary_secondary_group = \"db\"", from, to);
        assert_single(&errors(&text), at, words, &text);
    }
    let text = super::super::BASE.to_owned() + &GROUP.replace("name = \"db\"\n", "");
    assert_single(&errors(&text), "30:1", &["`name` is missing"], &text);
    let text = with_group("primary_secondary_group = \"bd\"", "31", "31");
    let words = ["primary/secondary server group `bd` does not exist", "did you mean \"db\"?"];
    assert_single(&errors(&text), "27:27", &words, &text);
}

#[test]
fn invalid_primary_secondary_modes_are_refused() {
    let with = |lines: &str| changed(WEB_TARGET, lines) + SECOND;
    let good = "primary = \"web\"\nsecondary = \"web-b\"\nfailover_threshold = 2\nfailback_after = \"30s\"";
    accepted(&with(good));
    for (from, to, at, words) in [
        ("secondary = \"web-b\"\n", "", "17:1", &["`secondary` is missing", "secondary = \"web-b\""][..]),
        ("primary = \"web\"\n", "", "17:1", &["`primary` is missing"]),
        (
            "failover_threshold = 2\n",
            "",
            "17:1",
            &["`failover_threshold` is missing", "failover_threshold = 2"],
        ),
        ("threshold = 2", "threshold = 0", "23:22", &["out of range", "1 to 1024"]),
        (
            "threshold = 2",
            "threshold = 3",
            "23:22",
            &["can never be unhealthy", "it has 2", "allowed: 1 to 2"],
        ),
        ("\"web-b\"", "\"web\"", "22:13", &["the same group", "name another group"]),
        ("\"web-b\"", "\"web-c\"", "22:13", &["server group `web-c` does not exist", "web-b"]),
        ("\"30s\"", "30", "24:18", &["expected a duration", "failback_after = \"30s\""]),
        (
            "primary =",
            "server_group = \"web\"\nprimary =",
            "22:11",
            &["either `server_group` or `primary`", "remove all but one"],
        ),
    ] {
        assert_eq!(good.matches(from).count(), 1, "{from}");
        // An unused group is no error.
        let text = with(&good.replace(from, to));
        assert_single(&errors(&text), at, words, &text);
    }
}

#[test]
fn misplaced_failover_settings_and_unknown_words_are_refused() {
    let with = |line: &str| format!("{WEB_TARGET}\n{line}");
    check(&[
        (
            WEB_TARGET,
            &with("failover_threshold = 1"),
            "22:22",
            &["`failover_threshold` has no meaning here", "remove it"],
        ),
        (WEB_TARGET, &with("failback_after = \"1s\""), "22:18", &["`failback_after` has no meaning here"]),
        (
            WEB_TARGET,
            &with("scheduler = \"maglev-clint\""),
            "22:13",
            &["cannot be `maglev-clint`", "did you mean \"maglev-client\"?"],
        ),
        (WEB_TARGET, &with("on_no_healthy = \"any\""), "22:17", &["cannot be `any`", "\"drop\", \"all\""]),
        (
            WEB_TARGET,
            &with("state = \"paused\""),
            "22:9",
            &["cannot be `paused`", "\"running\", \"stopped\""],
        ),
        (
            "addresses = [",
            "unmatched = \"refuse\"\naddresses = [",
            "6:13",
            &["cannot be `refuse`", "\"drop\", \"reject\", \"pass\""],
        ),
        (
            "addresses = [",
            "announce = \"apr\"\naddresses = [",
            "6:12",
            &["cannot be `apr`", "did you mean \"arp\"?"],
        ),
        (
            "addresses = [",
            "announce = true\naddresses = [",
            "6:12",
            &["expected a string for `announce`", "\"off\", \"arp\""],
        ),
        ("addresses = [", "state = 1\naddresses = [", "6:9", &["expected a string for `state`"]),
    ]);
}
