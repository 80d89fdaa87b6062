//! What keepalived and ipvsadm have in common: the schedulers of IPVS, and where its packets go.

use crate::{
    ledger::Ledger,
    model::{Mode, Pool, Scheduler, Service},
    source::Lines,
};

/// The scheduler for one of IPVS. `hashes_port` is its flag for hashing the client's port too.
pub(crate) fn scheduler(ledger: &mut Ledger, at: Lines, name: &str, hashes_port: bool) -> Scheduler {
    let (scheduler, note) = match name {
        "rr" => (Scheduler::RoundRobin, None),
        "wrr" => (Scheduler::WeightedRoundRobin, None),
        "wlc" => (Scheduler::WeightedLeastConnections, None),
        "lc" => {
            (Scheduler::WeightedLeastConnections, Some("`wlc` is least connections too, and counts weights"))
        }
        "sed" | "nq" | "twos" | "ovf" | "lblc" | "lblcr" => (
            Scheduler::WeightedLeastConnections,
            Some("SLB does not have this scheduler: `wlc` is the nearest one (least connections by weight)"),
        ),
        "sh" | "mh" | "conhash" if hashes_port => (
            Scheduler::Maglev,
            Some("`maglev` hashes the client's address and port consistently; the hash itself differs"),
        ),
        "sh" | "mh" | "conhash" => (
            Scheduler::MaglevClient,
            Some("`maglev-client` hashes the client's address consistently; the hash itself differs"),
        ),
        "dh" => (
            Scheduler::Maglev,
            Some("a hash of the VIP would lead to one server: `maglev` hashes the client's address and port"),
        ),
        "fo" => (
            Scheduler::Maglev,
            Some("the server of the highest weight became `primary`, the others `secondary`"),
        ),
        _ => (
            Scheduler::Maglev,
            Some(
                "SLB does not have this scheduler: `maglev` is consistent hashing of the client's address and port",
            ),
        ),
    };
    match note {
        None => ledger.used(at),
        Some(note) => ledger.changed(at, note),
    }
    scheduler
}

/// Divides the servers of the scheduler `fo`: the highest weight receives all traffic while it is healthy.
pub(crate) fn weighted_failover(service: &mut Service) {
    let servers = &service.primary.servers;
    let Some(highest) = servers.iter().map(|server| server.weight).max().filter(|weight| *weight > 0) else {
        return;
    };
    let first = servers.iter().position(|server| server.weight == highest).unwrap_or_default();
    let mut rest = service.primary.servers.split_off(first);
    let primary = rest.drain(..1).collect();
    let mut others = std::mem::replace(&mut service.primary.servers, primary);
    others.append(&mut rest);
    others.append(&mut service.backup.servers);
    service.backup = Pool { name: format!("{}-backup", service.primary.name), servers: others };
}

/// The mode in which the servers of a service receive packets: that of the first one. Servers of another mode are left
/// out: SLB has one mode for each listener.
pub(crate) fn one_mode(ledger: &mut Ledger, service: &mut Service, modes: &[(Lines, Mode)]) {
    let Some((_, mode)) = modes.first() else { return };
    service.mode = *mode;
    for (at, other) in modes.iter().filter(|(_, other)| other != mode) {
        let reason = format!(
            "its packets go by `{}`, and a listener of SLB has one mode: `{}`",
            other.name(),
            mode.name()
        );
        ledger.left_out(*at, reason);
        service.primary.servers.retain(|server| server.at != *at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedulers_without_counterpart_are_noted() {
        for (name, hashes_port, expected, is_noted) in [
            ("rr", false, "rr", false),
            ("wrr", false, "wrr", false),
            ("wlc", false, "wlc", false),
            ("lc", false, "wlc", true),
            ("sh", false, "maglev-client", true),
            ("sh", true, "maglev", true),
            ("mh", false, "maglev-client", true),
            ("dh", false, "maglev", true),
            ("nq", false, "wlc", true),
            ("loadbalance", false, "maglev", true),
        ] {
            let mut ledger = Ledger::default();
            let found = scheduler(&mut ledger, Lines::one(0, 1), name, hashes_port);
            let sources = crate::source::Sources::new("f", "x", &crate::NoFiles);
            assert_eq!((found.name(), !ledger.notes(&sources).is_empty()), (expected, is_noted), "{name}");
        }
    }
}
