//! `[[server_group]]`, and the index by which listeners find groups of either kind.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
};

use super::{
    families::Families,
    port_range::{self, GroupsBehindRanges},
    quic,
    vips::Vips,
};
use crate::{
    diagnostic::{Diagnostic, Span},
    field::{Checker, UsedIds, Written},
    model::{ConfigServer, ServerGroup, TableSize},
    raw::{self, Scalar, Value},
    suggest::quoted,
};

/// Maximum number of servers of a group.
const MAX_GROUP_SERVERS: usize = 1_024;

/// The groups of one kind, by name.
#[derive(Debug)]
pub(super) struct GroupIndex<'a> {
    kind: &'static str,
    /// The setting of a listener that refers to such a group.
    key: &'static str,
    groups: HashMap<&'a str, IndexedGroup>,
    /// In file order, so that messages do not depend on hashes.
    names: Vec<&'a str>,
}

#[derive(Debug)]
struct IndexedGroup {
    span: Span,
    families: Families,
    all_families: Families,
    /// Ports of its servers, if they could be read.
    ports: Vec<(u16, Span)>,
    servers: usize,
}

/// A group as written in the file.
pub(super) struct GroupEntry<'a> {
    /// Its name, if present.
    pub(super) name: Option<&'a Value>,
    /// Address, port and weight of its servers.
    pub(super) servers: Vec<GroupServer<'a>>,
}

/// Address, port and weight of a server, if present.
pub(super) type GroupServer<'a> = (Option<&'a Value>, Option<&'a Value>, Option<&'a Value>);

/// What a listener needs to know of a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct FoundGroup<'i, 'a> {
    pub(super) name: &'a str,
    /// Address families of the servers that receive new flows.
    pub(super) families: Families,
    /// Address families of all servers: one without new flows may still have established ones.
    pub(super) all_families: Families,
    /// Their ports.
    pub(super) ports: &'i [(u16, Span)],
    /// Number of servers.
    pub(super) servers: usize,
}

impl<'a> GroupIndex<'a> {
    /// Collects the groups. Reports duplicate names, also across kinds (`seen`), because `slb server` finds servers by
    /// the name of their group. A group with an invalid name can be found too.
    pub(super) fn collect(
        checker: &mut Checker,
        kind: &'static str,
        key: &'static str,
        groups: impl Iterator<Item = GroupEntry<'a>>,
        seen: &mut HashMap<&'a str, Span>,
    ) -> Self {
        let mut index = Self { kind, key, groups: HashMap::new(), names: Vec::new() };
        for GroupEntry { name, servers } in groups {
            let Some(value) = name else { continue };
            let Scalar::Text(name) = value.as_ref() else { continue };
            checker.unique(seen, name.as_str(), value.span(), &format!("{kind} {}", quoted(name)));
            let families =
                families_of_serving(servers.iter().map(|(address, _, weight)| (*address, *weight)));
            let all_families = families_of_all(servers.iter().map(|(address, ..)| *address));
            let ports = servers.iter().filter_map(|(_, value, _)| port(*value)).collect();
            let entry =
                IndexedGroup { span: value.span(), families, all_families, ports, servers: servers.len() };
            index.groups.insert(name, entry);
            index.names.push(name);
        }
        index
    }

    /// Finds the group that a listener refers to.
    pub(super) fn find(&self, checker: &mut Checker, name: &str, span: Span) -> Option<FoundGroup<'_, 'a>> {
        if let Some((name, entry)) = self.groups.get_key_value(name) {
            let IndexedGroup { families, all_families, ports, servers, .. } = entry;
            let (families, all_families) = (*families, *all_families);
            return Some(FoundGroup { name, families, all_families, ports, servers: *servers });
        }
        checker.unknown(self.kind, name, span, &self.names);
        None
    }

    /// Warns of groups that no listener uses.
    pub(super) fn warn_of_unused(&self, checker: &mut Checker, used: &HashSet<&str>) {
        for name in self.names.iter().filter(|name| !used.contains(*name)) {
            let message = format!("{} {} is not used", self.kind, quoted(name));
            checker.note(
                Diagnostic::warning(self.groups[name].span.clone(), message, "no listener names this group")
                    .help(format!("write `{} = \"{name}\"` in a listener, or remove the group", self.key)),
            );
        }
    }
}

/// The server groups as written in the file.
pub(super) fn listed(tables: &[raw::RawTable<raw::RawServerGroup>]) -> impl Iterator<Item = GroupEntry<'_>> {
    tables.iter().map(|table| {
        let raw::RawServerGroup { name, servers, .. } = &table.as_ref().0;
        let servers = servers.0.iter().map(|server| &server.as_ref().0);
        let servers =
            servers.map(|server| (server.address.as_ref(), server.port.as_ref(), server.weight.as_ref()));
        GroupEntry { name: name.as_ref(), servers: servers.collect() }
    })
}

