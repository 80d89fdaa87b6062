//! `[[load_balancer.listener]]`.

use std::collections::HashMap;

use super::{balancer::Scope, families::Families, health_check, mode};
use crate::config::{
    diagnostic::{Diagnostic, Span},
    model::{Listener, Mode, Name, Protocol, Target},
    raw::{self, Value},
    suggest::quoted,
};

const PROTOCOLS: [(&str, Protocol); 2] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];

/// What the load balancer around a listener has.
pub(super) struct Surroundings {
    /// Families of its VIPs.
    pub(super) vips: Families,
    /// Families of its default servers that take new connections, if there is any server.
    pub(super) default_servers: Option<Families>,
    /// Families of all its default servers, also of those that take nothing new.
    pub(super) all_default_servers: Families,
}

/// What the listeners of a load balancer have taken so far.
#[derive(Default)]
pub(super) struct Seen {
    names: HashMap<String, Span>,
    ports: HashMap<(Protocol, u16), Span>,
}

/// Checks a listener.
pub(super) fn build(
    scope: &mut Scope<'_, '_>,
    table: &raw::Table<raw::Listener>,
    surroundings: &Surroundings,
    seen: &mut Seen,
) -> Option<Listener> {
    let raw = &table.as_ref().0;
    let span = table.span();
    let checker = &mut *scope.checker;

    let name_value = checker.required(raw.name.as_ref(), "name", &span, "name = \"web\"");
    let name = name_value.and_then(|value| checker.name(value));
    if let (Some(name), Some(value)) = (&name, name_value) {
        checker.unique(&mut seen.names, name.to_string(), value.span(), &format!("listener `{name}`"));
    }
    let protocol = checker.required(raw.protocol.as_ref(), "protocol", &span, "protocol = \"tcp\"");
    let protocol = protocol.and_then(|value| checker.choice("protocol", value, &PROTOCOLS));
    let port_value = checker.required(raw.port.as_ref(), "port", &span, "port = 80");
    let port = port_value.and_then(|value| checker.port("port", value));
    if let (Some(protocol), Some(port), Some(value)) = (protocol, port, port_value) {
        let word = PROTOCOLS.iter().find(|(_, known)| *known == protocol).map_or("", |(word, _)| word);
        checker.unique(&mut seen.ports, (protocol, port), value.span(), &format!("{word} port {port}"));
    }
    let health_check = health_check::build(checker, raw.health_check.as_ref(), protocol);
    let forwarding = mode::build(scope, raw, protocol);
    let mode = forwarding.map(|forwarding| forwarding.mode);
    let at = port.zip(port_value.map(toml::Spanned::span));
    let target = target(scope, raw, &span, surroundings, mode, at);
    let forwarding = forwarding?;
    Some(Listener {
        name: name?,
        protocol: protocol?,
        port: port?,
        target: target?,
        mode: forwarding.mode,
        tracking: forwarding.tracking,
        unknown_datagrams: forwarding.unknown_datagrams,
        health_check: health_check?,
    })
}

/// Checks that a listener has exactly one set of servers, and that it can serve the VIPs.
fn target(
    scope: &mut Scope<'_, '_>,
    raw: &raw::Listener,
    span: &Span,
    surroundings: &Surroundings,
    mode: Option<Mode>,
    port: Option<(u16, Span)>,
) -> Option<Target> {
    // Where packets are not translated, any server that holds the VIP can serve it.
    let missing = |families: Families| match mode {
        Some(Mode::Nat) => surroundings.vips.without(families),
        _ => Families::default(),
    };
    match (&raw.server_group, &raw.backend_port) {
        (Some(group), None) => {
            let name = scope.checker.text("server_group", group, "the name of a server group")?;
            let groups = scope.groups;
            let found = groups.find(scope.checker, name, group.span())?;
            let name = found.name;
            scope.used.insert(name);
            warn_of_families(scope, group, &format!("group {}", quoted(name)), missing(found.families));
            if let (Some(mode), Some(port)) = (mode, port) {
                mode::check_ports(scope, mode, port, &found);
            }
            if let (Some(Mode::Ipip), Some(value)) = (mode, &raw.mode) {
                mode::check_tunnels(scope, value, found.all_families);
            }
            Some(Target::ServerGroup(Name(name.to_owned())))
        }
        (None, Some(value)) => {
            let backend_port = scope.checker.port("backend_port", value);
            let Some(families) = surroundings.default_servers else {
                return scope.checker.refuse(
                    Diagnostic::error(
                        value.span(),
                        "`backend_port` without default servers",
                        "the load balancer has no server of its own",
                    )
                    .help("add a `[[load_balancer.server]]`, or name a `server_group`"),
                );
            };
            warn_of_families(scope, value, "the default group", missing(families));
            if let (Some(mode), Some(port), Some(backend_port)) = (mode, port, backend_port) {
                mode::check_port(scope, mode, port, (backend_port, value.span()));
            }
            if let (Some(Mode::Ipip), Some(value)) = (mode, &raw.mode) {
                mode::check_tunnels(scope, value, surroundings.all_default_servers);
            }
            Some(Target::DefaultGroup { backend_port: backend_port? })
        }
        (Some(group), Some(port)) => scope.checker.refuse(
            Diagnostic::error(
                port.span(),
                "a listener has either `server_group` or `backend_port`",
                "for the load balancer's default servers",
            )
            .related(group.span(), "for the servers of a group")
            .help("remove one of them: servers of a group have their own ports"),
        ),
        (None, None) => scope.checker.refuse(
            Diagnostic::error(span.clone(), "the listener has no servers", "this needs `server_group` or `backend_port`")
                .help("name a group, as in `server_group = \"web\"`, or the port of the default servers, as in `backend_port = 8080`"),
        ),
    }
}

fn warn_of_families(scope: &mut Scope<'_, '_>, at: &Value, group: &str, missing: Families) {
    if !missing.is_empty() {
        let message = format!("{group} has no {missing} server that takes new connections");
        let label = format!("{missing} connections to the VIPs will be dropped");
        scope.checker.note(
            Diagnostic::warning(at.span(), message, label)
                .help("add such a server with a weight above 0, or remove the VIPs of this family"),
        );
    }
}
