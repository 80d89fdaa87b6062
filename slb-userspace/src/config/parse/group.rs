//! `[[server_group]]`, and the names by which listeners find them.

use std::collections::{HashMap, HashSet};

use super::{families::Families, vips::Vips};
use crate::config::{
    diagnostic::{Diagnostic, Span},
    field::Checker,
    model::{Server, ServerGroup, TableSize},
    raw::{self, Scalar, Value},
    suggest::quoted,
};

/// Servers a group may have.
const MOST_SERVERS: usize = 1_024;

/// The server groups of a file by name.
#[derive(Debug)]
pub(super) struct Index<'a> {
    groups: HashMap<&'a str, Entry>,
    /// In the order of the file, so that messages do not depend on hashes.
    names: Vec<&'a str>,
}

#[derive(Debug)]
struct Entry {
    span: Span,
    families: Families,
    all_families: Families,
    /// Ports of its servers, as far as they can be read.
    ports: Vec<(u16, Span)>,
}

/// What a listener needs to know of its servers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found<'i, 'a> {
    pub(super) name: &'a str,
    /// Families of the servers that take new connections.
    pub(super) families: Families,
    /// Families of all of them: one that takes nothing new may have connections.
    pub(super) all_families: Families,
    /// Their ports.
    pub(super) ports: &'i [(u16, Span)],
}

impl<'a> Index<'a> {
    /// Collects the groups and reports names that appear twice. A group with a bad name can be found by it, too.
    pub(super) fn collect(checker: &mut Checker, tables: &'a [raw::Table<raw::ServerGroup>]) -> Self {
        let mut index = Self { groups: HashMap::new(), names: Vec::new() };
        let mut seen = HashMap::new();
        for table in tables {
            let group = &table.as_ref().0;
            let Some(value) = &group.name else { continue };
            let Scalar::Text(name) = value.as_ref() else { continue };
            checker.unique(&mut seen, name.as_str(), value.span(), &format!("server group {}", quoted(name)));
            let servers = || group.servers.0.iter().map(|server| &server.as_ref().0);
            let families = serving(servers().map(|server| (server.address.as_ref(), server.weight.as_ref())));
            let all_families = of_all(servers().map(|server| server.address.as_ref()));
            let ports = group.servers.0.iter().filter_map(|server| port(&server.as_ref().0)).collect();
            index.groups.insert(name, Entry { span: value.span(), families, all_families, ports });
            index.names.push(name);
        }
        index
    }

    /// Finds the group a listener names.
    pub(super) fn find(&self, checker: &mut Checker, name: &str, span: Span) -> Option<Found<'_, 'a>> {
        if let Some((name, entry)) = self.groups.get_key_value(name) {
            let Entry { families, all_families, ports, .. } = entry;
            return Some(Found { name, families: *families, all_families: *all_families, ports });
        }
        checker.unknown("server group", name, span, &self.names);
        None
    }

    /// Warns of groups that no listener uses.
    pub(super) fn warn_of_unused(&self, checker: &mut Checker, used: &HashSet<&str>) {
        for name in self.names.iter().filter(|name| !used.contains(*name)) {
            let message = format!("server group {} is not used", quoted(name));
            checker.note(
                Diagnostic::warning(self.groups[name].span.clone(), message, "no listener names this group")
                    .help(format!("write `server_group = \"{name}\"` in a listener, or remove the group")),
            );
        }
    }
}

fn port(server: &raw::Server) -> Option<(u16, Span)> {
    let value = server.port.as_ref()?;
    match value.as_ref() {
        Scalar::Integer(port) => Some((u16::try_from(*port).ok()?, value.span())),
        _ => None,
    }
}

/// Checks a server group.
pub(super) fn build(
    checker: &mut Checker,
    table: &raw::Table<raw::ServerGroup>,
    vips: &Vips,
) -> Option<ServerGroup> {
    let raw = &table.as_ref().0;
    let name = checker.required(raw.name.as_ref(), "name", &table.span(), "name = \"web\"");
    let name = name.and_then(|value| checker.name(value));
    let table_size = checker.table_size(raw.table_size.as_ref());
    let mut seen = HashMap::new();
    let servers: Vec<_> =
        raw.servers.0.iter().map(|server| build_server(checker, server, vips, &mut seen)).collect();
    let spans: Vec<_> = raw.servers.0.iter().map(toml::Spanned::span).collect();
    check_count(checker, &spans, table_size, raw.table_size.as_ref());
    Some(ServerGroup {
        name: name?,
        servers: servers.into_iter().collect::<Option<_>>()?,
        table_size: table_size?,
    })
}

/// Returns the families of the servers that take new connections, as far as they can be read.
pub(super) fn serving<'a>(servers: impl Iterator<Item = (Option<&'a Value>, Option<&'a Value>)>) -> Families {
    of_all(
        servers
            .filter(|(_, weight)| weight.is_none_or(|weight| *weight.as_ref() != Scalar::Integer(0)))
            .map(|(address, _)| address),
    )
}

/// Returns the families of the servers, as far as they can be read.
pub(super) fn of_all<'a>(servers: impl Iterator<Item = Option<&'a Value>>) -> Families {
    let addresses: Vec<_> = servers
        .filter_map(|address| match address?.as_ref() {
            Scalar::Text(text) => text.parse().ok(),
            _ => None,
        })
        .collect();
    addresses.iter().collect()
}

/// Checks the number of servers of a group, against the limit and against the slots of its table.
pub(super) fn check_count(
    checker: &mut Checker,
    servers: &[Span],
    size: Option<TableSize>,
    size_value: Option<&Value>,
) {
    if let Some(first_too_many) = servers.get(MOST_SERVERS) {
        checker.note(
            Diagnostic::error(
                first_too_many.clone(),
                format!("a group cannot have {} servers", servers.len()),
                format!("allowed: {MOST_SERVERS}; this is the first one too many"),
            )
            .help("divide the servers among several groups"),
        );
    }
    if let (Some(size), Some(value)) = (size, size_value)
        && size.slots() as usize <= servers.len()
    {
        let message = format!("{} slots are too few for {} servers", size.slots(), servers.len());
        checker.note(Diagnostic::warning(value.span(), message, "some servers will get no connection").help(
            format!(
                "shares follow the weights with 100 slots or more per server, as with {}",
                TableSize::DEFAULT.slots()
            ),
        ));
    }
}

fn build_server(
    checker: &mut Checker,
    table: &raw::Table<raw::Server>,
    vips: &Vips,
    seen: &mut HashMap<(std::net::IpAddr, u16), Span>,
) -> Option<Server> {
    let raw = &table.as_ref().0;
    let span = table.span();
    let address_value = checker.required(raw.address.as_ref(), "address", &span, "address = \"10.0.0.11\"");
    let address = address_value.and_then(|value| checker.address("address", value));
    if let (Some(address), Some(value)) = (address, address_value) {
        vips.refuse_server(checker, address, value);
    }
    let port = checker.required(raw.port.as_ref(), "port", &span, "port = 8080");
    let port = port.and_then(|value| checker.port("port", value));
    let weight = checker.weight(raw.weight.as_ref());
    let (address, port) = (address?, port?);
    let what = format!("server `{}`", std::net::SocketAddr::new(address, port));
    checker.unique(seen, (address, port), address_value.map_or(span, toml::Spanned::span), &what);
    Some(Server { address, port, weight: weight? })
}
