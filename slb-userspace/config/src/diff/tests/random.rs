//! The diff of random pairs of configurations.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::flip::flip;
use crate::{
    Config,
    diff::{ChangeAction, diff, lines},
    samples::parsed,
};

/// Choices among variants of a configuration, used in turn.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    /// One of `variants`.
    fn of<T: Copy>(&mut self, variants: &[T]) -> T {
        let choice = self.0.next().copied().unwrap_or(0);
        variants[usize::from(choice) % variants.len()]
    }

    fn is(&mut self) -> bool {
        self.of(&[false, true])
    }
}

/// A configuration with some of two load balancers, three listeners in each, and three groups.
pub(super) fn config(choices: &[u8]) -> Config {
    let mut choices = Choices(choices.iter());
    let daemon = daemon(&mut choices);
    let has_locals = daemon.contains("local_addresses");
    let groups: String = ["a", "b", "c"].iter().map(|id| group(id, &mut choices)).collect();
    let groups = if choices.is() { groups } else { groups + &pair(&mut choices) };
    let mut text = String::new();
    for (number, id) in ["x", "y"].iter().enumerate() {
        if !choices.is() {
            load_balancer(id, number, has_locals, &mut choices, &mut text);
        }
    }
    if text.is_empty() {
        load_balancer("x", 0, has_locals, &mut choices, &mut text);
    }
    parsed(&(daemon + &text + &groups + access_list(&mut choices)))
}

