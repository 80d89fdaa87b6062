//! Metrics of servers. A server has samples for each server table that it is in; listeners may share a table.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use slb_common::abi::{ids::TableId, protocol::IpProtocol, service::Service};

use super::{
    collected::Collected,
    families::{
        SERVER_BYTES, SERVER_DISABLED, SERVER_DRAINING, SERVER_NEW, SERVER_OPEN, SERVER_PACKETS,
        SERVER_SLOTS, SERVER_UP, SERVER_WEIGHT, SERVERS, SOURCE_PORTS, SOURCE_PORTS_USED,
    },
    shared_labels::{FROM_CLIENTS, TO_CLIENTS, table_labels},
    writer::{ReaderGone, Value, Writer, labels},
};
use crate::server::status::servers::Servers;
use slb_api::types::{AdminState, ApiHealth, ApiServer};
use slb_control::source_usage::{SourcePorts, SourceUsage};

/// Health of servers, as a label.
const HEALTH: [(&str, ApiHealth); 5] = [
    ("healthy", ApiHealth::Healthy),
    ("unhealthy", ApiHealth::Unhealthy),
    ("unchecked", ApiHealth::Unchecked),
    ("standby", ApiHealth::Standby),
    ("unknown", ApiHealth::Unknown),
];

/// Picks the value of a family; `None` for servers that have none.
type Figure = fn(&ApiServer) -> Option<Value>;
/// Picks the values of a family: from clients, and to clients.
type BothDirections = fn(&ApiServer) -> [u64; 2];

/// The servers of a table.
struct Table {
    labels: String,
    /// Each with its labels.
    servers: Vec<(String, ApiServer)>,
}

fn tables(collected: &Collected, servers: &Servers<'_>) -> Vec<Table> {
    let mut services: BTreeMap<TableId, &Service> = BTreeMap::new();
    for service in collected.services().map(|(_, service)| service) {
        services.entry(service.table()).or_insert(service);
    }
    let table = |service: &Service| {
        let own = table_labels(service);
        let pairs = own.each_ref().map(|(name, value)| (*name, value.as_str()));
        let labels_of = |server: ApiServer| {
            let address = server.address.to_string();
            (labels(&[pairs[0], pairs[1], ("server", &address), pairs[2]]), server)
        };
        Table { labels: labels(&pairs), servers: servers.documents(service).map(labels_of).collect() }
    };
    services.into_values().map(table).collect()
}

/// Writes the metrics of servers.
pub(super) fn write(writer: &mut Writer<'_>, collected: &Collected) -> Result<(), ReaderGone> {
    let context = collected.context();
    let servers = Servers::of(&collected.snapshot.state, &collected.readings, &context);
    let tables = tables(collected, &servers);
    let mut samples = writer.family(SERVERS);
    for table in &tables {
        for (word, health) in HEALTH {
            let count = table.servers.iter().filter(|(_, server)| server.health == health).count();
            samples.sample(&table.labels, &labels(&[("health", word)]), count)?;
        }
    }
    let gauges: [(_, Figure); 7] = [
        (SERVER_UP, |server| Some(is_up(server.health).into())),
        (SERVER_DRAINING, |server| Some(server.draining.is_some().into())),
        (SERVER_DISABLED, |server| Some(is_disabled(server).into())),
        (SERVER_WEIGHT, |server| Some(server.weight.into())),
        (SERVER_SLOTS, |server| Some(server.slots.into())),
        (SERVER_NEW, |server| Some(server.counters.total_flows.into())),
        (SERVER_OPEN, |server| server.current_flows.map(Into::into)),
    ];
    for (family, value) in gauges {
        let mut samples = writer.family(family);
        for (labels, server) in tables.iter().flat_map(|table| &table.servers) {
            if let Some(value) = value(server) {
                samples.sample(labels, "", value)?;
            }
        }
    }
    let both: [(_, BothDirections); 2] = [
        (SERVER_PACKETS, |ApiServer { counters, .. }| {
            [counters.packets_from_clients, counters.packets_to_clients]
        }),
        (SERVER_BYTES, |ApiServer { counters, .. }| [counters.bytes_from_clients, counters.bytes_to_clients]),
    ];
    for (family, values) in both {
        let mut samples = writer.family(family);
        for (labels, server) in tables.iter().flat_map(|table| &table.servers) {
            let [from_clients, to_clients] = values(server);
            samples.sample(labels, FROM_CLIENTS, from_clients)?;
            samples.sample(labels, TO_CLIENTS, to_clients)?;
        }
    }
    write_source_ports(writer, collected, &tables)
}

/// Ports in use by server, protocol and local address. Behind a port range clients choose the server's port: all ports of
/// such a server are one series, that of the fullest.
fn source_ports(
    usage: &SourceUsage,
    tables: &[Table],
) -> BTreeMap<(SocketAddr, IpProtocol, IpAddr), SourcePorts> {
    let servers = tables.iter().flat_map(|table| &table.servers);
    let configured: HashSet<_> = servers.map(|(_, server)| server.address).collect();
    let mut fullest = BTreeMap::new();
    for (((server, protocol), local_address), ports) in usage {
        let is_configured = configured.contains(server);
        let server = if is_configured { *server } else { SocketAddr::new(server.ip(), 0) };
        let entry = fullest.entry((server, *protocol, *local_address)).or_insert(*ports);
        if ports.percent() > entry.percent() {
            *entry = *ports;
        }
    }
    fullest
}

fn write_source_ports(
    writer: &mut Writer<'_>,
    collected: &Collected,
    tables: &[Table],
) -> Result<(), ReaderGone> {
    let rows: Vec<_> = source_ports(&collected.snapshot.sources, tables)
        .into_iter()
        .map(|((server, protocol, local_address), ports)| {
            let protocol = if protocol == IpProtocol::Tcp { "tcp" } else { "udp" };
            let [server, local] = [server.to_string(), local_address.to_string()];
            let pairs = [("server", &*server), ("protocol", protocol), ("local_address", &*local)];
            (labels(&pairs), ports)
        })
        .collect();
    let mut samples = writer.family(SOURCE_PORTS_USED);
    for (labels, ports) in &rows {
        samples.sample(labels, "", ports.used)?;
    }
    let mut samples = writer.family(SOURCE_PORTS);
    for (labels, ports) in &rows {
        samples.sample(labels, "", ports.ports)?;
    }
    Ok(())
}

const fn is_up(health: ApiHealth) -> bool {
    matches!(health, ApiHealth::Healthy | ApiHealth::Unchecked | ApiHealth::Standby)
}

fn is_disabled(server: &ApiServer) -> bool {
    server.set.as_ref().is_some_and(|set| set.state == Some(AdminState::Disabled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_clients_choose_make_no_series_of_their_own() {
        let local: IpAddr = "192.0.2.9".parse().unwrap();
        let at = |server: &str| (server.parse::<SocketAddr>().unwrap(), IpProtocol::Tcp);
        let ports = |used| SourcePorts { used, ports: 100 };
        let usage =
            (1..=1000).map(|port| ((at(&format!("10.0.0.1:{port}")), local), ports(port % 7))).collect();
        let shown = source_ports(&usage, &[]);
        assert_eq!(shown, [(("10.0.0.1:0".parse().unwrap(), IpProtocol::Tcp, local), ports(6))].into());
    }
}
