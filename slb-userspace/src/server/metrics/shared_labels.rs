//! Labels of both listeners and servers.

use slb_common::abi::{NAME_LEN, service::Service, unpad_name};

/// Label of packets from clients.
pub(super) const FROM_CLIENTS: &str = "direction=\"from_clients\"";
/// Label of packets to clients.
pub(super) const TO_CLIENTS: &str = "direction=\"to_clients\"";

/// A name of the maps.
pub(super) fn padded(name: &[u8; NAME_LEN]) -> &str {
    unpad_name(name).unwrap_or("?")
}

/// The labels of a server table: its id and its server group. A default server group has the load balancer's name.
pub(super) fn table_labels(service: &Service) -> [(&'static str, String); 3] {
    let group = padded(&service.group);
    let load_balancer = if group.is_empty() { padded(&service.load_balancer) } else { "" };
    [
        ("load_balancer", load_balancer.to_owned()),
        ("server_group", group.to_owned()),
        ("table", service.table().index().to_string()),
    ]
}
