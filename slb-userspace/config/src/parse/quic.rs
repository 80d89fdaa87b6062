//! `quic` of a listener and `quic_server_id` of its servers: routing by QUIC connection ID.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use slb_common::abi::quic::{MAX_CONFIG_ROTATION, MAX_SERVER_ID_LEN};

use crate::{
    diagnostic::{Diagnostic, Span},
    field::Checker,
    model::{Protocol, QuicRouting},
    raw::{self, Scalar, Value},
    suggest::quoted,
};

const KEY: &str = "quic";
const ID_KEY: &str = "quic_server_id";
const DEFAULT_LENGTH: u8 = 2;

/// A server as written in the file.
struct WrittenServer<'a> {
    span: Span,
    /// Address, and port if it has one of its own; `None` if the address is none.
    endpoint: Option<(IpAddr, Option<i128>)>,
    id: Option<&'a Value>,
}

/// Checks `quic` of a listener. `None` inside means that connection IDs decide nothing.
pub(super) fn build(
    checker: &mut Checker,
    raw: &raw::RawListener,
    protocol: Option<Protocol>,
) -> Option<Option<QuicRouting>> {
    let Some(table) = &raw.quic else { return Some(None) };
    if protocol == Some(Protocol::Tcp) {
        return checker.refuse(
            Diagnostic::error(
                table.span(),
                format!("`{KEY}` has no meaning here"),
                "QUIC runs over UDP, and this listener has protocol `tcp`",
            )
            .help("write `protocol = \"udp\"`, or remove it"),
        );
    }
    if let Some(pair) = &raw.primary_secondary_group {
        return checker.refuse(
            Diagnostic::error(
                pair.span(),
                format!("a listener with `{KEY}` cannot use a primary/secondary server group"),
                "its servers have no QUIC server IDs",
            )
            .help("write two server groups with one server each, and `primary` and `secondary` here"),
        );
    }
    let raw::RawQuic { server_id_length, config_rotation } = &table.as_ref().0;
    let length = server_id_length.as_ref().map_or(Some(DEFAULT_LENGTH), |value| {
        checker.integer("server_id_length", value, 1..=MAX_SERVER_ID_LEN)
    });
    let rotation = config_rotation
        .as_ref()
        .map_or(Some(0), |value| checker.integer("config_rotation", value, 0..=MAX_CONFIG_ROTATION));
    Some(Some(QuicRouting { server_id_length: length?, config_rotation: rotation? }))
}

/// Checks the ID of a server. `None` inside means that it has none.
pub(super) fn server_id(checker: &mut Checker, value: Option<&Value>) -> Option<Option<u32>> {
    value.map_or(Some(None), |value| checker.integer(ID_KEY, value, 0..=u32::MAX).map(Some))
}

/// Checks that IDs are unique within each group, and that each server behind a listener with `quic` has one that fits.
/// Warns of IDs that no listener with `quic` uses.
pub(super) fn check(checker: &mut Checker, document: &raw::RawDocument) {
    let mut groups: HashMap<&str, Vec<WrittenServer<'_>>> = HashMap::new();
    let mut ids = Ids { checker, reported: HashSet::new() };
    for table in &document.server_group.0 {
        let raw::RawServerGroup { name, servers, .. } = &table.as_ref().0;
        let servers: Vec<_> = servers.0.iter().map(of_group).collect();
        ids.check_unique(servers.iter());
        if let Some(name) = text(name.as_ref()) {
            groups.insert(name, servers);
        }
    }
    let (mut used, mut used_by_quic) = (HashSet::<&str>::new(), HashSet::<&str>::new());
    for table in &document.load_balancer.0 {
        let balancer = &table.as_ref().0;
        let defaults: Vec<_> = balancer.server.0.iter().map(of_default_group).collect();
        ids.check_unique(defaults.iter());
        let (mut uses_defaults, mut uses_defaults_by_quic) = (false, false);
        for listener in balancer.listener.0.iter().map(|table| &table.as_ref().0) {
            let names = [&listener.server_group, &listener.primary, &listener.secondary];
            let names = names.map(|name| text(name.as_ref()));
            used.extend(names.iter().flatten());
            uses_defaults |= listener.default_group_port.is_some();
            let Some(quic) = &listener.quic else { continue };
            used_by_quic.extend(names.iter().flatten());
            uses_defaults_by_quic |= listener.default_group_port.is_some();
            // `build` refuses the others.
            if text(listener.protocol.as_ref()) != Some("udp") || listener.primary_secondary_group.is_some() {
                continue;
            }
            let [group, primary, secondary] =
                names.map(|name| name.and_then(|name| groups.get(name)).map_or(&[][..], Vec::as_slice));
            let default_group = listener.default_group_port.as_ref().map_or(&[][..], |_| defaults.as_slice());
            ids.check_unique(primary.iter().chain(secondary));
            let servers = default_group.iter().chain(group);
            ids.check_servers(quic, servers.chain(primary).chain(secondary));
        }
        if uses_defaults && !uses_defaults_by_quic {
            ids.warn_of_unused(&defaults);
        }
    }
    let mut unused: Vec<_> = used.difference(&used_by_quic).filter_map(|name| groups.get(*name)).collect();
    unused.sort_by_key(|servers| servers.first().map(|server| server.span.start));
    unused.into_iter().for_each(|servers| ids.warn_of_unused(servers));
}

