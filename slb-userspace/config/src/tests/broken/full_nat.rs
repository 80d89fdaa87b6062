//! Mode `full-nat` and the local addresses that it needs.

use super::{
    super::{BASE, accepted, warnings},
    assert_single, errors,
};

const WEB_TARGET: &str = "server_group = \"web\"";
const LOCALS: &str = "local_addresses = [\"10.0.0.5\", \"fd00::5\"]";

/// The base with the listener `web` in mode `full-nat`. Line 3 has the local addresses, 23 the mode.
fn full_nat() -> String {
    BASE.replace("interfaces = [\"eth0\"]", &format!("interfaces = [\"eth0\"]\n{LOCALS}"))
        .replace(WEB_TARGET, &format!("{WEB_TARGET}\nmode = \"full-nat\""))
}

fn broken(text: &str, from: &str, to: &str, at: &str, words: &[&str]) {
    assert_eq!(text.matches(from).count(), 1, "{from:?} must stand in the text once");
    let text = text.replace(from, to);
    assert_single(&errors(&text), at, words, &text);
}

#[test]
fn full_nat_translates_ports_and_takes_the_addresses_of_the_vips_family() {
    let config = accepted(&full_nat());
    let addresses: Vec<_> = config.daemon.local_addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.5", "fd00::5"]);
    assert_eq!(config.load_balancers[0].listeners[1].mode, crate::model::Mode::FullNat);
    accepted(&full_nat().replace(LOCALS, "local_addresses = [\"10.0.0.5\"]"));
    // Without a listener that uses them they are harmless.
    accepted(&full_nat().replace("mode = \"full-nat\"", ""));
    let all: Vec<_> = (1..=32).flat_map(|n| [format!("\"10.0.1.{n}\""), format!("\"fd00::{n}\"")]).collect();
    accepted(&full_nat().replace(LOCALS, &format!("local_addresses = [{}]", all.join(", "))));
    let passive = "kind = \"tcp\", passive = { failures = 3, within = \"10s\" }";
    accepted(&full_nat().replace(WEB_TARGET, &format!("{WEB_TARGET}\nhealth_check = {{ {passive} }}")));
}

#[test]
fn toa_is_for_tcp_in_mode_full_nat() {
    let mode = "mode = \"full-nat\"";
    let with = |toa: &str| full_nat().replace(mode, &format!("{mode}\ntoa = {toa}"));
    let toa_of = |text: &str| accepted(text).load_balancers[0].listeners[1].toa;
    assert!(!toa_of(&full_nat()) && !toa_of(&with("false")) && toa_of(&with("true")));
    // Off is right everywhere.
    accepted(&with("false").replace(mode, ""));
    let help = "use it for a TCP listener of mode `full-nat`";
    let words = ["`toa` has no meaning here", "in mode `nat` servers see the client's own address", help];
    broken(&with("true"), mode, "mode = \"nat\"", "24:7", &words);
    broken(&with("true"), "toa = true", "toa = \"yes\"", "24:7", &["expected a boolean", "a string"]);
    let udp = BASE.replace("interfaces = [\"eth0\"]", &format!("interfaces = [\"eth0\"]\n{LOCALS}"));
    let udp =
        udp.replace("default_group_port = 5353", &format!("default_group_port = 5353\n{mode}\ntoa = true"));
    assert_single(&errors(&udp), "18:7", &["`toa` has no meaning here", "datagrams have no options"], &udp);
}

#[test]
fn full_nat_without_a_local_address_of_the_vips_family_is_refused() {
    let help = "local_addresses = [\"10.0.0.5\", \"fd00::5\"]";
    for kept in ["", "\"fd00::5\""] {
        let words = ["mode `full-nat` of IPv4 VIPs needs `local_addresses` of that family", "a source", help];
        broken(&full_nat(), LOCALS, &format!("local_addresses = [{kept}]"), "23:8", &words);
    }
    let both = full_nat()
        .replace("[\"192.0.2.10\"]", "[\"192.0.2.10\", \"2001:db8::10\"]")
        .replace("\"10.0.0.12\"", "\"fd00::12\"");
    accepted_with_warnings(&both);
    broken(&both, LOCALS, "local_addresses = [\"10.0.0.5\"]", "23:8", &["of IPv6 VIPs needs"]);
}

