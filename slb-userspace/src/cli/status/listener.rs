//! The lines of a listener.

use std::net::{IpAddr, SocketAddr};

use slb_api::types::{
    ApiAccessList, ApiAccessListKind, ApiListener, ApiLoadBalancer, ApiOutage, ApiQuic, ApiRunState,
    ApiServer, ApiSourcePorts,
};
use slb_common::abi::ports::EndpointText;

pub(super) fn heading(balancer: &ApiLoadBalancer, listener: &ApiListener) -> String {
    let addresses: Vec<_> = listener
        .addresses
        .iter()
        .map(|address| match (&listener.port_range, address) {
            (None, _) => SocketAddr::new(*address, listener.port).to_string(),
            (Some(range), IpAddr::V4(address)) => format!("{address}:{range}"),
            (Some(range), IpAddr::V6(address)) => format!("[{address}]:{range}"),
        })
        .collect();
    let traffic = match listener.state {
        ApiRunState::Running => format!(
            "{} flows in total, {} current, {} packets from clients, {} to clients; digest {}",
            listener.counters.total_flows,
            in_number(listener.current_flows),
            listener.counters.packets_from_clients,
            listener.counters.packets_to_clients,
            listener.digest.as_deref().unwrap_or("unknown")
        ),
        ApiRunState::Stopped => "stopped".to_owned(),
    };
    format!(
        "{}/{}{} {} {} -> {} ({}{}{}{}): {traffic}",
        balancer.name,
        listener.name,
        if balancer.source.as_deref() == Some("api") { " (api)" } else { "" },
        listener.protocol,
        addresses.join(", "),
        listener.server_group.as_deref().unwrap_or("default server group"),
        listener.mode,
        if listener.toa { "; toa" } else { "" },
        listener.quic.as_ref().map_or_else(String::new, quic),
        listener.access_list.as_ref().map_or_else(String::new, access_list),
    )
}

/// The server and local address with the largest share of used ports (mode `full-nat`).
pub(super) fn source_ports(listener: &ApiListener) -> String {
    let share = |ports: &ApiSourcePorts| 100.0 * f64::from(ports.used) / f64::from(ports.ports.max(1));
    let used = listener.servers.iter().filter_map(|server| Some((server.address, server.source_ports?)));
    let fullest =
        used.filter(|(_, ports)| ports.ports != 0).max_by(|(_, a), (_, b)| share(a).total_cmp(&share(b)));
    fullest.map_or_else(String::new, |(server, ports)| {
        let ApiSourcePorts { local_address, used, ports: most } = ports;
        let share = share(&ports);
        format!(
            "source ports: at most {used} of {most} used ({share:.1} %), of {local_address} to {}\n",
            EndpointText(server)
        )
    })
}

/// Routing by connection ID, after the mode of a listener.
fn quic(quic: &ApiQuic) -> String {
    let ApiQuic { server_id_length, config_rotation } = quic;
    let noun = if *server_id_length == 1 { "octet" } else { "octets" };
    format!("; quic: server IDs of {server_id_length} {noun}, config rotation {config_rotation}")
}

/// The address of a server, and its QUIC server ID if it has one.
pub(super) fn server_address(server: &ApiServer) -> String {
    let id = server.quic_server_id.map_or_else(String::new, |id| format!(" (QUIC server ID {id})"));
    format!("{}{id}", EndpointText(server.address))
}

/// The access list of a listener, after its mode.
fn access_list(list: &ApiAccessList) -> String {
    let kind = match list.kind {
        ApiAccessListKind::White => "white",
        ApiAccessListKind::Black => "black",
    };
    let name = list.name.as_ref().map_or_else(String::new, |name| format!(" {name}"));
    format!("; {kind} list{name}")
}

/// VIPs without a server that receives new flows.
pub(super) fn outages(listener: &ApiListener) -> String {
    let lines = listener.outages.iter().map(|ApiOutage { addresses, why, seconds }| {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let since = seconds.map_or_else(String::new, |seconds| format!(" for {seconds} s"));
        let why = why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        format!("NO SERVER receives new connections to {}{since}{why}\n", addresses.join(", "))
    });
    lines.collect()
}

/// Number of flows, or "untracked".
pub(super) fn in_number(flows: Option<u64>) -> String {
    flows.map_or_else(|| "untracked".to_owned(), |flows| flows.to_string())
}
