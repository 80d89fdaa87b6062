use super::*;
use crate::dataplane::state::to_address;
use crate::inputs::Mac;

const OWN: Mac = [2, 0, 0, 0, 0, 1];
const OLD: Mac = [2, 0, 0, 0, 0, 0xa];
const NEW: Mac = [2, 0, 0, 0, 0, 0xb];
const OTHER: Mac = [2, 0, 0, 0, 0, 0xc];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn hop(interface_index: u32, destination_mac: Mac, through_gateway: bool) -> NextHop {
    let interface = format!("eth{interface_index}");
    NextHop { interface_index, interface, source_mac: OWN, destination_mac, mtu: 1500, through_gateway }
}

fn at(interface: u32, mac: Mac) -> ClientPath {
    ClientPath::new(interface, mac_word(mac))
}

/// The changed paths, given the kernel's next hop to each sample before and now.
fn changes(steps: &[(&str, NextHop, Option<NextHop>)]) -> PathChanges {
    let mut paths = Paths::default();
    let before = paths.update(steps.iter().map(|(ip, hop, _)| (self::ip(ip), Some(hop))), |_| true);
    assert!(before.is_empty(), "nothing was known before");
    paths.update(steps.iter().map(|(ip, _, hop)| (self::ip(ip), hop.as_ref())), |index| index < 9)
}

fn to(changes: &PathChanges, client: &str, path: ClientPath) -> Option<ClientPath> {
    changes.to(&to_address(ip(client)), path)
}

#[test]
fn flows_follow_a_gateway_whose_hardware_address_changes() {
    for (sample, of_sample, elsewhere, of_family) in [
        ("203.0.113.1", "203.0.113.9", "198.51.100.1", "2001:db8:7::1"),
        ("2001:db8:7::1", "2001:db8:7:1::9", "2001:db8:8::1", "203.0.113.1"),
    ] {
        let changes = changes(&[(sample, hop(2, OLD, true), Some(hop(2, NEW, true)))]);
        assert!(!changes.is_empty());
        assert_eq!(to(&changes, of_sample, at(2, OLD)), Some(at(2, NEW)));
        assert_eq!(to(&changes, elsewhere, at(2, OLD)), Some(at(2, NEW)), "behind the same gateway");
        assert_eq!(to(&changes, of_family, at(2, OLD)), None, "its gateway is another neighbour");
        assert_eq!(to(&changes, of_sample, at(3, OLD)), None, "another interface");
        assert_eq!(to(&changes, of_sample, at(2, OTHER)), None, "its packets come from elsewhere");
        assert_eq!(to(&changes, of_sample, at(2, NEW)), None, "it has spoken already");
    }
}

#[test]
fn flows_follow_a_route_that_moves_to_another_gateway_and_interface() {
    let changes = changes(&[
        ("203.0.113.1", hop(2, OLD, true), Some(hop(3, OTHER, true))),
        ("198.51.100.1", hop(2, OLD, true), Some(hop(2, OLD, true))),
    ]);
    assert_eq!(to(&changes, "203.0.113.5", at(2, OLD)), Some(at(3, OTHER)));
    assert_eq!(to(&changes, "198.51.100.5", at(2, OLD)), None, "its route has not moved");
    assert_eq!(to(&changes, "192.88.99.1", at(2, OLD)), None, "others disagree");
}

#[test]
fn clients_without_a_sample_follow_the_default_route() {
    let changes = changes(&[("192.0.2.1", hop(2, OLD, true), Some(hop(2, NEW, true)))]);
    assert_eq!(to(&changes, "203.0.113.5", at(2, OLD)), Some(at(2, NEW)));
}

