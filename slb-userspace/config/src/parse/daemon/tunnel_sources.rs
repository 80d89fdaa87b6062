//! `tunnel_sources` of `[daemon]`: networks of outer source addresses that vary by flow.

use std::{collections::HashMap, ops::RangeInclusive};

use ipnet::IpNet;
use toml::Spanned;

use crate::{
    diagnostic::Diagnostic,
    field::Checker,
    raw::{List, Value},
};

const KEY: &str = "tunnel_sources";
/// Prefix lengths that leave more than one address, and do not cover foreign networks by mistake.
const LENGTHS: [RangeInclusive<u8>; 2] = [8..=31, 32..=127];

/// Checks the networks: at most one of each address family.
pub(super) fn build(checker: &mut Checker, list: Option<&Spanned<List<Value>>>) -> Option<Vec<IpNet>> {
    let mut seen = HashMap::new();
    let mut networks = Vec::new();
    for value in list.iter().flat_map(|list| &list.as_ref().0) {
        let network = checker.network(KEY, value)?;
        let is_v4 = network.addr().is_ipv4();
        let (family, lengths) = if is_v4 { ("IPv4", &LENGTHS[0]) } else { ("IPv6", &LENGTHS[1]) };
        checker.unique(&mut seen, is_v4, value.span(), &format!("an {family} network"));
        if !lengths.contains(&network.prefix_len()) {
            let (least, most) = lengths.clone().into_inner();
            return checker.refuse(
                Diagnostic::error(
                    value.span(),
                    format!("`{network}` in `{KEY}` has a prefix length of {}", network.prefix_len()),
                    format!("allowed for {family}: {least} to {most}"),
                )
                .help(
                    "write a network whose addresses no host has, such as \"10.200.0.0/16\"; for one source \
                     address, leave it out",
                ),
            );
        }
        networks.push(network);
    }
    Some(networks)
}
