//! Frame merging: a lower interface may join TCP segments (GRO, LRO) before the upper one receives them. Generic XDP on
//! the upper one then receives frames that exceed any MTU and cannot be forwarded. The kernel switches merging
//! off at the interface with the program, and not at its lower interfaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use anyhow::{Context as _, Result};

use super::netlink::{self, Attributes, GenericFamily, attribute, nest, text};
use crate::neigh::Link;

/// Commands `ETHTOOL_MSG_FEATURES_GET` and `_SET`.
const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
/// Attributes `ETHTOOL_A_FEATURES_HEADER`, `_WANTED` and `_ACTIVE`.
const HEADER: u16 = 1;
const WANTED: u16 = 3;
const ACTIVE: u16 = 4;
/// `ETHTOOL_A_HEADER_DEV_INDEX`.
const DEV_INDEX: u16 = 1;
/// `ETHTOOL_A_BITSET_BITS`, `ETHTOOL_A_BITSET_BITS_BIT`, `ETHTOOL_A_BITSET_BIT_NAME`, `_VALUE`.
const BITS: u16 = 3;
const BIT: u16 = 1;
const NAME: u16 = 2;
const VALUE: u16 = 3;

/// Features that merge frames, by the kernel's names.
const MERGE_FEATURES: [&str; 3] = ["rx-gro", "rx-gro-hw", "rx-lro"];
/// Kinds whose `IFLA_LINK` is their lower interface.
pub(super) const ABOVE_LINK: [&str; 6] = ["vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec"];

/// The interfaces below `top`, whose received and perhaps merged frames it gets.
pub fn below<'links>(top: &Link, links: &'links BTreeMap<String, Link>) -> Vec<&'links Link> {
    let (mut found, mut seen, mut open) = (Vec::new(), BTreeSet::from([top.index]), vec![top.clone()]);
    while let Some(upper) = open.pop() {
        let is_below = |link: &&Link| {
            let stacked = upper.kind.as_deref().is_some_and(|kind| ABOVE_LINK.contains(&kind));
            let lower = upper.below.filter(|below| stacked && below.namespace.is_none());
            link.master == Some(upper.index) || lower.is_some_and(|lower| lower.index == link.index)
        };
        for link in links.values().filter(is_below) {
            if seen.insert(link.index) {
                found.push(link);
                open.push(link.clone());
            }
        }
    }
    found
}

/// Merging features that are active at an interface.
///
/// # Errors
/// They cannot be read.
pub fn merging(link: &Link) -> Result<Vec<String>> {
    let Some(ethtool) = GenericFamily::open("ethtool")? else { return Ok(Vec::new()) };
    active(&ethtool, link).with_context(|| format!("cannot read the features of {}", link.name))
}

/// Switches merging features off. Returns those that are still active.
///
/// # Errors
/// The result cannot be read.
pub(super) fn switch_off(link: &Link, features: &[String]) -> Result<Vec<String>> {
    let ethtool = GenericFamily::open("ethtool")?.context("the kernel has no ethtool over netlink")?;
    request(&ethtool, link, features, false);
    active(&ethtool, link).with_context(|| format!("cannot read the features of {}", link.name))
}

/// Switches merging features on that [`switch_off`] has switched off.
///
/// # Errors
/// A feature stays off.
pub(super) fn switch_on(link: &Link, features: &[String]) -> Result<()> {
    let ethtool = GenericFamily::open("ethtool")?.context("the kernel has no ethtool over netlink")?;
    request(&ethtool, link, features, true);
    let merging = active(&ethtool, link)?;
    let off: Vec<_> = features.iter().filter(|name| !merging.contains(name)).map(String::as_str).collect();
    anyhow::ensure!(off.is_empty(), "{} does not switch on {}", link.name, off.join(", "));
    Ok(())
}

