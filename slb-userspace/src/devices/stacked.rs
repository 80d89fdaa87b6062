//! Stacked interfaces (VLAN devices, bonds, VRFs): which of them SLB can run on, and which of them receive the frames.

use std::collections::{BTreeMap, BTreeSet};

use slb_common::abi::MAX_INTERFACES;

use super::merging::{self, ABOVE_LINK};
use crate::neigh::Link;

/// Interfaces by name; alternative names are keys too.
type Links = BTreeMap<String, Link>;

/// Why the program on this interface would reach no server, and what to configure instead; `None` if it can.
pub fn unfit_reason(link: &Link, links: &Links) -> Option<String> {
    let name = &link.name;
    if kind(link) == Some("vrf") {
        return Some(format!(
            "{name} is a VRF, which carries no frames of its own: put its interfaces into a network namespace instead (`ip link \
             set dev NAME netns NAMESPACE`), run slbd there, and name them in [daemon] interfaces"
        ));
    }
    let masters = masters(link, links);
    if let Some(vrf) = masters.iter().find(|master| kind(master) == Some("vrf")) {
        return Some(format!(
            "{name} belongs to the VRF {}, and SLB looks up servers in the main routing table: put {name} into a network namespace \
             instead (`ip link set dev {name} netns NAMESPACE`) and run slbd there, or take it out of the VRF (`ip link set dev \
             {name} nomaster`)",
            vrf.name
        ));
    }
    let bond = masters.first().filter(|master| is_bond(master))?;
    Some(format!(
        "{name} belongs to the {kind} {bond}: name {bond} in [daemon] interfaces in place of {name}",
        kind = kind(bond).unwrap_or_default(),
        bond = bond.name
    ))
}

/// Why the program cannot run on an interface beside those in `names`: it, or an interface below it, is a device upon
/// one of them.
pub fn shadow_reason(link: &Link, names: &[String], links: &Links) -> Option<String> {
    let is_named = |index| names.iter().filter_map(|name| links.get(name)).any(|named| named.index == index);
    let (_, lower) = lowers(link, links).find(|(_, lower)| is_named(lower.index))?;
    Some(format!(
        "{name} lies upon {lower}, which is in [daemon] interfaces too, and whose program takes the frames of {name}: leave \
         {lower} out (what it carries without a VLAN tag needs an interface of its own), or leave {name} out",
        name = link.name,
        lower = lower.name
    ))
}

/// Why the maps have no room for these interfaces and the members of their bonds.
pub fn crowding_reason<'n>(names: impl Iterator<Item = &'n String>, links: &Links) -> Option<String> {
    let named: BTreeSet<u32> = names.filter_map(|name| links.get(name)).map(|link| link.index).collect();
    let mut by_bond: BTreeMap<u32, usize> = BTreeMap::new();
    for (_, bond) in members(&named, links) {
        *by_bond.entry(bond).or_default() += 1;
    }
    let needed = named.len() + by_bond.values().sum::<usize>();
    let (bond, count) = by_bond.iter().max_by_key(|(_, count)| **count)?;
    let bond = &links.values().find(|link| link.index == *bond)?.name;
    (needed > MAX_INTERFACES as usize).then(|| {
        format!(
            "{needed} interfaces are needed, counting members of bonds ({bond} has {count}) and those that a reload replaces, and the \
             maps hold {MAX_INTERFACES}: take members out of {bond} (`ip link set dev MEMBER nomaster`), or name fewer interfaces"
        )
    })
}

/// The reason to refuse interfaces `new`: the first of [`unfit_reason`] and [`shadow_reason`] that did not apply to
/// `old`, else that of [`crowding_reason`].
pub fn refusal(old: &[String], new: &[String], links: &Links) -> Option<String> {
    let reason = |name: &String, names: &[String]| {
        let link = links.get(name).filter(|_| names.contains(name))?;
        unfit_reason(link, links).or_else(|| shadow_reason(link, names, links))
    };
    let has_more = new.iter().any(|name| !old.contains(name));
    let of_one = new.iter().find_map(|name| reason(name, new).filter(|_| reason(name, old).is_none()));
    of_one.or_else(|| crowding_reason(old.iter().chain(new), links).filter(|_| has_more))
}

/// What to do about a server behind interface `name`, which does not run the program. `runs` says which interfaces do.
pub fn advice(name: &str, links: &Links, runs: impl Fn(u32) -> bool) -> Option<String> {
    let link = links.get(name)?;
    if kind(link) == Some("vrf") || masters(link, links).iter().any(|master| kind(master) == Some("vrf")) {
        return unfit_reason(link, links);
    }
    let (device, lower) = lowers(link, links).find(|(_, lower)| runs(lower.index))?;
    let (name, lower) = (&link.name, &lower.name);
    if device.index != link.index {
        let device_name = &device.name;
        let why = match (kind(link), kind(device)) {
            (Some("vlan"), Some("vlan")) => "sends frames with one tag alone",
            _ => "does not send through both",
        };
        return Some(format!(
            "{name} lies upon {device_name}, which lies upon {lower}, and the program on {lower} {why}: name {name} in [daemon] \
             interfaces in place of {lower} (what {lower} carries besides needs an interface of its own)"
        ));
    }
    if link.vlan.is_some() && link.master.is_none() {
        // The program sends into its VLAN.
        return None;
    }
    Some(format!(
        "{name} lies upon {lower}, and the program on {lower} does not send through it: name {name} in [daemon] interfaces in \
         place of {lower} (what {lower} carries besides needs an interface of its own)"
    ))
}

