//! A `virtual_server` with its real servers.

use super::{
    Endpoint,
    real_server::{self, RealServer},
    settings::{self, Settings},
};
use crate::{
    ipvs,
    ledger::Ledger,
    model::{Model, Pool, Protocol, Service},
    tree::Statement,
};

/// Reads a virtual server. Endpoints with the same ports become one service.
pub(super) fn read(ledger: &mut Ledger, model: &mut Model, statement: &Statement, endpoints: &[Endpoint]) {
    let is_sctp =
        |line: &Statement| line.keyword() == "protocol" && line.argument(1).eq_ignore_ascii_case("sctp");
    if statement.statements().iter().any(is_sctp) {
        statement.leave_out(ledger, "SLB forwards TCP and UDP only");
        return;
    }
    if endpoints.is_empty() {
        statement.leave_out(ledger, "its group has no address");
        return;
    }
    statement.use_frame(ledger);
    let settings = settings::read(ledger, statement);
    let servers = |ledger: &mut Ledger, keyword: &str| -> Vec<RealServer> {
        let lines = statement.statements().iter().filter(|line| line.keyword() == keyword);
        lines.filter_map(|line| real_server::read(ledger, &settings, line)).collect()
    };
    let real_servers = servers(ledger, "real_server");
    let backups = servers(ledger, "backup_real_server");
    let backup = backup(ledger, &settings, &backups);
    let name = |port: String| {
        let word = if settings.protocol == Protocol::Udp { "udp" } else { "tcp" };
        match statement.argument(1) {
            "group" => format!("{}-{word}-{port}", statement.argument(2)),
            address => format!("{word}-{address}-{port}"),
        }
    };
    let mut ports: Vec<_> = endpoints.iter().map(|(_, ports, _)| *ports).collect();
    ports.sort_unstable();
    ports.dedup();
    let all: Vec<&RealServer> = real_servers.iter().chain(&backups).collect();
    let check = real_server::common_check(ledger, &settings, &all);
    for ports in ports {
        let vips = endpoints.iter().filter(|(_, other, _)| *other == ports).map(|(vip, _, at)| (*vip, *at));
        let name = name(ports.single().map_or_else(|| "any".to_owned(), |port| port.to_string()));
        let mut service = Service {
            at: statement.whole,
            sources: vec![statement.whole],
            name: name.clone(),
            vips: vips.collect(),
            protocol: settings.protocol,
            ports,
            mode: settings.mode,
            scheduler: settings.scheduler,
            persistence: settings.persistence,
            established_timeout: None,
            slow_start: None,
            check: check.clone(),
            primary: Pool {
                name: name.clone(),
                servers: real_servers.iter().map(|real| real.server.clone()).collect(),
            },
            backup: backup.clone().named(&name),
            failover_threshold: settings
                .failover_percent
                .map(|percent| threshold(real_servers.len(), percent)),
            is_stopped: false,
        };
        let modes: Vec<_> = real_servers.iter().map(|real| (real.server.at, real.mode)).collect();
        ipvs::one_mode(ledger, &mut service, &modes);
        quorum(ledger, &settings, &mut service);
        if settings.is_failover {
            ipvs::weighted_failover(&mut service);
        }
        model.services.push(service);
    }
}

/// The servers that take over: backup servers, else sorry servers.
fn backup(ledger: &mut Ledger, settings: &Settings, backups: &[RealServer]) -> Pool {
    if backups.is_empty() {
        for server in &settings.sorry {
            let reason = "it became `secondary`: it takes over by `failover_threshold`, and the listener's check probes it, too";
            ledger.changed(server.at, reason);
        }
        return Pool { name: "sorry".to_owned(), servers: settings.sorry.clone() };
    }
    for server in &settings.sorry {
        ledger.left_out(
            server.at,
            "a listener has two groups of servers, and the backup servers are the second",
        );
    }
    Pool { name: "backup".to_owned(), servers: backups.iter().map(|real| real.server.clone()).collect() }
}

/// How many servers are this part of all.
fn threshold(servers: usize, percent: usize) -> usize {
    (servers.saturating_mul(percent.min(100))).div_ceil(100).max(1)
}

/// A sorry server takes over when less weight than the quorum is healthy.
fn quorum(ledger: &mut Ledger, settings: &Settings, service: &mut Service) {
    let Some((quorum, at)) = settings.quorum else { return };
    let mut weights: Vec<u64> = service.primary.servers.iter().map(|server| server.weight).collect();
    weights.retain(|weight| *weight > 0);
    weights.sort_unstable();
    if service.backup.servers.is_empty() {
        if quorum > 1 {
            ledger.left_out(
                at,
                "without a sorry server nothing takes over below the quorum: SLB serves with the rest",
            );
        } else {
            ledger.used(at);
        }
        return;
    }
    // The heaviest servers may be the first to fail.
    let mut left: u64 = weights.iter().fold(0, |sum, weight| sum.saturating_add(*weight));
    let mut unhealthy = 0;
    while left >= quorum.max(1) && unhealthy < weights.len() {
        left -= weights[weights.len() - 1 - unhealthy];
        unhealthy += 1;
    }
    service.failover_threshold = service.failover_threshold.or(Some(unhealthy.max(1)));
    if weights.iter().fold(0, |sum: u64, weight| sum.saturating_add(*weight)) < quorum {
        let reason = "the weights of all servers are below it: keepalived uses the sorry server always, SLB once the \
                      servers are unhealthy";
        ledger.changed(at, reason);
    } else if weights.iter().all(|weight| Some(weight) == weights.first()) {
        ledger.used(at);
    } else {
        ledger.changed(at, "SLB counts unhealthy servers and not their weight: `failover_threshold`");
    }
}