#[test]
fn client_on_the_link_does_not_follow_its_gateways_change() {
    // A router is a client too, and its floating address moves to another router.
    let changes = changes(&[
        ("203.0.113.1", hop(2, OLD, true), Some(hop(2, NEW, true))),
        ("10.0.0.1", hop(2, OLD, false), Some(hop(2, OLD, false))),
    ]);
    assert_eq!(to(&changes, "10.0.0.1", at(2, OLD)), None);
    assert_eq!(to(&changes, "10.0.0.2", at(2, OLD)), None, "on the link, and not known to have moved");
    assert_eq!(to(&changes, "203.0.113.1", at(2, OLD)), Some(at(2, NEW)));
}

#[test]
fn lost_client_path_changes_no_flow_until_there_is_another() {
    let sample = "203.0.113.1";
    assert!(changes(&[(sample, hop(2, OLD, true), None)]).is_empty());
    assert!(changes(&[(sample, hop(2, OLD, true), Some(hop(9, NEW, true)))]).is_empty(), "not attached");
    let mut paths = Paths::default();
    for (mac, is_moved) in [(Some(OLD), false), (None, false), (Some(NEW), true), (Some(NEW), false)] {
        let hop = mac.map(|mac| hop(2, mac, true));
        let changes = paths.update([(ip(sample), hop.as_ref())].into_iter(), |_| true);
        assert_eq!(!changes.is_empty(), is_moved, "{mac:?}");
    }
}

#[test]
fn samples_are_one_per_gateway_and_prefix_and_per_client_on_the_link() {
    let on_link = BTreeSet::from([Prefix::of(ip("10.0.0.1"))]);
    let mut samples = Samples::new(&on_link);
    for client in ["203.0.113.9", "203.0.113.2", "10.0.0.1", "10.0.0.2", "2001:db8:7::2", "2001:db8:7:9::1"] {
        samples.note(&to_address(ip(client)), at(2, OLD));
    }
    samples.note(&to_address(ip("203.0.113.7")), at(2, OTHER));
    let expected = ["203.0.113.2", "203.0.113.7", "10.0.0.1", "10.0.0.2", "2001:db8:7::2"];
    let expected: BTreeSet<IpAddr> = expected.map(ip).into_iter().chain(DEFAULT_ROUTE).collect();
    assert_eq!(samples.chosen(), expected);
}

#[test]
fn unresolved_clients_are_sampled_each_up_to_half_of_all_samples() {
    let on_link = BTreeSet::new();
    let mut samples = Samples::new(&on_link);
    for client in 0..300_u32 {
        let client = to_address(IpAddr::from((0xcb00_7100 + (client << 8)).to_be_bytes()));
        (0..2).for_each(|_| samples.note(&client, at(2, OLD)));
    }
    for client in ["203.0.113.1", "203.0.113.2"] {
        samples.note(&to_address(ip(client)), at(3, [0; 6]));
    }
    let chosen = samples.chosen();
    assert_eq!(chosen.len(), MAX_SAMPLES + 2);
    assert!(["203.0.113.1", "203.0.113.2"].into_iter().all(|client| chosen.contains(&ip(client))));
    // For example, forged sources on a network behind another interface.
    let mut samples = Samples::new(&on_link);
    for client in 0..300_u32 {
        samples.note(&to_address(IpAddr::from((0x0a00_0000 + client).to_be_bytes())), at(3, [0; 6]));
    }
    samples.note(&to_address(ip("203.0.113.1")), at(2, OLD));
    let chosen = samples.chosen();
    assert_eq!(chosen.len(), MAX_SAMPLES / 2 + 1 + 2);
    assert!(chosen.contains(&ip("203.0.113.1")));
}

#[test]
fn prefixes_with_most_flows_are_sampled() {
    let on_link = BTreeSet::new();
    let mut samples = Samples::new(&on_link);
    for network in 0..1_000_u32 {
        let client = IpAddr::from((0xcb00_0000 + (network << 8)).to_be_bytes());
        (0..=u32::from(network == 999)).for_each(|_| samples.note(&to_address(client), at(2, OLD)));
    }
    let chosen = samples.chosen();
    assert_eq!(chosen.len(), MAX_SAMPLES + 2);
    assert!(chosen.contains(&ip("203.3.231.0")));
}
