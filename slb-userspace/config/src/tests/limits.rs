//! Limits of listeners: what is accepted and refused.

use super::{BASE, accepted, assert_single, errors};
use crate::model::{Bandwidth, Listener};

const WEB_TARGET: &str = "server_group = \"web\"";
const DNS_TARGET: &str = "default_group_port = 5353";

/// The base with settings of the listener `web`, in line 22.
fn web(settings: &str) -> String {
    BASE.replace(WEB_TARGET, &format!("{WEB_TARGET}\n{settings}"))
}

/// The listener `web` of a configuration with these settings.
fn listener(settings: &str) -> Listener {
    accepted(&web(settings)).load_balancers[0].listeners[1].clone()
}

#[test]
fn limits_are_off_by_default_and_with_0() {
    for settings in
        ["", "bandwidth = 0\nnew_connections = 0", "bandwidth = \"0Mbit\"", "bandwidth = \"0Gbit\""]
    {
        let listener = listener(settings);
        assert_eq!((listener.bandwidth, listener.new_connections), (None, None), "{settings}");
    }
}

#[test]
fn bandwidth_is_an_integer_and_its_unit() {
    for (written, kilobits, shown) in [
        ("1Mbit", 1000, "1Mbit"),
        ("100Mbit", 100_000, "100Mbit"),
        ("1500Mbit", 1_500_000, "1500Mbit"),
        ("1500kbit", 1500, "1500kbit"),
        ("2000kbit", 2000, "2Mbit"),
        ("10Gbit", 10_000_000, "10Gbit"),
        ("1000Gbit", 1_000_000_000, "1000Gbit"),
        ("000100Mbit", 100_000, "100Mbit"),
    ] {
        let bandwidth = listener(&format!("bandwidth = \"{written}\"")).bandwidth.expect("a limit");
        assert_eq!(bandwidth, Bandwidth::of_kilobits(kilobits), "{written}");
        assert_eq!((bandwidth.to_string().as_str(), bandwidth.bits()), (shown, u64::from(kilobits) * 1000));
    }
}

#[test]
fn new_connections_are_a_number() {
    for number in [1, 1000, 10_000_000] {
        assert_eq!(listener(&format!("new_connections = {number}")).new_connections, Some(number));
    }
}

#[test]
fn invalid_limits_are_refused_with_what_to_write() {
    let range = "1Mbit to 1000Gbit, or 0 for no limit";
    let cases: [(&str, &str, &[&str]); 14] = [
        ("bandwidth = 100", "22:13", &["expected a bandwidth", "this is `bandwidth = \"100Mbit\"`", range]),
        ("bandwidth = -1", "22:13", &["expected a bandwidth", "kbit, Mbit or Gbit per second"]),
        ("bandwidth = true", "22:13", &["expected a bandwidth for `bandwidth`, found a boolean"]),
        ("bandwidth = \"100\"", "22:13", &["`100` is not a bandwidth", "an integer and its unit", range]),
        ("bandwidth = \"100mbit\"", "22:13", &["`100mbit` is not a bandwidth", "kbit, Mbit or Gbit"]),
        ("bandwidth = \"100 Mbit\"", "22:13", &["is not a bandwidth"]),
        ("bandwidth = \"1.5Gbit\"", "22:13", &["is not a bandwidth", "an integer"]),
        ("bandwidth = \"Mbit\"", "22:13", &["is not a bandwidth"]),
        ("bandwidth = \"-1Mbit\"", "22:13", &["is not a bandwidth"]),
        ("bandwidth = \"999kbit\"", "22:13", &["`bandwidth` is out of range", range]),
        ("bandwidth = \"1001Gbit\"", "22:13", &["`bandwidth` is out of range", range]),
        ("bandwidth = \"99999999999999999999999Gbit\"", "22:13", &["`bandwidth` is out of range"]),
        ("new_connections = 10000001", "22:19", &["`new_connections` is out of range", "0 to 10000000"]),
        ("new_connections = \"1000\"", "22:19", &["write it without quotes: `new_connections = 1000`"]),
    ];
    for (settings, at, words) in cases {
        let text = web(settings);
        assert_single(&errors(&text), at, words, &text);
    }
}

#[test]
fn new_connections_of_udp_need_a_mode_that_sees_replies() {
    let dns = |settings: &str| {
        let target = "server_group = \"dns\"";
        let group =
            "\n[[server_group]]\nname = \"dns\"\nservers = [{ address = \"10.0.0.31\", port = 53 }]\n";
        BASE.replace(DNS_TARGET, &format!("{target}\n{settings}"))
            .replace("[[load_balancer.server]]\naddress = \"10.0.0.21\"\n\n", "")
            + group
    };
    for mode in ["dsr", "ipip", "gue"] {
        let tunnel = |text: String| {
            text.replace(
                "interfaces = [\"eth0\"]",
                "interfaces = [\"eth0\"]\ntunnel_addresses = [\"10.0.0.5\"]",
            )
        };
        let with = |limit: &str| tunnel(dns(&format!("mode = \"{mode}\"\n{limit}")));
        let text = with("new_connections = 5");
        let words = [
            format!("`new_connections` cannot limit UDP in mode `{mode}`"),
            "no datagram shows that it begins a flow".to_owned(),
            "`bandwidth` limits UDP in every mode".to_owned(),
        ];
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        assert_single(&errors(&text), "15:19", &words, &text);
        accepted(&with("new_connections = 0\nbandwidth = \"5Mbit\""));
    }
    accepted(&dns("new_connections = 5"));
}

#[test]
fn syn_cookies_are_off_by_default_and_come_in_hundreds() {
    for (settings, expected) in [
        ("", None),
        ("syn_cookies = 0", None),
        ("syn_cookies = 1", Some(100)),
        ("syn_cookies = 10000", Some(10_000)),
        ("syn_cookies = 10001", Some(10_100)),
        ("syn_cookies = 5000000", Some(5_000_000)),
        ("mode = \"full-nat\"\nsyn_cookies = 200", Some(200)),
    ] {
        let text = web(settings)
            .replace("interfaces = [\"eth0\"]", "interfaces = [\"eth0\"]\nlocal_addresses = [\"10.0.0.9\"]");
        assert_eq!(accepted(&text).load_balancers[0].listeners[1].syn_cookies, expected, "{settings}");
    }
}

#[test]
fn syn_cookies_need_tcp_and_a_mode_that_sees_replies() {
    let text = web("syn_cookies = 5000001");
    assert_single(&errors(&text), "22:15", &["`syn_cookies` is out of range", "0 to 5000000"], &text);
    let text = BASE.replace(DNS_TARGET, &format!("{DNS_TARGET}\nsyn_cookies = 100"));
    let words = ["`syn_cookies` has no meaning here", "UDP has no handshake", "TCP listener of mode `nat`"];
    assert_single(&errors(&text), "16:15", &words, &text);
    accepted(&BASE.replace(DNS_TARGET, &format!("{DNS_TARGET}\nsyn_cookies = 0")));
    let dsr = web("mode = \"dsr\"\nsyn_cookies = 100");
    let problems = errors(&dsr);
    let words = ["`syn_cookies` has no meaning here", "in mode `dsr` servers answer clients themselves"];
    let shown = format!("{problems:?}");
    assert!(words.iter().all(|word| shown.contains(word)), "{shown}");
}