/// Members of the bonds among these interfaces, each with its bond. The bonding driver runs the program on its members:
/// frames arrive and leave by these.
pub fn members(indexes: &BTreeSet<u32>, links: &Links) -> BTreeMap<u32, u32> {
    let bonds = links.values().filter(|link| is_bond(link) && indexes.contains(&link.index));
    let bonds: BTreeSet<u32> = bonds.map(|bond| bond.index).collect();
    let of_bond = |link: &Link| Some((link.index, link.master.filter(|master| bonds.contains(master))?));
    links.values().filter_map(of_bond).collect()
}

fn kind(link: &Link) -> Option<&str> {
    link.kind.as_deref()
}

fn is_bond(link: &Link) -> bool {
    matches!(kind(link), Some("bond" | "team"))
}

/// The lower interface, if it is in this network namespace.
fn lower<'links>(link: &Link, links: &'links Links) -> Option<&'links Link> {
    let is_above = kind(link).is_some_and(|kind| ABOVE_LINK.contains(&kind));
    let below = link.below.filter(|below| is_above && below.namespace.is_none())?;
    links.values().find(|other| other.index == below.index)
}

/// Devices with their lower interfaces: of this interface first, then of those below it.
fn lowers<'links>(
    link: &'links Link,
    links: &'links Links,
) -> impl Iterator<Item = (&'links Link, &'links Link)> {
    let devices = [link].into_iter().chain(merging::below(link, links));
    devices.filter_map(|device| Some((device, lower(device, links)?)))
}

/// The masters of an interface, nearest first.
fn masters<'links>(link: &Link, links: &'links Links) -> Vec<&'links Link> {
    let mut masters: Vec<&Link> = Vec::new();
    let mut next = link.master;
    while let Some(master) = next.and_then(|index| links.values().find(|other| other.index == index)) {
        // Interfaces are read one after the other and may change meanwhile, which can produce a cycle.
        if masters.iter().any(|known| known.index == master.index) {
            break;
        }
        masters.push(master);
        next = master.master;
    }
    masters
}

#[cfg(test)]
mod tests {
    use slb_common::net::vlan::Vlan;

    use super::*;
    use crate::{devices::tests::link, neigh::Below};

    fn upon(index: u32, namespace: Option<i32>, link: Link) -> Link {
        Link { below: Some(Below { index, namespace }), ..link }
    }