fn port(value: Option<&Value>) -> Option<(u16, Span)> {
    let value = value?;
    match value.as_ref() {
        Scalar::Integer(port) => Some((u16::try_from(*port).ok()?, value.span())),
        _ => None,
    }
}

pub(super) fn build(
    checker: &mut Checker,
    table: &raw::RawTable<raw::RawServerGroup>,
    vips: &Vips,
    behind_ranges: &GroupsBehindRanges<'_>,
    ids: &mut UsedIds,
) -> Option<ServerGroup> {
    let raw = &table.as_ref().0;
    let name_value = checker.required(raw.name.as_ref(), "name", &table.span(), "name = \"web\"");
    let name = name_value.and_then(|value| checker.name(value));
    let id = checker.id(raw.id.as_ref(), name.as_ref());
    if let Some(id) = &id {
        checker.unique_id(ids, id, Written { id: raw.id.as_ref(), name: name_value }, "server group");
    }
    let table_size = checker.table_size(raw.table_size.as_ref());
    let slow_start = checker.slow_start(raw.slow_start.as_ref());
    let mut seen = HashMap::new();
    let has_no_ports = behind_ranges.has_no_ports(raw.name.as_ref());
    let servers = raw.servers.0.iter();
    let servers: Vec<_> =
        servers.map(|server| build_server(checker, server, vips, has_no_ports, &mut seen)).collect();
    let spans: Vec<_> = raw.servers.0.iter().map(toml::Spanned::span).collect();
    check_count(checker, &spans, table_size, raw.table_size.as_ref());
    Some(ServerGroup {
        id: id?,
        name: name?,
        servers: servers.into_iter().collect::<Option<_>>()?,
        table_size: table_size?,
        slow_start: slow_start?,
    })
}

/// Address families of the servers that receive new flows, if they could be read.
pub(super) fn families_of_serving<'a>(
    servers: impl Iterator<Item = (Option<&'a Value>, Option<&'a Value>)>,
) -> Families {
    families_of_all(
        servers
            .filter(|(_, weight)| weight.is_none_or(|weight| *weight.as_ref() != Scalar::Integer(0)))
            .map(|(address, _)| address),
    )
}

/// Address families of the servers, if they could be read.
pub(super) fn families_of_all<'a>(servers: impl Iterator<Item = Option<&'a Value>>) -> Families {
    let addresses: Vec<_> = servers
        .filter_map(|address| match address?.as_ref() {
            Scalar::Text(text) => text.parse().ok(),
            _ => None,
        })
        .collect();
    addresses.iter().collect()
}

/// Checks the number of servers of a group against the maximum and against the slots of its table.
pub(super) fn check_count(
    checker: &mut Checker,
    servers: &[Span],
    size: Option<TableSize>,
    size_value: Option<&Value>,
) {
    if let Some(first_too_many) = servers.get(MAX_GROUP_SERVERS) {
        checker.note(
            Diagnostic::error(
                first_too_many.clone(),
                format!("a group cannot have {} servers", servers.len()),
                format!("allowed: {MAX_GROUP_SERVERS}; this is the first one too many"),
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
    table: &raw::RawTable<raw::RawServer>,
    vips: &Vips,
    has_no_ports: bool,
    seen: &mut HashMap<SocketAddr, Span>,
) -> Option<ConfigServer> {
    let raw = &table.as_ref().0;
    let span = table.span();
    let address = (raw.address.as_ref(), raw.port.as_ref());
    let endpoint = endpoint(checker, &span, address, vips, has_no_ports);
    let weight = checker.weight(raw.weight.as_ref());
    let quic_server_id = quic::server_id(checker, raw.quic_server_id.as_ref());
    let endpoint = endpoint?;
    let at = raw.address.as_ref().map_or(span, toml::Spanned::span);
    let text = if has_no_ports { endpoint.ip().to_string() } else { endpoint.to_string() };
    checker.unique(seen, endpoint, at, &format!("server `{text}`"));
    Some(ConfigServer {
        address: endpoint.ip(),
        port: endpoint.port(),
        weight: weight?,
        quic_server_id: quic_server_id?,
    })
}

/// Checks a server's address and port. Behind port ranges it has none, which is port 0.
pub(super) fn endpoint(
    checker: &mut Checker,
    span: &Span,
    (address, port): (Option<&Value>, Option<&Value>),
    vips: &Vips,
    has_no_ports: bool,
) -> Option<SocketAddr> {
    let value = checker.required(address, "address", span, "address = \"10.0.0.11\"");
    let address = value.and_then(|value| checker.address("address", value));
    if let (Some(address), Some(value)) = (address, value) {
        vips.refuse_server(checker, address, value);
    }
    let port = port_range::of_server(checker, span, port, has_no_ports);
    Some(SocketAddr::new(address?, port?))
}
