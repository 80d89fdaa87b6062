//! Access lists: what is accepted, refused and warned of.

use ipnet::IpNet;

use super::{BASE, accepted, assert_single, errors, warnings};
use crate::{
    model::{AccessListKind, Config},
    samples::parsed,
};

const WEB_TARGET: &str = "server_group = \"web\"";
const OFFICE: &str = "[[access_list]]\nname = \"office\"\nentries = [\"192.0.2.0/24\", \"2001:db8::/32\"]\n";
/// Lines 22 and 23. The first access list begins in line 31.
const WHITE: &str = "access_list = \"office\"\naccess_list_type = \"white\"";

/// The base with settings of the listener `web`, and lists at the end.
fn text(listener: &str, lists: &str) -> String {
    BASE.replace(WEB_TARGET, &format!("{WEB_TARGET}\n{listener}")) + lists
}

fn networks(config: &Config) -> Vec<String> {
    config.access_lists[0].networks.iter().map(IpNet::to_string).collect()
}

#[test]
fn listener_has_the_list_that_it_names() {
    for (word, kind) in [("white", AccessListKind::White), ("black", AccessListKind::Black)] {
        let config = accepted(&text(&WHITE.replace("white", word), OFFICE));
        let [dns, web] = config.load_balancers[0].listeners.as_slice() else { panic!("{config:?}") };
        let access = web.access.as_ref().expect("a list");
        assert_eq!((access.list.as_str(), access.kind, &dns.access), ("office", kind, &None));
        assert_eq!(networks(&config), ["192.0.2.0/24", "2001:db8::/32"]);
    }
}

#[test]
fn single_addresses_and_all_addresses_are_networks() {
    let entries = "\"192.0.2.7\", \"192.0.2.8/32\", \"0.0.0.0/0\", \"2001:db8::7\", \"::/0\"";
    let config = accepted(&text(WHITE, &OFFICE.replace("\"192.0.2.0/24\", \"2001:db8::/32\"", entries)));
    assert_eq!(networks(&config), ["0.0.0.0/0", "192.0.2.7/32", "192.0.2.8/32", "::/0", "2001:db8::7/128"]);
}

#[test]
fn order_of_entries_has_no_meaning() {
    let reversed = OFFICE.replace(
        "\"192.0.2.0/24\", \"2001:db8::/32\"",
        "\"2001:db8::/32\", # the other one\n\"192.0.2.0/24\"",
    );
    assert_eq!(parsed(&text(WHITE, OFFICE)), parsed(&text(WHITE, &reversed)));
}

#[test]
fn invalid_entries_are_refused_with_what_to_write() {
    let cases: [(&str, &[&str]); 10] = [
        (
            "192.0.2.7/24",
            &["has bits set after its prefix", "the network is \"192.0.2.0/24\"", "\"192.0.2.7/32\""],
        ),
        ("2001:db8::7/64", &["write \"2001:db8::/64\"", "\"2001:db8::7/128\" for this address alone"]),
        ("192.0.2.0/33", &["`192.0.2.0/33` is not a network", "a number from 0 to 32"]),
        ("2001:db8::/129", &["a number from 0 to 128"]),
        ("192.0.2.0/", &["a number from 0 to 32"]),
        ("192.0.2.0/255.255.255.0", &["write the length of the mask: \"192.0.2.0/24\""]),
        ("office.example", &["`office.example` is not a network", "\"2001:db8::/32\""]),
        ("", &["is not a network"]),
        ("::ffff:192.0.2.0/120", &["IPv4-mapped network", "write the IPv4 network"]),
        ("192.0.2.0-192.0.2.9", &["is not a network"]),
    ];
    for (entry, words) in cases {
        let text = text(WHITE, &OFFICE.replace("192.0.2.0/24", entry));
        assert_single(&errors(&text), "33:12", words, &text);
    }
    let number = text(WHITE, &OFFICE.replace("\"192.0.2.0/24\"", "7"));
    assert_single(&errors(&number), "33:12", &["expected a string for `entries`, found an integer"], &number);
}