fn request(ethtool: &GenericFamily, link: &Link, features: &[String], on: bool) {
    // One request per feature: a fixed feature must not block the others.
    for name in features {
        let mut bit = vec![attribute(NAME, text(name))];
        // In a bitset without mask attribute, a bit without value means off.
        bit.extend(on.then(|| attribute(VALUE, [])));
        let bits = nest(BITS, &[nest(BIT, &bit)]);
        // The caller reads the result.
        let _ = ethtool.request(FEATURES_SET, &[header(link), nest(WANTED, &[bits])]);
    }
}

fn active(ethtool: &GenericFamily, link: &Link) -> io::Result<Vec<String>> {
    let reply: Attributes = match ethtool.request(FEATURES_GET, &[header(link)]) {
        Err(error) if matches!(error.raw_os_error(), Some(nix::libc::ENODEV | nix::libc::EOPNOTSUPP)) => {
            return Ok(Vec::new());
        }
        reply => reply?,
    };
    names(reply.get(&ACTIVE).map_or(&[][..], Vec::as_slice)).map_err(io::Error::other)
}

/// Names of the merging features in a bitset.
fn names(bitset: &[u8]) -> Result<Vec<String>> {
    let mut merging = Vec::new();
    let bits = netlink::attributes(bitset)?.into_iter().filter(|(kind, _)| *kind == BITS);
    for (_, bits) in bits {
        for (_, bit) in netlink::attributes(&bits)? {
            let name = netlink::attributes(&bit)?.into_iter().find(|(kind, _)| *kind == NAME);
            let name = name.as_ref().and_then(|(_, name)| netlink::read_text(name));
            merging.extend(name.filter(|name| MERGE_FEATURES.contains(name)).map(str::to_owned));
        }
    }
    Ok(merging)
}

fn header(link: &Link) -> rtnetlink::packet_core::DefaultNla {
    nest(HEADER, &[attribute(DEV_INDEX, link.index.to_ne_bytes())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{devices::tests::link, neigh::Below};

    #[test]
    fn lower_interfaces_include_nested_ports_and_parents() {
        let mut bridge = link(1, "br0", Some("bridge"));
        let mut vlan = link(2, "eth0.7", Some("vlan"));
        vlan.below = Some(Below { index: 3, namespace: None });
        vlan.master = Some(1);
        let parent = link(3, "eth0", None);
        let mut port = link(4, "v0", Some("veth"));
        port.master = Some(1);
        // The peer of a veth is not its lower interface.
        port.below = Some(Below { index: 5, namespace: None });
        let peer = link(5, "v1", Some("veth"));
        let mut away = link(6, "eth0.8", Some("vlan"));
        away.below = Some(Below { index: 3, namespace: Some(0) });
        let links = [bridge.clone(), vlan.clone(), parent, port, peer, away.clone()];
        let links: BTreeMap<_, _> = links.into_iter().map(|link| (link.name.clone(), link)).collect();
        let names = |top: &Link| {
            let mut names: Vec<_> = below(top, &links).iter().map(|link| link.name.as_str()).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(names(&bridge), ["eth0", "eth0.7", "v0"]);
        assert_eq!(names(&vlan), ["eth0"]);
        assert_eq!(names(&away), [""; 0]);
        // An impossible loop must not hang.
        bridge.master = Some(1);
        assert_eq!(names(&bridge), ["eth0", "eth0.7", "v0"]);
    }

    #[test]
    fn only_features_that_merge_frames_are_named() {
        let bit = |name: &str| nest(BIT, &[attribute(1, 5_u32.to_ne_bytes()), attribute(NAME, text(name))]);
        let bits = nest(BITS, &[bit("rx-checksum"), bit("rx-gro"), bit("rx-lro")]);
        let mut bytes = vec![0; rtnetlink::packet_core::Emitable::buffer_len(&[bits.clone()].as_slice())];
        rtnetlink::packet_core::Emitable::emit(&[bits].as_slice(), &mut bytes);
        assert_eq!(names(&bytes).unwrap(), ["rx-gro", "rx-lro"]);
    }
}
