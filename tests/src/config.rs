//! The daemon's configuration for a world, written as its users write it.

use std::{fmt::Write as _, net::IpAddr, path::PathBuf, time::Duration};

use crate::{
    net::{Family, Topology},
    server::Service,
};

/// Health check of every listener.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long its answer may take.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// Failures in a row that make a server unhealthy.
pub const UNHEALTHY_THRESHOLD: u32 = 2;

/// Connections the flow table holds: more than any scenario opens.
const FLOW_TABLE_ENTRIES: u32 = 262_144;

/// What the daemon is to do.
#[derive(Debug, Clone)]
pub struct Plan {
    interfaces: Vec<String>,
    /// Where maps and links are pinned.
    pub pin_dir: PathBuf,
    /// Socket of the API.
    pub socket: PathBuf,
    /// Servers, in the order of the backends.
    pub servers: Vec<PlannedServer>,
}

/// A server of the plan; it stands in every group, with both addresses.
#[derive(Debug, Clone)]
pub struct PlannedServer {
    /// Name it gives itself in its answers.
    pub name: String,
    /// Addresses.
    pub addresses: [IpAddr; 2],
    /// Weight, 0 to 100.
    pub weight: u8,
}

impl Plan {
    /// A plan with all backends of `topology`, weighted by `weights`.
    ///
    /// # Panics
    /// When there is not one weight per backend.
    pub fn new(topology: &Topology, weights: &[u8], pin_dir: PathBuf, socket: PathBuf) -> Self {
        assert_eq!(topology.backends.len(), weights.len(), "one weight per backend");
        let servers = topology.backends.iter().zip(weights).map(|(backend, weight)| PlannedServer {
            name: backend.name.clone(),
            addresses: Family::ALL.map(|family| backend.address(family)),
            weight: *weight,
        });
        Self { interfaces: topology.interfaces(), pin_dir, socket, servers: servers.collect() }
    }

    /// The configuration: one load balancer with a VIP of each family. `lines` is served by the default server
    /// group, the other listeners by groups of their own; every listener's port differs from the servers'.
    pub fn toml(&self) -> String {
        let mut text = format!(
            "[daemon]\ninterfaces = {:?}\nxdp_mode = \"native\"\npin_dir = {:?}\nsocket = {:?}\n\
             flow_table_entries = {FLOW_TABLE_ENTRIES}\n\n\
             [[load_balancer]]\nname = \"shop\"\naddresses = [\"{}\", \"{}\"]\n",
            self.interfaces,
            self.pin_dir,
            self.socket,
            Family::V4.vip(),
            Family::V6.vip()
        );
        for (address, weight) in self.addresses() {
            let _ = write!(text, "\n[[load_balancer.server]]\naddress = \"{address}\"\nweight = {weight}\n");
        }
        for service in Service::ALL {
            let target = match service {
                Service::Lines => format!("backend_port = {}", service.backend_port()),
                _ => format!("server_group = \"{}\"", service.name()),
            };
            // A UDP server is checked by what answers over TCP beside it.
            let check_port = match service {
                Service::Echo => format!(", port = {}", Service::Http.backend_port()),
                _ => String::new(),
            };
            let _ = write!(
                text,
                "\n[[load_balancer.listener]]\nname = \"{}\"\nprotocol = \"{}\"\nport = {}\n{target}\n\
                 health_check = {{ kind = \"tcp\", interval = \"{}s\", timeout = \"{}s\", healthy_threshold = 1, \
                 unhealthy_threshold = {UNHEALTHY_THRESHOLD}{check_port} }}\n",
                service.name(),
                service.protocol(),
                service.vip_port(),
                CHECK_INTERVAL.as_secs(),
                CHECK_TIMEOUT.as_secs()
            );
        }
        for service in Service::ALL.into_iter().filter(|service| *service != Service::Lines) {
            let _ = write!(text, "\n[[server_group]]\nname = \"{}\"\nservers = [\n", service.name());
            for (address, weight) in self.addresses() {
                let port = service.backend_port();
                let _ = writeln!(text, "  {{ address = \"{address}\", port = {port}, weight = {weight} }},");
            }
            text.push_str("]\n");
        }
        text
    }

    /// Name and weight of every server.
    pub fn weights(&self) -> Vec<(&str, u8)> {
        self.servers.iter().map(|server| (server.name.as_str(), server.weight)).collect()
    }

    fn addresses(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        self.servers.iter().flat_map(|server| server.addresses.map(|address| (address, server.weight)))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{Plan, PlannedServer};
    use crate::server::Service;

    #[test]
    fn the_plan_is_a_valid_configuration_without_warnings() {
        let server = |n: u8, weight| PlannedServer {
            name: format!("b{n}"),
            addresses: [[10, 90, n, 10].into(), [0xfd90, n.into(), 0, 0, 0, 0, 0, 10].into()],
            weight,
        };
        let plan = Plan {
            interfaces: vec!["client0".to_owned(), "b1".to_owned()],
            pin_dir: PathBuf::from("/sys/fs/bpf/slbt-1-1"),
            socket: PathBuf::from("/run/slb.sock"),
            servers: vec![server(1, 100), server(2, 0)],
        };
        let parsed = slb_userspace::config::parse("slb.toml", &plan.toml());
        let loaded = parsed.unwrap_or_else(|rejected| panic!("{rejected}"));
        assert_eq!(loaded.config.load_balancers[0].listeners.len(), Service::ALL.len());
        assert_eq!(loaded.warnings.to_string(), "");
        assert_eq!(loaded.config.daemon.interfaces, plan.interfaces);
    }
}
