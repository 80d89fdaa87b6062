//! Fields of each object, as values. Every field of the model is destructured here, so a new field without comparison
//! does not compile.

use std::net::SocketAddr;

use super::{
    check_fields, target_fields,
    value::{Fields, Value, duration, duration_or_off, number, or_absent, path, set, text, word},
};
use crate::{
    field::OFF,
    model::{
        AccessList, ConfigServer, DaemonConfig, DefaultServer, Listener, LoadBalancer, PrimarySecondaryGroup,
        Protocol, ServerGroup,
    },
};

/// Interfaces are objects of their own.
pub(super) fn daemon(daemon: &DaemonConfig) -> Fields {
    let DaemonConfig {
        interfaces: _,
        roles: _,
        xdp_mode,
        pin_dir,
        socket,
        read_only_socket,
        metrics_address,
        state_dir,
        flow_table_entries,
        max_servers,
        tunnel_addresses,
        tunnel_sources,
        gue_port,
        local_addresses,
        hash_seed,
        probe_source,
        probe_mark,
    } = daemon;
    vec![
        ("xdp_mode", word(xdp_mode)),
        ("pin_dir", path(pin_dir)),
        ("socket", path(socket)),
        ("read_only_socket", read_only_socket.as_ref().map_or_else(|| text(OFF), |socket| path(socket))),
        ("metrics_address", metrics_address.as_ref().map_or_else(|| text(OFF), text)),
        ("state_dir", path(state_dir)),
        ("flow_table_entries", number(*flow_table_entries)),
        ("max_servers", number(*max_servers)),
        ("gue_port", number(*gue_port)),
        ("hash_seed", or_absent(*hash_seed, number)),
        ("probe_mark", or_absent(*probe_mark, number)),
        ("tunnel_addresses", set(tunnel_addresses)),
        ("tunnel_sources", set(tunnel_sources)),
        ("local_addresses", set(local_addresses)),
        ("probe_source", set(probe_source)),
    ]
}

pub(super) fn interface(daemon: &DaemonConfig, name: &str) -> Fields {
    vec![("role", word(&daemon.roles.get(name).copied().unwrap_or_default()))]
}

/// Servers and listeners are objects of their own.
pub(super) fn load_balancer(balancer: &LoadBalancer) -> Fields {
    let LoadBalancer {
        id: _,
        name: _,
        state,
        addresses,
        unmatched,
        announce,
        servers: _,
        table_size,
        slow_start,
        listeners: _,
    } = balancer;
    vec![
        ("state", word(state)),
        ("unmatched", or_absent(unmatched.as_ref(), word)),
        ("announce", word(announce)),
        ("table_size", number(table_size.slots())),
        ("slow_start", duration_or_off(slow_start.as_ref())),
        ("addresses", set(addresses)),
    ]
}

pub(super) fn listener(listener: &Listener) -> Fields {
    let Listener {
        id: _,
        name: _,
        protocol,
        port,
        state,
        target,
        mode,
        toa,
        tracking,
        unknown_datagrams,
        drain_timeout,
        idle_timeout,
        health_check,
        on_no_healthy,
        scheduler,
        session_persistence,
        access,
        bandwidth,
        new_connections,
        quic,
        syn_cookies,
    } = listener;
    // It applies to TCP only. The idle timeout of UDP is constant.
    let established_timeout = (*protocol == Protocol::Tcp).then_some(idle_timeout);
    // It applies to untracked UDP only.
    let unknown_datagrams = (*protocol == Protocol::Udp && !mode.sees_replies()).then_some(unknown_datagrams);
    let mut fields = vec![
        ("protocol", word(protocol)),
        ("port", port.as_single().map_or_else(|| text(port), number)),
        ("state", word(state)),
        ("mode", text(mode.name())),
        ("toa", Value::Boolean(*toa)),
        ("tracking", word(tracking)),
        ("unknown_datagrams", or_absent(unknown_datagrams, word)),
        ("drain_timeout", duration_or_off(drain_timeout.as_ref())),
        ("on_no_healthy", word(on_no_healthy)),
        ("scheduler", text(scheduler.name())),
        ("session_persistence", duration_or_off(session_persistence.as_ref())),
        ("access_list", or_absent(access.as_ref(), |access| text(&access.list))),
        ("access_list_type", or_absent(access.as_ref(), |access| text(access.kind.name()))),
        ("bandwidth", or_absent(bandwidth.as_ref(), text)),
        ("new_connections", or_absent(*new_connections, number)),
        ("quic.server_id_length", or_absent(quic.as_ref(), |quic| number(quic.server_id_length))),
        ("quic.config_rotation", or_absent(quic.as_ref(), |quic| number(quic.config_rotation))),
        ("syn_cookies", or_absent(*syn_cookies, number)),
        ("established_timeout", or_absent(established_timeout, duration)),
    ];
    fields.extend(target_fields::target(target));
    fields.extend(check_fields::health_check(health_check.as_ref()));
    fields
}

/// Servers are objects of their own.
pub(super) fn server_group(group: &ServerGroup) -> Fields {
    let ServerGroup { id: _, name: _, servers: _, table_size, slow_start } = group;
    vec![("table_size", number(table_size.slots())), ("slow_start", duration_or_off(slow_start.as_ref()))]
}

/// The address and port identify the server.
pub(super) fn server(server: &ConfigServer) -> Fields {
    let ConfigServer { address: _, port: _, weight, quic_server_id } = server;
    vec![("weight", number(weight.value())), ("quic_server_id", or_absent(*quic_server_id, number))]
}

/// The address identifies the server.
pub(super) fn default_server(server: &DefaultServer) -> Fields {
    let DefaultServer { address: _, weight, quic_server_id } = server;
    vec![("weight", number(weight.value())), ("quic_server_id", or_absent(*quic_server_id, number))]
}

/// The name identifies the list.
pub(super) fn access_list(list: &AccessList) -> Fields {
    let AccessList { name: _, networks } = list;
    vec![("entries", set(&networks.iter().collect::<Vec<_>>()))]
}

pub(super) fn primary_secondary_group(group: &PrimarySecondaryGroup) -> Fields {
    let PrimarySecondaryGroup { id: _, name: _, primary, secondary, failback_after } = group;
    vec![
        ("primary.address", text(primary.ip())),
        ("primary.port", server_port(primary)),
        ("secondary.address", text(secondary.ip())),
        ("secondary.port", server_port(secondary)),
        ("failback_after", duration(failback_after)),
    ]
}

/// The port of a server; none behind a port range.
fn server_port(server: &SocketAddr) -> Value {
    or_absent(Some(server.port()).filter(|port| *port != 0), number)
}
