//! Ports of listeners and servers. SLB maps a port to another one only for a single port in `nat` and `full-nat`.

use crate::{
    ledger::Ledger,
    model::{CheckKind, Ports, Server, Service},
};

/// A range with more ports does not become one listener for each.
const MAX_EXPANDED: u16 = 16;

fn servers(service: &Service) -> impl Iterator<Item = &Server> {
    service.primary.servers.iter().chain(&service.backup.servers)
}

/// Makes a listener for each port of a small range whose servers have a port of their own. Empty if the range is large.
pub(super) fn expand(ledger: &mut Ledger, service: Service) -> Vec<Service> {
    let Ports { first, last } = service.ports;
    let has_ports = service.mode.rewrites_port() && servers(&service).any(|server| server.port.is_some());
    if service.ports.single().is_some() || !has_ports {
        return vec![service];
    }
    if last - first >= MAX_EXPANDED {
        ledger.left_out(
            service.at,
            format!(
                "ports {first} to {last} all lead to one port of a server: SLB maps single ports only, and 16 at most are \
                 written one by one"
            ),
        );
        return Vec::new();
    }
    ledger.changed(
        service.at,
        "a listener for each port: servers behind a port range of SLB have no port of their own",
    );
    let one = |port| Service {
        ports: Ports::of(port),
        name: format!("{}-{port}", service.name),
        ..service.clone()
    };
    (first..=last).map(one).collect()
}

/// Adapts the ports of servers and check to those of the listener.
pub(super) fn fit(ledger: &mut Ledger, service: &mut Service) {
    let uses_port = !matches!(service.check.kind, CheckKind::None | CheckKind::Icmp);
    let single = service.ports.single();
    if !service.mode.rewrites_port() {
        let others: Vec<(_, u16)> = servers(service)
            .filter_map(|server| Some((server.at, server.port?)))
            .filter(|(_, port)| Some(*port) != single)
            .collect();
        for (at, port) in &others {
            let mode = service.mode.name();
            ledger.changed(
                *at,
                format!(
                    "mode `{mode}` does not translate ports, as in IPVS: port {port} became the listener's"
                ),
            );
        }
        // The source probes the port that the servers have there.
        if let ([(_, port), ..], None, true) = (others.as_slice(), service.check.port, uses_port) {
            service.check.port = Some(*port);
        }
    }
    if single.is_none() && service.check.port.is_none() && uses_port {
        let Ports { first, .. } = service.ports;
        if service.ports == Ports::ANY {
            service.check.kind = CheckKind::Icmp;
            ledger.changed(
                service.at,
                "the check has no port to probe behind any port: `icmp` checks that the host answers",
            );
        } else {
            service.check.port = Some(first);
            ledger.changed(service.at, format!("the check probes port {first}, the first of the range"));
        }
    }
    let ports = service.ports;
    for server in service.primary.servers.iter_mut().chain(&mut service.backup.servers) {
        server.port = match ports.single() {
            None => None,
            Some(port) if !service.mode.rewrites_port() => Some(port),
            Some(port) => Some(server.port.unwrap_or(port)),
        };
    }
    if matches!(service.check.kind, CheckKind::None | CheckKind::Icmp) {
        service.check.port = None;
    }
    if single.is_none() {
        service.check.passive = None;
    }
}
