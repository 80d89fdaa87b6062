//! Fields of each object, as values. Every field of the model is destructured here, so a new field without comparison
//! does not compile.

use super::value::{Fields, Value, duration, map, number, or_absent, path, set, text, word};
use crate::model::{
    ConfigServer, DaemonConfig, DefaultServer, Listener, ListenerTarget, LoadBalancer, PrimarySecondaryGroup,
    Protocol, Scheduler, ServerGroup,
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
        state_dir,
        flow_table_entries,
        max_servers,
        tunnel_addresses,
        hash_seed,
        probe_source,
        probe_mark,
    } = daemon;
    vec![
        ("xdp_mode", word(xdp_mode)),
        ("pin_dir", path(pin_dir)),
        ("socket", path(socket)),
        ("read_only_socket", or_absent(read_only_socket.as_ref(), |socket| path(socket))),
        ("state_dir", path(state_dir)),
        ("flow_table_entries", number(*flow_table_entries)),
        ("max_servers", number(*max_servers)),
        ("hash_seed", or_absent(*hash_seed, number)),
        ("probe_mark", or_absent(*probe_mark, number)),
        ("tunnel_addresses", set(tunnel_addresses)),
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
        servers: _,
        table_size,
        slow_start,
        listeners: _,
    } = balancer;
    vec![
        ("state", word(state)),
        ("unmatched", or_absent(unmatched.as_ref(), word)),
        ("table_size", number(table_size.slots())),
        ("slow_start", or_absent(slow_start.as_ref(), duration)),
        ("addresses", set(addresses)),
    ]
}

/// The health check is separate.
pub(super) fn listener(listener: &Listener) -> Fields {
    let Listener {
        id: _,
        name: _,
        protocol,
        port,
        state,
        target,
        mode,
        tracking,
        unknown_datagrams,
        drain_timeout,
        idle_timeout,
        health_check: _,
        on_no_healthy,
        scheduler,
        session_persistence,
    } = listener;
    // The setting applies to TCP only. The idle timeout of UDP is constant.
    let established = (*protocol == Protocol::Tcp).then_some(idle_timeout);
    vec![
        ("protocol", word(protocol)),
        ("port", number(*port)),
        ("state", word(state)),
        ("target", self::target(target)),
        ("mode", word(mode)),
        ("tracking", word(tracking)),
        ("unknown_datagrams", word(unknown_datagrams)),
        ("drain_timeout", or_absent(drain_timeout.as_ref(), duration)),
        ("on_no_healthy", word(on_no_healthy)),
        ("scheduler", text(self::scheduler(*scheduler))),
        ("session_persistence", or_absent(session_persistence.as_ref(), duration)),
        ("established_timeout", or_absent(established, duration)),
    ]
}

/// Servers are objects of their own.
pub(super) fn server_group(group: &ServerGroup) -> Fields {
    let ServerGroup { id: _, name: _, servers: _, table_size, slow_start } = group;
    vec![("table_size", number(table_size.slots())), ("slow_start", or_absent(slow_start.as_ref(), duration))]
}

/// The address and port identify the server.
pub(super) fn server(server: &ConfigServer) -> Fields {
    let ConfigServer { address: _, port: _, weight } = server;
    vec![("weight", number(weight.value()))]
}

/// The address identifies the server.
pub(super) fn default_server(server: &DefaultServer) -> Fields {
    let DefaultServer { address: _, weight } = server;
    vec![("weight", number(weight.value()))]
}

pub(super) fn primary_secondary_group(group: &PrimarySecondaryGroup) -> Fields {
    let PrimarySecondaryGroup { id: _, name: _, primary, secondary, failback_after } = group;
    vec![
        ("primary", text(primary)),
        ("secondary", text(secondary)),
        ("failback_after", duration(failback_after)),
    ]
}

/// The servers behind a listener, by the names of the settings.
fn target(target: &ListenerTarget) -> Value {
    match target {
        ListenerTarget::DefaultGroup { default_group_port } => {
            map([("default_group_port", number(*default_group_port))])
        }
        ListenerTarget::ServerGroup(name) => map([("server_group", text(name))]),
        ListenerTarget::PrimarySecondaryGroup(name) => map([("primary_secondary_group", text(name))]),
        ListenerTarget::PrimarySecondary { primary, secondary, failover_threshold, failback_after } => map([
            ("primary", text(primary)),
            ("secondary", text(secondary)),
            ("failover_threshold", number(*failover_threshold)),
            ("failback_after", duration(failback_after)),
        ]),
    }
}

fn scheduler(scheduler: Scheduler) -> &'static str {
    match scheduler {
        Scheduler::Maglev => "maglev",
        Scheduler::MaglevClient => "maglev-client",
        Scheduler::RoundRobin => "rr",
        Scheduler::WeightedRoundRobin => "wrr",
        Scheduler::WeightedLeastConnections => "wlc",
    }
}
