//! `[[access_list]]`, and the access list of a listener.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use slb_common::abi::access_list::{MAX_LISTS, MAX_NETWORKS};

use crate::{
    diagnostic::{Diagnostic, Span},
    field::Checker,
    model::{AccessList, AccessListKind, ListenerAccess, Name},
    raw::{self, Scalar, Value},
    suggest::quoted,
};

/// Maximum number of access lists: the maps have room for all of them before and after a change.
const MAX_ACCESS_LISTS: usize = MAX_LISTS as usize / 2;
const KEY: &str = "access_list";
const KIND_KEY: &str = "access_list_type";

/// The access lists of the file, by name.
#[derive(Debug)]
pub(super) struct AccessListIndex<'a> {
    lists: HashMap<&'a str, IndexedList>,
    /// In file order, so that messages do not depend on hashes.
    names: Vec<&'a str>,
}

#[derive(Debug)]
struct IndexedList {
    span: Span,
    is_empty: bool,
}

impl<'a> AccessListIndex<'a> {
    /// Collects the lists. Reports duplicate names. A list with an invalid name can be found too.
    pub(super) fn collect(checker: &mut Checker, tables: &'a [raw::RawTable<raw::RawAccessList>]) -> Self {
        if let Some(first_too_many) = tables.get(MAX_ACCESS_LISTS) {
            checker.note(Diagnostic::error(
                first_too_many.span(),
                format!("there cannot be {} access lists", tables.len()),
                format!("allowed: {MAX_ACCESS_LISTS}; this is the first one too many"),
            ));
        }
        let mut seen = HashMap::new();
        let mut index = Self { lists: HashMap::new(), names: Vec::new() };
        for raw in tables.iter().map(|table| &table.as_ref().0) {
            let Some(value) = &raw.name else { continue };
            let Scalar::Text(name) = value.as_ref() else { continue };
            checker.unique(&mut seen, name.as_str(), value.span(), &format!("access list {}", quoted(name)));
            let is_empty = raw.entries.as_ref().is_some_and(|entries| entries.as_ref().0.is_empty());
            index.lists.insert(name, IndexedList { span: value.span(), is_empty });
            index.names.push(name);
        }
        index
    }

    /// Warns of lists that no listener uses.
    pub(super) fn warn_of_unused(&self, checker: &mut Checker, used: &HashSet<&str>) {
        for name in self.names.iter().filter(|name| !used.contains(*name)) {
            let message = format!("access list {} is not used", quoted(name));
            checker.note(
                Diagnostic::warning(self.lists[name].span.clone(), message, "no listener names this list")
                    .help(format!(
                        "write `{KEY} = \"{name}\"` and `{KIND_KEY} = \"white\"` or `\"black\"` in a listener, or remove \
                         the list"
                    )),
            );
        }
    }
}

pub(super) fn build(checker: &mut Checker, table: &raw::RawTable<raw::RawAccessList>) -> Option<AccessList> {
    let raw = &table.as_ref().0;
    let name = checker.required(raw.name.as_ref(), "name", &table.span(), "name = \"office\"");
    let name = name.and_then(|value| checker.name(value));
    let example = "entries = [\"192.0.2.0/24\", \"2001:db8::/32\"]";
    let entries = &checker.required(raw.entries.as_ref(), "entries", &table.span(), example)?.as_ref().0;
    if let Some(first_too_many) = entries.get(MAX_NETWORKS) {
        checker.note(
            Diagnostic::error(
                first_too_many.span(),
                format!("an access list cannot have {} entries", entries.len()),
                format!("allowed: {MAX_NETWORKS}; this is the first one too many"),
            )
            .help("write larger networks in place of many small ones"),
        );
    }
    let mut seen = HashMap::new();
    let mut networks = BTreeSet::new();
    for value in entries {
        let Some(network) = checker.network("entries", value) else { continue };
        checker.unique(&mut seen, network, value.span(), &format!("`{network}`"));
        networks.insert(network);
    }
    // An entry that was refused has its own message.
    Some(AccessList { name: name?, networks: Arc::new(networks) })
}

/// Checks the access list of a listener. `None` inside means that it has none.
pub(super) fn of_listener<'a>(
    checker: &mut Checker,
    raw: &raw::RawListener,
    index: &AccessListIndex<'a>,
    used: &mut HashSet<&'a str>,
) -> Option<Option<ListenerAccess>> {
    let words = AccessListKind::ALL.map(|kind| (kind.name(), kind));
    let (list, kind) = match (&raw.access_list, &raw.access_list_type) {
        (None, None) => return Some(None),
        (Some(list), None) => return checker.refuse(without_kind(list)),
        (None, Some(kind)) => return checker.refuse(without_list(kind)),
        (Some(list), Some(kind)) => (list, checker.choice(KIND_KEY, kind, &words)),
    };
    let text = checker.text(KEY, list, "the name of an access list")?;
    let Some((name, found)) = index.lists.get_key_value(text) else {
        checker.unknown("access list", text, list.span(), &index.names);
        return None;
    };
    used.insert(name);
    if found.is_empty {
        checker.note(of_empty_list(list, text, kind?));
    }
    Some(Some(ListenerAccess { list: Name((*name).to_owned()), kind: kind? }))
}

fn without_kind(list: &Value) -> Diagnostic {
    Diagnostic::error(list.span(), format!("`{KIND_KEY}` is missing"), "this needs a type").help(format!(
        "write `{KIND_KEY} = \"white\"` to let in only clients on the list, or `\"black\"` to deny them"
    ))
}

fn without_list(kind: &Value) -> Diagnostic {
    let message = format!("`{KIND_KEY}` has no list");
    Diagnostic::error(kind.span(), message, format!("this needs `{KEY}`"))
        .help(format!("write `{KEY} = \"office\"`, the name of an `[[access_list]]`, or remove `{KIND_KEY}`"))
}

fn of_empty_list(list: &Value, name: &str, kind: AccessListKind) -> Diagnostic {
    let message = format!("access list {} has no entry", quoted(name));
    match kind {
        AccessListKind::White => {
            Diagnostic::warning(list.span(), message, "the listener denies every client")
                .help("add entries to the list, or remove it from the listener to let every client in")
        }
        AccessListKind::Black => Diagnostic::warning(list.span(), message, "the listener denies no client")
            .help("add entries to the list, or remove it from the listener"),
    }
}