fn text(value: Option<&Value>) -> Option<&str> {
    match value.map(Value::as_ref) {
        Some(Scalar::Text(text)) => Some(text),
        _ => None,
    }
}

fn of_group(table: &raw::RawTable<raw::RawServer>) -> WrittenServer<'_> {
    let raw::RawServer { address, port, quic_server_id, .. } = &table.as_ref().0;
    written(table.span(), address.as_ref(), port.as_ref(), quic_server_id.as_ref())
}

fn of_default_group(table: &raw::RawTable<raw::RawDefaultServer>) -> WrittenServer<'_> {
    let raw::RawDefaultServer { address, quic_server_id, .. } = &table.as_ref().0;
    written(table.span(), address.as_ref(), None, quic_server_id.as_ref())
}

fn written<'a>(
    span: Span,
    address: Option<&'a Value>,
    port: Option<&'a Value>,
    id: Option<&'a Value>,
) -> WrittenServer<'a> {
    let address = match address.map(Value::as_ref) {
        Some(Scalar::Text(address)) => address.parse::<IpAddr>().ok(),
        _ => None,
    };
    let port = match port.map(Value::as_ref) {
        Some(Scalar::Integer(port)) => Some(*port),
        _ => None,
    };
    WrittenServer { span, endpoint: address.map(|address| (address, port)), id }
}

/// Checks of server IDs. Several listeners may lead to one server: a place in the file has one diagnostic.
struct Ids<'c> {
    checker: &'c mut Checker,
    reported: HashSet<Span>,
}

impl Ids<'_> {
    fn note(&mut self, at: Span, diagnostic: Diagnostic) {
        if self.reported.insert(at) {
            self.checker.note(diagnostic);
        }
    }

    /// Warns once of the IDs of a group that only listeners without `quic` use.
    fn warn_of_unused(&mut self, servers: &[WrittenServer<'_>]) {
        let Some(id) = servers.iter().find_map(|server| server.id) else { return };
        let label = format!("no listener with `{KEY}` leads here");
        self.note(
            id.span(),
            Diagnostic::warning(id.span(), format!("`{ID_KEY}` is not used"), label)
                .help(format!("write `{KEY} = {{}}` in the listener, or remove it")),
        );
    }

    /// Refuses an ID of two servers, and two IDs of one server, which may be in two groups of a listener. An IPv4 and an IPv6
    /// server may be one machine.
    fn check_unique<'a>(&mut self, servers: impl Iterator<Item = &'a WrittenServer<'a>>) {
        let (mut ids, mut endpoints) = (HashMap::new(), HashMap::new());
        for server in servers {
            let (Some(value), Some(endpoint)) = (server.id, server.endpoint) else { continue };
            let Scalar::Integer(id) = value.as_ref() else { continue };
            let (first_endpoint, first) = ids.entry((id, endpoint.0.is_ipv6())).or_insert((endpoint, value));
            if *first_endpoint != endpoint {
                self.note(
                    value.span(),
                    Diagnostic::error(value.span(), format!("`{ID_KEY}` {id} appears twice"), "again here")
                        .related(first.span(), "first here")
                        .help(
                            "write another number: a connection ID names one server of each address family",
                        ),
                );
            }
            let (other_id, other) = endpoints.entry(endpoint).or_insert((id, value));
            if *other_id != id {
                self.note(
                    value.span(),
                    Diagnostic::error(
                        value.span(),
                        format!("server {} has two values of `{ID_KEY}`", quoted(&endpoint.0.to_string())),
                        "another ID",
                    )
                    .related(other.span(), "its first ID")
                    .help(format!("write `{ID_KEY} = {other_id}` in both groups")),
                );
            }
        }
    }

    /// Refuses servers of a listener without an ID, or with one that is too long.
    fn check_servers<'a>(
        &mut self,
        quic: &raw::RawTable<raw::RawQuic>,
        servers: impl Iterator<Item = &'a WrittenServer<'a>>,
    ) {
        let length = match quic.as_ref().0.server_id_length.as_ref().map(Value::as_ref) {
            Some(Scalar::Integer(length)) => u32::try_from(*length).unwrap_or(u32::MAX),
            _ => DEFAULT_LENGTH.into(),
        };
        if !(1..=u32::from(MAX_SERVER_ID_LEN)).contains(&length) {
            return;
        }
        let most = (1_i128 << (8 * length)) - 1;
        for server in servers {
            match server.id.map(|value| (value, value.as_ref())) {
                None => self.note(
                    server.span.clone(),
                    Diagnostic::error(
                        server.span.clone(),
                        format!("`{ID_KEY}` is missing"),
                        format!("a listener with `{KEY}` leads here"),
                    )
                    .related(quic.span(), "this listener routes by connection ID")
                    .help(format!(
                        "for example `{ID_KEY} = 1`, the number that this server writes into its connection IDs: a \
                         random connection ID may name another server"
                    )),
                ),
                Some((value, Scalar::Integer(id))) if *id > most && *id <= u32::MAX.into() => self.note(
                    value.span(),
                    Diagnostic::error(
                        value.span(),
                        format!("`{ID_KEY}` {id} does not fit"),
                        format!("allowed: 0 to {most}, with a server ID of {length} octets"),
                    )
                    .related(quic.span(), "its length is here")
                    .help(format!("write a smaller number, or a greater `server_id_length` in `{KEY}`")),
                ),
                Some(_) => {}
            }
        }
    }
}