#[test]
fn network_that_is_written_twice_is_refused() {
    for again in ["192.0.2.7", "192.0.2.7/32"] {
        let entries = format!("\"192.0.2.7/32\", \"{again}\"");
        let text = text(WHITE, &OFFICE.replace("\"192.0.2.0/24\", \"2001:db8::/32\"", &entries));
        assert_single(&errors(&text), "33:28", &["`192.0.2.7/32` appears twice", "first here"], &text);
    }
}

#[test]
fn list_has_at_most_300_entries() {
    let lists = |number: u32| {
        let entries: Vec<_> = (0..number).map(|n| format!("\"10.0.{}.{}\"", n / 256, n % 256)).collect();
        format!("[[access_list]]\nname = \"office\"\nentries = [\n{}]\n", entries.join(",\n"))
    };
    assert_eq!(networks(&accepted(&text(WHITE, &lists(300)))).len(), 300);
    let text = text(WHITE, &lists(301));
    let words = ["an access list cannot have 301 entries", "allowed: 300", "larger networks"];
    assert_single(&errors(&text), "334:1", &words, &text);
}

#[test]
fn there_are_at_most_1024_lists() {
    let lists = |number: usize| {
        let list = |n| OFFICE.replace("\"office\"", &format!("\"office{n}\""));
        OFFICE.to_owned() + &(1..number).map(list).collect::<String>()
    };
    assert_eq!(parsed(&text(WHITE, &lists(1024))).access_lists.len(), 1024);
    let text = text(WHITE, &lists(1025));
    let words = ["there cannot be 1025 access lists", "allowed: 1024"];
    assert_single(&errors(&text), &format!("{}:1", 31 + 3 * 1024), &words, &text);
}

#[test]
fn lists_without_a_sound_name_or_entries_are_refused() {
    let twice = text(WHITE, &format!("{OFFICE}{OFFICE}"));
    assert_single(&errors(&twice), "35:8", &["access list `office` appears twice", "first here"], &twice);
    let unnamed = text("", &OFFICE.replace("name = \"office\"\n", ""));
    assert_single(&errors(&unnamed), "30:1", &["`name` is missing", "name = \"office\""], &unnamed);
    let odd = text(&WHITE.replace("office", "of fice"), &OFFICE.replace("office", "of fice"));
    assert_single(&errors(&odd), "32:8", &["a name cannot contain ` `", "of-fice"], &odd);
    let without = text(WHITE, "[[access_list]]\nname = \"office\"\n");
    assert_single(&errors(&without), "31:1", &["`entries` is missing", "\"192.0.2.0/24\""], &without);
}

#[test]
fn listener_with_half_of_the_settings_is_refused() {
    let cases: [(&str, &str, &[&str]); 4] = [
        (
            "access_list = \"office\"",
            "22:15",
            &["`access_list_type` is missing", "`access_list_type = \"white\"`"],
        ),
        (
            "access_list_type = \"white\"",
            "22:20",
            &["`access_list_type` has no list", "`access_list = \"office\"`"],
        ),
        (
            "access_list = \"ofice\"\naccess_list_type = \"white\"",
            "22:15",
            &["access list `ofice` does not exist", "did you mean \"office\"?", "the file has: `office`"],
        ),
        (
            "access_list = \"office\"\naccess_list_type = \"allow\"",
            "23:20",
            &["`access_list_type` cannot be `allow`", "allowed: \"white\", \"black\""],
        ),
    ];
    for (listener, at, words) in cases {
        let text = text(listener, OFFICE);
        assert_single(&errors(&text), at, words, &text);
    }
    let none = text(WHITE, "");
    assert_single(&errors(&none), "22:15", &["does not exist", "the file has no access list"], &none);
}

#[test]
fn empty_list_and_unused_list_cause_a_warning() {
    let empty = "[[access_list]]\nname = \"office\"\nentries = []\n";
    for (word, effect) in [("white", "denies every client"), ("black", "denies no client")] {
        let text = text(&WHITE.replace("white", word), empty);
        let words = ["access list `office` has no entry", effect, "remove it from the listener"];
        assert_single(&warnings(&text), "22:15", &words, &text);
    }
    let text = text("", OFFICE);
    let words = ["access list `office` is not used", "`access_list = \"office\"`"];
    assert_single(&warnings(&text), "31:8", &words, &text);
}