/// The other listener has no IPv6 server.
fn accepted_with_warnings(text: &str) {
    assert_eq!(warnings(text).diagnostics().len(), 1);
}

#[test]
fn servers_of_the_other_family_are_refused_in_full_nat() {
    let words = [
        "mode `full-nat` needs IPv4 servers for IPv4 VIPs",
        "there are IPv6 servers only: SLB does not translate between IPv4 and IPv6",
        "add servers of the VIPs' family",
    ];
    let six = full_nat().replace("\"10.0.0.11\"", "\"fd00::11\"");
    accepted(&six);
    broken(&six, "\"10.0.0.12\"", "\"fd00::12\"", "22:16", &words);
    let default = full_nat().replace(&format!("{WEB_TARGET}\nmode = \"full-nat\""), WEB_TARGET);
    let default =
        default.replace("default_group_port = 5353", "default_group_port = 5353\nmode = \"full-nat\"");
    broken(&default, "\"10.0.0.21\"", "\"fd00::21\"", "16:22", &words);
    // A server without new flows is of the right family.
    let text = six.replace("\"fd00::11\", port = 8080", "\"10.0.0.11\", port = 8080, weight = 0");
    let text = text.replace("\"10.0.0.12\"", "\"fd00::12\"");
    let warned = warnings(&text);
    assert!(warned.to_string().contains("has no IPv4 server that takes new connections"), "{warned}");
}

#[test]
fn invalid_local_addresses_are_refused() {
    for (addresses, at, words) in [
        ("\"10.0.0.5\", \"10.0.0.5\"", "3:32", ["local address `10.0.0.5` appears twice", "first here"]),
        ("\"10.0.0.5/24\"", "3:20", ["is not an IP address", "without a prefix length"]),
        ("\"10.0.0.5\", \"ff02::1\"", "3:32", ["multicast", "ff02::1"]),
        ("\"10.0.0.5\", \"fe80::1\"", "3:32", ["link-local", "fe80::1"]),
        ("\"127.0.0.1\"", "3:20", ["loopback", "never leave a machine"]),
        ("\"0.0.0.0\"", "3:20", ["unspecified", "names no machine"]),
        ("10", "3:20", ["expected a string", "an IP address in quotes"]),
    ] {
        broken(&full_nat(), LOCALS, &format!("local_addresses = [{addresses}]"), at, &words);
    }
    let many: Vec<_> = (1..=33).map(|n| format!("\"10.0.1.{n}\"")).collect();
    let words = ["`local_addresses` has too many IPv4 addresses", "allowed: 32 of a family", "remove some"];
    broken(&full_nat(), LOCALS, &format!("local_addresses = [{}]", many.join(", ")), "3:427", &words);
}

#[test]
fn local_address_that_is_a_vip_or_a_servers_is_refused() {
    let with = |address: &str| full_nat().replace("\"10.0.0.5\"", &format!("\"10.0.0.5\", \"{address}\""));
    let vip = with("192.0.2.10");
    let words = ["VIP `192.0.2.10` is a local address", "one of `local_addresses`", "write another address"];
    assert_single(&errors(&vip), "7:14", &words, &vip);
    for (server, at) in [("10.0.0.21", "10:11"), ("10.0.0.11", "28:15")] {
        let text = with(server);
        let message = format!("server address `{server}` is a local address");
        let words = [message.as_str(), "packets to this server would return", "one of `local_addresses`"];
        assert_single(&errors(&text), at, &words, &text);
    }
}
