//! `local_addresses` of `[daemon]`: where connections to servers come from in mode `full-nat`.

use std::{collections::HashMap, net::IpAddr};

use slb_common::abi::local_address::MAX_CANDIDATES;
use toml::Spanned;

use crate::{
    diagnostic::{Diagnostic, Span},
    field::Checker,
    raw::{self, List, Scalar, Value},
};

const KEY: &str = "local_addresses";

/// Checks the addresses by themselves: each once, and at most [`MAX_CANDIDATES`] of a family.
pub(super) fn build(checker: &mut Checker, list: Option<&Spanned<List<Value>>>) -> Option<Vec<IpAddr>> {
    let mut seen = HashMap::new();
    let mut addresses = Vec::new();
    let mut is_complete = true;
    for value in values(list) {
        let Some(address) = checker.address(KEY, value) else {
            is_complete = false;
            continue;
        };
        checker.unique(&mut seen, address, value.span(), &format!("local address `{address}`"));
        addresses.push(address);
        if addresses.iter().filter(|other| other.is_ipv4() == address.is_ipv4()).count() == MAX_CANDIDATES + 1
        {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            checker.note(
                Diagnostic::error(
                    value.span(),
                    format!("`{KEY}` has too many {family} addresses"),
                    format!("allowed: {MAX_CANDIDATES} of a family; this is the first one too many"),
                )
                .help("remove some of them"),
            );
        }
    }
    is_complete.then_some(addresses)
}

/// The addresses that can be read, each with its first place. Reports nothing.
pub(super) fn declared(table: Option<&raw::RawTable<raw::RawDaemon>>) -> HashMap<IpAddr, Span> {
    let mut declared = HashMap::new();
    for value in values(table.and_then(|table| table.as_ref().0.local_addresses.as_ref())) {
        if let Scalar::Text(text) = value.as_ref()
            && let Ok(address) = text.parse()
        {
            declared.entry(address).or_insert_with(|| value.span());
        }
    }
    declared
}

fn values(list: Option<&Spanned<List<Value>>>) -> impl Iterator<Item = &Value> {
    list.into_iter().flat_map(|list| &list.as_ref().0)
}