/// The list that listeners name.
fn access_list(choices: &mut Choices<'_>) -> &'static str {
    choices.of(&[
        "[[access_list]]\nname = \"office\"\nentries = [\"192.0.2.0/24\", \"2001:db8::/32\"]\n",
        "[[access_list]]\nname = \"office\"\nentries = [\"2001:db8::/32\", \"192.0.2.0/24\"]\n",
        "[[access_list]]\nname = \"office\"\nentries = []\n[[access_list]]\nname = \"b\"\nentries = [\"0.0.0.0/0\"]\n",
    ])
}

fn daemon(choices: &mut Choices<'_>) -> String {
    let interfaces =
        choices.of(&["\"eth0\"", "\"eth0\", \"eth1\"", "{ name = \"eth0\", role = \"client\" }"]);
    let xdp_mode = choices.of(&["", "xdp_mode = \"native\"\n"]);
    let addresses = choices.of(&[
        "",
        "tunnel_addresses = [\"10.0.0.5\", \"fd00::5\"]\ngue_port = 6081\n",
        "local_addresses = [\"10.0.0.6\", \"10.0.0.7\", \"fd00::5\"]\n",
    ]);
    let probes = choices.of(&["", "probe_source = [\"10.0.0.5\"]\n", "probe_mark = 0x51b\nhash_seed = 7\n"]);
    let files = choices.of(&[
        "",
        "read_only_socket = \"/run/r\"\nmetrics_address = \"127.0.0.1:9813\"\n",
        "state_dir = \"/s\"\nmax_servers = 2048\n",
    ]);
    format!("[daemon]\ninterfaces = [{interfaces}]\n{xdp_mode}{addresses}{probes}{files}")
}

/// Ids and names vary, except of the groups that listeners name.
fn group(id: &str, choices: &mut Choices<'_>) -> String {
    let servers = ["10.0.0.11", "10.0.0.12", "fd00::13"].iter().filter_map(|address| {
        let weight = choices.of(&[100, 7, 0]);
        let id = choices.of(&["", ", quic_server_id = 7", ", quic_server_id = 70000"]);
        let id = if address.ends_with('1') { id } else { "" };
        (!choices.is()).then(|| format!("{{ address = \"{address}\", port = 80, weight = {weight}{id} }}"))
    });
    let mut servers: Vec<_> = servers.collect();
    servers.push("{ address = \"10.0.0.19\", port = 80 }".to_owned());
    if choices.is() {
        servers.reverse();
    }
    let slow_start = choices.of(&["", "slow_start = \"9s\"\n"]);
    let own_id = choices.of(&["", "id = \"other\"\n"]);
    let own_id = if id == "c" { own_id } else { "" };
    format!("[[server_group]]\nname = \"{id}\"\n{own_id}{slow_start}servers = [{}]\n", servers.join(", "))
}

fn pair(choices: &mut Choices<'_>) -> String {
    let name = choices.of(&["p", "q"]);
    let port = choices.of(&[80, 81]);
    format!(
        "[[primary_secondary_group]]\nid = \"p\"\nname = \"{name}\"\nprimary = {{ address = \"10.0.0.31\", port = {port} }}\n\
         secondary = {{ address = \"10.0.0.32\", port = 80 }}\n"
    )
}

fn load_balancer(id: &str, number: usize, has_locals: bool, choices: &mut Choices<'_>, text: &mut String) {
    let name = if choices.is() { format!("{id}-renamed") } else { id.to_owned() };
    let more = choices.of(&["", ", \"2001:db8::VIP\""]).replace("VIP", &(10 + number).to_string());
    let state = choices.of(&["", "state = \"stopped\"\n", "unmatched = \"drop\"\n", "announce = \"arp\"\n"]);
    let _ = write!(
        text,
        "[[load_balancer]]\nid = \"{id}\"\nname = \"{name}\"\n{state}addresses = [\"192.0.2.{}\"{more}]\n",
        10 + number
    );
    for address in ["10.0.0.21", "10.0.0.3"] {
        if !choices.is() || address == "10.0.0.21" {
            let weight = choices.of(&[100, 0]);
            let _ = write!(text, "[[load_balancer.server]]\naddress = \"{address}\"\nweight = {weight}\n");
        }
    }
    for (port, id) in [(80, "l"), (81, "m"), (82, "n")] {
        if choices.is() {
            continue;
        }
        let name = if choices.is() { format!("{id}2") } else { id.to_owned() };
        let protocol = choices.of(&["tcp", "udp"]);
        let target = choices.of(&[
            "server_group = \"a\"",
            "server_group = \"b\"",
            "default_group_port = 9",
            "primary = \"a\"\nsecondary = \"b\"\nfailover_threshold = 1\nfailback_after = \"1500ms\"",
        ]);
        let check = check(protocol, choices);
        let scheduler = choices.of(&["", "scheduler = \"rr\"\n", "session_persistence = \"60s\"\n"]);
        let mode = choices.of(&["", "mode = \"dsr\"\n", "mode = \"dsr\"\ntracking = \"always\"\n"]);
        let follow = if protocol == "udp" { "unknown_datagrams = \"follow\"\n" } else { "" };
        let mode = mode.to_owned() + if mode.is_empty() { "" } else { choices.of(&["", follow]) };
        // In `dsr` the servers have the port of the listener, and passive checks see no answers.
        let is_nat = port != 80 || target.starts_with("default_group_port") || check.contains("passive");
        // The servers of the VIPs' second family may be missing.
        let full_nat = if has_locals && more.is_empty() { full_nat(protocol, choices) } else { "" };
        let mode = if is_nat { full_nat } else { &mode };
        let rest = choices.of(&["", "drain_timeout = \"15s\"\n", "on_no_healthy = \"drop\"\n"]);
        let access = choices.of(&[
            "",
            "access_list = \"office\"\naccess_list_type = \"white\"\n",
            "access_list = \"office\"\naccess_list_type = \"black\"\n",
        ]);
        let limits = choices.of(&["", "bandwidth = \"100Mbit\"\n", "bandwidth = \"1Gbit\"\n"]);
        let _ = write!(
            text,
            "[[load_balancer.listener]]\nid = \"{id}\"\nname = \"{name}\"\nprotocol = \"{protocol}\"\nport = {port}\n\
             {target}\n{check}\n{scheduler}{mode}{rest}{access}{limits}"
        );
    }
}

fn full_nat(protocol: &str, choices: &mut Choices<'_>) -> &'static str {
    let toa = if protocol == "tcp" { "mode = \"full-nat\"\ntoa = true\n" } else { "toa = false\n" };
    choices.of(&["", "mode = \"full-nat\"\n", toa])
}

fn check(protocol: &str, choices: &mut Choices<'_>) -> &'static str {
    let passive = "health_check = { kind = \"icmp\", passive = { within = \"5s\" } }";
    choices.of(&[
        "health_check = { kind = \"none\" }",
        "health_check = { kind = \"tcp\", port = 9 }",
        "health_check = { kind = \"http\", path = \"/up\", expect = [200, \"3xx\"] }",
        "health_check = { kind = \"udp\", request = \"hex:00\", expect = \"ok\" }",
        "health_check = { kind = \"https\", method = \"GET\", verify = true, host = \"a.example\" }",
        "health_check = { kind = \"tls\", interval = \"1500ms\", healthy_threshold = 2 }",
        if protocol == "tcp" { passive } else { "" },
        if protocol == "tcp" { "established_timeout = \"60s\"" } else { "" },
    ])
}

pub(super) fn choices() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn diff_back_is_the_flipped_diff((old, new) in (choices(), choices())) {
        let (old, new) = (config(&old), config(&new));
        let there = diff(&old, &new);
        prop_assert_eq!(flip(there.clone()), diff(&new, &old));
        prop_assert_eq!(flip(flip(there.clone())), there);
    }

    /// Every change has words.
    #[test]
    fn diff_is_empty_and_has_no_words_only_if_the_configurations_are_equal(
        (choices, at, choice) in (choices(), 0..120_usize, any::<u8>()),
    ) {
        let mut others = choices.clone();
        others[at] = choice;
        let (old, new) = (config(&choices), config(&others));
        let diff = diff(&old, &new);
        prop_assert_eq!(diff.is_empty(), old == new);
        prop_assert_eq!(lines(&diff).is_empty(), old == new, "{:?}", diff);
    }

    #[test]
    fn changes_are_in_the_order_of_kinds_owners_and_ids((old, new) in (choices(), choices())) {
        let diff = diff(&config(&old), &config(&new));
        let keys = diff.changes.iter().map(|change| (change.kind, change.owner.as_ref().map(|owner| &owner.id)));
        let keys: Vec<_> = keys.collect();
        prop_assert!(keys.is_sorted(), "{:?}", keys);
        for change in &diff.changes {
            prop_assert!(change.fields.iter().all(|field| field.old != field.new));
            prop_assert!(change.action != ChangeAction::Reordered || diff.changes.len() == 1);
        }
    }

    /// A field that the diff leaves out would look like another order of entries.
    #[test]
    fn only_another_order_of_entries_is_reported_as_such(
        (choices, at, choice) in (choices(), 0..120_usize, any::<u8>()),
    ) {
        let mut others = choices.clone();
        others[at] = choice;
        let (old, new) = (config(&choices), config(&others));
        let is_reordered = diff(&old, &new).changes.iter().any(|it| it.action == ChangeAction::Reordered);
        prop_assert!(!is_reordered || sorted(old) == sorted(new));
    }
}

/// The configuration with the entries of all lists in one order.
pub(super) fn sorted(mut config: Config) -> Config {
    config.load_balancers.sort_by(|a, b| a.id.cmp(&b.id));
    for balancer in &mut config.load_balancers {
        balancer.addresses.sort();
        balancer.listeners.sort_by(|a, b| a.id.cmp(&b.id));
        balancer.servers.sort_by_key(|server| server.address);
    }
    config.server_groups.sort_by(|a, b| a.id.cmp(&b.id));
    for group in &mut config.server_groups {
        group.servers.sort_by_key(|server| (server.address, server.port));
    }
    config.primary_secondary_groups.sort_by(|a, b| a.id.cmp(&b.id));
    config.access_lists.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
    config
}
