//! Modes, and what they require of servers and of the daemon.

use super::{
    super::{BASE, accepted, warnings},
    assert_single, changed, check, errors,
};

const WEB_TARGET: &str = "server_group = \"web\"";
const DNS_TARGET: &str = "default_group_port = 5353";
const TUNNELS: &str = "tunnel_addresses = [\"10.0.0.1\", \"fd00::1\"]";

/// The base with both listeners ready for modes without NAT, and the daemon for tunnels.
///
/// Line 3 has the tunnel addresses, 17 the mode of `dns`, 24 that of `web`.
fn untranslated(mode: &str) -> String {
    BASE.replace("interfaces = [\"eth0\"]", &format!("interfaces = [\"eth0\"]\n{TUNNELS}"))
        .replace(DNS_TARGET, &format!("default_group_port = 53\nmode = \"{mode}\""))
        .replace(WEB_TARGET, &format!("server_group = \"web\"\nmode = \"{mode}\""))
        .replace("port = 8080", "port = 80")
        .replace("port = 8081", "port = 80")
}

fn broken(text: &str, from: &str, to: &str, at: &str, words: &[&str]) {
    assert_eq!(text.matches(from).count(), 1, "{from:?} must stand in the text once");
    let text = text.replace(from, to);
    assert_single(&errors(&text), at, words, &text);
}

#[test]
fn modes_dsr_ipip_and_gue_are_accepted() {
    accepted(&untranslated("dsr"));
    accepted(&untranslated("ipip"));
    accepted(&untranslated("gue"));
    // Only tunnels need a source address.
    accepted(&untranslated("dsr").replace(&format!("{TUNNELS}\n"), ""));
    // A server of either address family can serve a VIP of either.
    accepted(&untranslated("dsr").replace(TUNNELS, "tunnel_addresses = []").replace("10.0.0.", "fd00::"));
}

#[test]
fn invalid_modes_and_tracking_are_refused() {
    let with = |line: &str| format!("server_group = \"web\"\n{line}");
    for (line, at, words) in [
        ("mode = \"DSR\"", "22:8", ["`mode` cannot be `DSR`", "did you mean \"dsr\"?"]),
        (
            "mode = \"tunnel\"",
            "22:8",
            ["`mode` cannot be `tunnel`", "\"nat\", \"full-nat\", \"dsr\", \"ipip\", \"gue\""],
        ),
        ("mode = 1", "22:8", ["expected a string", "an integer"]),
        ("tracking = \"allways\"", "22:12", ["`tracking` cannot be `allways`", "did you mean \"always\"?"]),
        ("tracking = \"never\"", "22:12", ["`tracking` cannot be `never`", "allowed: \"auto\", \"always\""]),
        ("tracking = true", "22:12", ["expected a string", "a boolean"]),
    ] {
        check(&[(WEB_TARGET, &with(line), at, &words)]);
    }
    let dsr = untranslated("dsr");
    let with = |value: &str| format!("default_group_port = 53\nunknown_datagrams = {value}");
    for (value, words) in [
        ("\"kepe\"", ["`unknown_datagrams` cannot be `kepe`", "did you mean \"keep\"?"]),
        ("\"drop\"", ["`unknown_datagrams` cannot be `drop`", "allowed: \"keep\", \"follow\""]),
        ("false", ["expected a string", "a boolean"]),
    ] {
        broken(&dsr, "default_group_port = 53", &with(value), "17:21", &words);
    }
}

#[test]
fn unknown_datagrams_is_refused_outside_udp_that_is_not_translated() {
    let words =
        ["`unknown_datagrams` has no meaning here", "UDP in the modes `dsr`, `ipip` and `gue`", "remove it"];
    check(&[
        (DNS_TARGET, "default_group_port = 5353\nunknown_datagrams = \"keep\"", "16:21", &words),
        (WEB_TARGET, "server_group = \"web\"\nunknown_datagrams = \"follow\"", "22:21", &words),
    ]);
    for mode in ["dsr", "ipip", "gue"] {
        let with = format!("{WEB_TARGET}\nunknown_datagrams = \"follow\"");
        broken(&untranslated(mode), WEB_TARGET, &with, "24:21", &words);
    }
}

#[test]
fn translated_ports_are_refused_in_dsr_ipip_and_gue() {
    for mode in ["dsr", "ipip", "gue"] {
        let text = untranslated(mode);
        let says = format!("mode `{mode}` does not translate");
        broken(
            &text,
            "default_group_port = 53",
            "default_group_port = 5353",
            "16:22",
            &[
                "port 5353 is not the listener's",
                &says,
                "packets arrive at port 53",
                "15 | port = 53",
                "write 53 here",
            ],
        );
        broken(
            &text,
            "\"10.0.0.12\", port = 80",
            "\"10.0.0.12\", port = 8081",
            "30:35",
            &[
                "port 8081 is not the listener's",
                &says,
                "packets arrive at port 80",
                "22 | port = 80",
                "use mode `nat`",
            ],
        );
    }
    // One server of a group is enough for the error.
    let text = untranslated("dsr").replace(", port = 80 }", ", port = 8080 }");
    assert_single(&errors(&text), "29:35", &["port 8080 is not the listener's"], &text);
}

