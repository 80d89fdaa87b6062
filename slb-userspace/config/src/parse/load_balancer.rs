//! `[[load_balancer]]` and its default server group.

use std::{collections::HashMap, net::IpAddr};

use super::{
    families::Families,
    group, listener, quic,
    scope::{BalancerContext, BalancerScope},
};
use crate::{
    diagnostic::{Diagnostic, Span},
    field::{Checker, Written},
    model::{Announce, DefaultServer, Listener, LoadBalancer, Unmatched},
    raw,
};

/// Maximum number of listeners of a load balancer.
const MAX_LISTENERS: usize = 50;

const UNMATCHED: [(&str, Unmatched); 3] =
    [("drop", Unmatched::Drop), ("reject", Unmatched::Reject), ("pass", Unmatched::Pass)];

const ANNOUNCE: [(&str, Announce); 2] = [("off", Announce::Off), ("arp", Announce::Arp)];

/// Checks a load balancer. Its addresses have already been checked.
pub(super) fn build(
    scope: &mut BalancerScope<'_, '_>,
    table: &raw::RawTable<raw::RawLoadBalancer>,
    addresses: Option<Vec<IpAddr>>,
) -> Option<LoadBalancer> {
    let raw = &table.as_ref().0;
    let span = table.span();
    let name_value = scope.checker.required(raw.name.as_ref(), "name", &span, "name = \"shop\"");
    let name = name_value.and_then(|value| scope.checker.name(value));
    let at = name_value.map_or_else(|| span.clone(), toml::Spanned::span);
    if let Some(name) = &name {
        let what = format!("load balancer `{name}`");
        scope.checker.unique(scope.names, name.to_string(), at.clone(), &what);
    }
    let id = scope.checker.id(raw.id.as_ref(), name.as_ref());
    if let Some(id) = &id {
        let written = Written { id: raw.id.as_ref(), name: name_value };
        scope.checker.unique_id(scope.ids, id, written, "load balancer");
    }

    let state = listener::state(scope.checker, raw.state.as_ref());
    let unmatched = raw.unmatched.as_ref();
    let unmatched =
        unmatched.map_or(Some(None), |value| scope.checker.choice("unmatched", value, &UNMATCHED).map(Some));
    let announce = raw.announce.as_ref();
    let announce =
        announce.map_or(Some(Announce::Off), |value| scope.checker.choice("announce", value, &ANNOUNCE));
    let servers = default_servers(scope, &raw.server.0);
    let table_size = scope.checker.table_size(raw.table_size.as_ref());
    let slow_start = scope.checker.slow_start(raw.slow_start.as_ref());
    let spans: Vec<_> = raw.server.0.iter().map(toml::Spanned::span).collect();
    group::check_count(scope.checker, &spans, table_size, raw.table_size.as_ref());

    let context = BalancerContext {
        vips: addresses.iter().flatten().collect(),
        default_servers: (!raw.server.0.is_empty()).then(|| default_families(&raw.server.0)),
        all_default_servers: group::families_of_all(
            raw.server.0.iter().map(|table| table.as_ref().0.address.as_ref()),
        ),
    };
    let listeners = listeners(scope, raw, &context);
    warn_of_idle(scope.checker, raw, &at);
    Some(LoadBalancer {
        id: id?,
        name: name?,
        state: state?,
        addresses: addresses?,
        unmatched: unmatched?,
        announce: announce?,
        servers: servers?,
        table_size: table_size?,
        slow_start: slow_start?,
        listeners: listeners?,
    })
}

fn default_servers(
    scope: &mut BalancerScope<'_, '_>,
    tables: &[raw::RawTable<raw::RawDefaultServer>],
) -> Option<Vec<DefaultServer>> {
    let mut seen = HashMap::new();
    let mut servers = Vec::new();
    for table in tables {
        let raw = &table.as_ref().0;
        let value =
            scope.checker.required(raw.address.as_ref(), "address", &table.span(), "address = \"10.0.0.21\"");
        let address = value.and_then(|value| scope.checker.address("address", value));
        if let (Some(address), Some(value)) = (address, value) {
            scope.vips.refuse_server(scope.checker, address, value);
            scope.checker.unique(&mut seen, address, value.span(), &format!("server `{address}`"));
        }
        let weight = scope.checker.weight(raw.weight.as_ref());
        let quic_server_id = quic::server_id(scope.checker, raw.quic_server_id.as_ref());
        servers.push(
            address
                .zip(weight)
                .zip(quic_server_id)
                .map(|((address, weight), quic_server_id)| DefaultServer { address, weight, quic_server_id }),
        );
    }
    servers.into_iter().collect()
}

fn default_families(tables: &[raw::RawTable<raw::RawDefaultServer>]) -> Families {
    let servers = tables.iter().map(|table| &table.as_ref().0);
    group::families_of_serving(servers.map(|server| (server.address.as_ref(), server.weight.as_ref())))
}

fn listeners(
    scope: &mut BalancerScope<'_, '_>,
    raw: &raw::RawLoadBalancer,
    context: &BalancerContext,
) -> Option<Vec<Listener>> {
    if let Some(first_too_many) = raw.listener.0.get(MAX_LISTENERS) {
        scope.checker.note(
            Diagnostic::error(
                first_too_many.span(),
                format!("a load balancer cannot have {} listeners", raw.listener.0.len()),
                format!("allowed: {MAX_LISTENERS}; this is the first one too many"),
            )
            .help("add a load balancer with a VIP of its own"),
        );
    }
    let mut seen = listener::UsedNames::default();
    let listeners: Vec<_> =
        raw.listener.0.iter().map(|table| listener::build(scope, table, context, &mut seen)).collect();
    listeners.into_iter().collect()
}

/// Warns of a load balancer without listeners, and of default servers that no listener uses.
fn warn_of_idle(checker: &mut Checker, raw: &raw::RawLoadBalancer, at: &Span) {
    if raw.listener.0.is_empty() {
        checker.note(
            Diagnostic::warning(at.clone(), "this load balancer has no listener", "it will forward nothing")
                .help("add a `[[load_balancer.listener]]`"),
        );
        return;
    }
    let default_is_used =
        raw.listener.0.iter().any(|listener| listener.as_ref().0.default_group_port.is_some());
    if let (Some(first), false) = (raw.server.0.first(), default_is_used) {
        checker.note(
            Diagnostic::warning(
                first.span(),
                "the default server group is not used",
                "no listener has a `default_group_port`",
            )
            .help(
                "write `default_group_port = 8080` in place of a listener's `server_group`, or remove the servers",
            ),
        );
    }
}