    fn machine() -> Links {
        let all = [
            link(1, "lo", None),
            Link { master: Some(5), ..link(2, "eth0", None) },
            Link { master: Some(5), ..link(3, "eth1", None) },
            Link { master: Some(6), ..link(4, "eth2", None) },
            link(5, "bond0", Some("bond")),
            link(6, "red", Some("vrf")),
            upon(5, None, link(7, "bond0.100", Some("vlan"))),
            // Its lower interface is in another network namespace, where index 5 is another interface.
            upon(5, Some(1), link(8, "eth9.5", Some("vlan"))),
            Link { master: Some(10), ..link(9, "eth3", None) },
            Link { master: Some(6), ..link(10, "br0", Some("bridge")) },
            upon(5, None, link(11, "peer", Some("veth"))),
            Link { master: Some(13), ..link(12, "eth4", None) },
            link(13, "br1", Some("bridge")),
        ];
        all.into_iter().map(|link| (link.name.clone(), link)).collect()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn refused(new: &[&str]) -> Option<String> {
        refusal(&[], &names(new), &machine())
    }

    #[test]
    fn plain_and_stacked_interfaces_are_accepted() {
        for name in ["lo", "bond0", "bond0.100", "eth9.5", "peer", "eth4", "br1", "absent0"] {
            assert_eq!(refused(&[name]), None, "{name}");
        }
        assert_eq!(refused(&["bond0", "eth9.5", "peer", "br1", "eth4"]), None);
    }

    #[test]
    fn bond_member_is_refused_with_the_name_of_the_bond() {
        let why = refused(&["lo", "eth1"]).unwrap();
        assert!(why.contains("name bond0 in [daemon] interfaces in place of eth1"), "{why}");
    }

    #[test]
    fn vrf_and_its_members_are_refused() {
        for name in ["eth2", "eth3", "br0"] {
            let why = refused(&[name]).unwrap();
            assert!(why.contains(&format!("{name} belongs to the VRF red")), "{why}");
        }
        assert!(refused(&["red"]).unwrap().contains("red is a VRF"));
    }

    #[test]
    fn vlan_device_with_its_lower_interface_is_refused_in_any_order() {
        for new in [["bond0", "bond0.100"], ["bond0.100", "bond0"]] {
            let why = refused(&new).unwrap();
            assert!(why.contains("bond0.100 lies upon bond0") && why.contains("leave bond0 out"), "{why}");
        }
    }

    #[test]
    fn reload_is_refused_only_for_interfaces_that_it_changes() {
        let reload = |old: &[&str], new: &[&str]| refusal(&names(old), &names(new), &machine());
        // It was not a member of a bond when the program was attached.
        assert_eq!(reload(&["eth0"], &["eth0", "lo"]), None);
        assert!(reload(&["lo"], &["eth0", "lo"]).is_some());
        assert!(reload(&["bond0.100"], &["bond0.100", "bond0"]).is_some());
        assert_eq!(reload(&["bond0"], &["bond0.100"]), None);
    }

    #[test]
    fn server_behind_a_vlan_device_or_vrf_gets_advice() {
        let links = machine();
        let why = advice("bond0.100", &links, |index| index == 5).unwrap();
        assert!(why.contains("name bond0.100 in [daemon] interfaces in place of bond0"), "{why}");
        let in_vlan = |index, name: &str, below| {
            let vlan = Some(Vlan::new(100, false));
            (name.to_owned(), Link { vlan, ..upon(below, None, link(index, name, Some("vlan"))) })
        };
        let vlans: Links =
            links.clone().into_iter().chain([in_vlan(7, "bond0.100", 5), in_vlan(20, "twice", 7)]).collect();
        assert_eq!(advice("bond0.100", &vlans, |index| index == 5), None, "the program sends into the VLAN");
        let why = advice("twice", &vlans, |index| index == 5).unwrap();
        assert!(why.contains("one tag alone: name twice in [daemon] interfaces in place of bond0"), "{why}");
        // Devices between the interface with the program and the one to the server.
        let bond = link(21, "bond1", Some("bond"));
        let bridge = link(22, "br2", Some("bridge"));
        for (top, via) in [
            (upon(7, None, link(23, "macvlan0", Some("macvlan"))), None),
            (bond, Some(21)),
            (bridge, Some(22)),
        ] {
            let mut vlans = vlans.clone();
            vlans.insert(top.name.clone(), top.clone());
            vlans.get_mut("bond0.100").unwrap().master = via;
            let why = advice(&top.name, &vlans, |index| index == 5).unwrap_or_default();
            let expected = format!("name {} in [daemon] interfaces in place of bond0", top.name);
            assert!(why.contains("bond0.100") && why.contains(&expected), "{}: {why}", top.name);
            assert!(!why.contains("one tag"), "{why}");
            let why = refusal(&[], &names(&["bond0", &top.name]), &vlans).unwrap_or_default();
            assert!(why.contains(&format!("{} lies upon bond0", top.name)), "{}: {why}", top.name);
        }
        let why = refusal(&[], &names(&["twice", "bond0"]), &vlans).unwrap_or_default();
        assert!(why.contains("twice lies upon bond0"), "{why}");
        assert!(advice("eth2", &links, |_| false).unwrap().contains("belongs to the VRF red"));
        assert_eq!(advice("bond0.100", &links, |_| false), None);
        assert_eq!(advice("eth9.5", &links, |_| true), None);
        assert_eq!(advice("eth4", &links, |_| true), None);
    }

    #[test]
    fn bond_with_members_beyond_the_map_size_is_refused() {
        let with = |members: u32| {
            let mut links = machine();
            for index in 100..100 + members {
                let name = format!("port{index}");
                links.insert(name.clone(), Link { master: Some(13), ..link(index, &name, None) });
            }
            links.insert("team0".to_owned(), link(13, "team0", Some("team")));
            links.remove("br1");
            links
        };
        let (new, old) = (names(&["team0", "lo"]), names(&["bond0"]));
        // eth4 is a member too.
        let full = MAX_INTERFACES - 3;
        assert_eq!(refusal(&[], &new, &with(full)), None);
        let why = refusal(&[], &new, &with(full + 1)).unwrap();
        assert!(why.contains("257 interfaces are needed") && why.contains("team0 has 255"), "{why}");
        // Entries of old interfaces are removed after new ones are added.
        assert!(refusal(&old, &new, &with(full - 2)).unwrap().contains("257 interfaces"));
        assert_eq!(refusal(&new, &new, &with(full + 1)), None);
        assert_eq!(refusal(&new, &names(&["lo"]), &with(full + 1)), None);
    }

    #[test]
    fn attached_bond_lists_its_members() {
        assert_eq!(members(&BTreeSet::from([5, 1]), &machine()), BTreeMap::from([(2, 5), (3, 5)]));
        assert_eq!(members(&BTreeSet::from([6, 10, 13]), &machine()), BTreeMap::new());
    }
}