#[test]
fn gue_without_a_tunnel_address_is_refused_and_its_port_checked() {
    let text = untranslated("gue");
    let without = text
        .replace(TUNNELS, "tunnel_addresses = []")
        .replace(&format!("{WEB_TARGET}\nmode = \"gue\""), WEB_TARGET);
    let words = ["mode `gue` to IPv4 servers needs a `tunnel_addresses` of that family", "a source address"];
    assert_single(&errors(&without), "17:8", &words, &without);
    accepted(&text.replace(TUNNELS, &format!("{TUNNELS}\ngue_port = 1")));
    for (value, words) in [
        ("0", ["`gue_port`", "1 to 65535"]),
        ("65536", ["`gue_port`", "1 to 65535"]),
        ("\"6080\"", ["expected an integer", "a string"]),
    ] {
        broken(&text, TUNNELS, &format!("{TUNNELS}\ngue_port = {value}"), "4:12", &words);
    }
}

#[test]
fn ipip_without_a_tunnel_address_of_the_family_is_refused() {
    let text = untranslated("ipip");
    let without = |kept: &str| text.replace(TUNNELS, &format!("tunnel_addresses = [{kept}]"));
    let needed =
        |family: &str| format!("mode `ipip` to {family} servers needs a `tunnel_addresses` of that family");
    let help = "tunnel_addresses = [\"10.0.0.5\"]";

    accepted(&without("\"10.0.0.1\""));
    let dns_alone = without("").replace(&format!("{WEB_TARGET}\nmode = \"ipip\""), WEB_TARGET);
    assert_single(&errors(&dns_alone), "17:8", &[&needed("IPv4"), "a source address", help], &dns_alone);
    let six = without("\"10.0.0.1\"").replace("10.0.0.12", "fd00::12");
    assert_single(&errors(&six), "24:8", &[&needed("IPv6"), "a source address", help], &six);
    let six = without("\"10.0.0.1\"").replace("10.0.0.21", "fd00::21");
    assert_single(&errors(&six), "17:8", &[&needed("IPv6"), "a source address", help], &six);

    // A server without new flows may still have established ones.
    let draining =
        without("\"10.0.0.1\"").replace("\"10.0.0.12\", port = 80", "\"fd00::12\", port = 80, weight = 0");
    assert_single(&errors(&draining), "24:8", &[&needed("IPv6")], &draining);
    let draining = without("\"10.0.0.1\"").replace(
        "address = \"10.0.0.21\"",
        "address = \"10.0.0.21\"\n[[load_balancer.server]]\naddress = \"fd00::21\"\nweight = 0",
    );
    assert_single(&errors(&draining), "20:8", &[&needed("IPv6")], &draining);
}

#[test]
fn invalid_tunnel_addresses_are_refused() {
    let text = untranslated("ipip");
    for (addresses, at, words) in [
        ("\"10.0.0.1\", \"10.0.0.2\"", "3:33", ["an IPv4 address appears twice", "first here"]),
        ("\"10.0.0.1\", \"fd00::1\", \"fd00::2\"", "3:44", ["an IPv6 address appears twice", "first here"]),
        ("\"10.0.0.1/24\"", "3:21", ["is not an IP address", "without a prefix length"]),
        ("\"10.0.0.1\", \"ff02::1\"", "3:33", ["multicast", "ff02::1"]),
        ("10", "3:21", ["expected a string", "an IP address in quotes"]),
    ] {
        broken(&text, TUNNELS, &format!("tunnel_addresses = [{addresses}]"), at, &words);
    }
    // Another error in the table does not hide its other values.
    broken(&text, "\"eth0\"", "\"a b\"", "2:15", &["`a b` cannot be the name"]);
    broken(
        &text,
        TUNNELS,
        "tunnel_addresses = \"10.0.0.1\"",
        "3:20",
        &["expected a list, found a string", "between brackets"],
    );
}

#[test]
fn invalid_tunnel_sources_are_refused() {
    let text = untranslated("ipip");
    for (sources, at, words) in [
        ("\"10.1.0.0/16\", \"10.2.0.0/16\"", "4:34", ["an IPv4 network appears twice", "first here"]),
        ("\"10.1.0.1/16\"", "4:19", ["has bits set after its prefix", "10.1.0.0/16"]),
        ("\"10.1.0.1\"", "4:19", ["has a prefix length of 32", "allowed for IPv4: 8 to 31"]),
        ("\"fd00::/16\"", "4:19", ["has a prefix length of 16", "allowed for IPv6: 32 to 127"]),
    ] {
        broken(&text, TUNNELS, &format!("{TUNNELS}\ntunnel_sources = [{sources}]"), at, &words);
    }
}

#[test]
fn dsr_servers_of_one_family_serve_vips_of_both_families() {
    let six = untranslated("dsr").replace("[\"192.0.2.10\"]", "[\"192.0.2.10\", \"2001:db8::10\"]");
    accepted(&six);
    // In mode `nat` the address family matters.
    let text = changed("[\"192.0.2.10\"]", "[\"192.0.2.10\", \"2001:db8::10\"]");
    assert_eq!(warnings(&text).diagnostics().len(), 2);
}
