//! A `virtual_server` with its real servers.

use std::time::Duration;

use super::{
    Endpoint, check,
    real_server::{self, RealServer},
};
use crate::{
    ipvs,
    ledger::Ledger,
    limits,
    model::{Check, CheckKind, Mode, Model, Pool, Protocol, Scheduler, Server, Service},
    source::Lines,
    tree::Statement,
};

/// Persistence without a number.
const DEFAULT_PERSISTENCE: Duration = Duration::from_secs(360);

/// Settings of a virtual server that its real servers inherit, or that describe the service.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) protocol: Protocol,
    pub(super) mode: Mode,
    scheduler: Scheduler,
    is_failover: bool,
    persistence: Option<Duration>,
    pub(super) timing: check::Timing,
    pub(super) weight: u64,
    quorum: Option<(u64, Lines)>,
    /// Percent of the real servers that must be unhealthy before backup servers take over.
    failover_percent: Option<usize>,
    sorry: Vec<Server>,
}

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
    let settings = settings(ledger, statement);
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
    if weights.iter().all(|weight| Some(weight) == weights.first()) {
        ledger.used(at);
    } else {
        ledger.changed(at, "SLB counts unhealthy servers and not their weight: `failover_threshold`");
    }
}

fn settings(ledger: &mut Ledger, statement: &Statement) -> Settings {
    let mut settings = Settings {
        protocol: Protocol::Tcp,
        mode: Mode::Nat,
        scheduler: Scheduler::WeightedLeastConnections,
        is_failover: false,
        persistence: None,
        timing: check::Timing::default(),
        weight: 1,
        quorum: None,
        failover_percent: None,
        sorry: Vec::new(),
    };
    let has_flag = |line: &Statement| matches!(line.keyword(), "sh-port" | "mh-port" | "flag-2");
    let hashes_port = statement.statements().iter().any(has_flag);
    for line in statement.statements() {
        let (at, value) = (line.head, line.argument(1));
        match line.keyword() {
            "real_server" | "backup_real_server" => {}
            "failover_threshold" => match value.parse() {
                Ok(percent) => {
                    settings.failover_percent = Some(percent);
                    ledger.changed(at, "percent of the servers became a number of servers");
                }
                Err(_) => ledger.left_out(at, "it is no number of percent"),
            },
            "laddr_group_name" => ledger.changed(at, "`local_addresses` are those of all listeners"),
            "protocol" => {
                ledger.used(at);
                if value.eq_ignore_ascii_case("udp") {
                    settings.protocol = Protocol::Udp;
                } else if !value.eq_ignore_ascii_case("tcp") {
                    ledger.changed(at, "SLB forwards TCP and UDP: it became TCP");
                }
            }
            "lb_algo" | "lvs_sched" => {
                settings.scheduler = ipvs::scheduler(ledger, at, value, hashes_port);
                settings.is_failover = value == "fo";
            }
            "lb_kind" | "lvs_method" => settings.mode = mode(ledger, line),
            "persistence_timeout" => persistence(ledger, &mut settings, line),
            "quorum" => match value.parse() {
                Ok(quorum) => {
                    if let Some((_, before)) = settings.quorum.replace((quorum, at)) {
                        ledger.left_out(before, format!("line {} sets it again", at.first));
                    }
                }
                Err(_) => ledger.left_out(at, format!("`{value}` is no number")),
            },
            "weight" => weight(ledger, line, &mut settings.weight),
            "sorry_server" => {
                let port = line.argument(2).parse().ok().filter(|port| *port != 0);
                settings.sorry.push(Server { at, host: value.to_owned(), port, weight: 1 });
            }
            "sh-port" | "mh-port" | "flag-2" => ledger.used(at),
            _ if settings.timing.take(ledger, line) => {}
            keyword => line.leave_out(ledger, reason(keyword)),
        }
    }
    settings
}

/// Reads a weight.
pub(super) fn weight(ledger: &mut Ledger, line: &Statement, weight: &mut u64) {
    match line.argument(1).parse() {
        Ok(value) => {
            *weight = value;
            ledger.used(line.head);
        }
        Err(_) => ledger.left_out(line.head, "the weight is no number from 0: it stays 1"),
    }
}

fn persistence(ledger: &mut Ledger, settings: &mut Settings, line: &Statement) {
    let time = match line.argument(1) {
        "" => Some(DEFAULT_PERSISTENCE),
        text => text.parse().ok().map(Duration::from_secs),
    };
    match time {
        Some(Duration::ZERO) => ledger.used(line.head),
        Some(time) => settings.persistence = Some(limits::PERSISTENCE.fit(ledger, line.head, time)),
        None => ledger.left_out(line.head, "the time is no number of seconds"),
    }
}

/// The mode of `lb_kind`.
pub(super) fn mode(ledger: &mut Ledger, line: &Statement) -> Mode {
    ledger.used(line.head);
    let rest = line.words.get(2..).unwrap_or_default();
    match line.argument(1).to_ascii_uppercase().as_str() {
        "NAT" => Mode::Nat,
        "DR" => Mode::Dsr,
        "FULLNAT" | "FNAT" => Mode::FullNat,
        "TUN" if rest.iter().any(|word| word == "gue") => {
            ledger.changed(
                line.head,
                "the port of GUE tunnels is `gue_port` of `[daemon]`, one for all servers",
            );
            Mode::Gue
        }
        "TUN" => {
            if rest.iter().any(|word| word == "gre") {
                ledger.changed(
                    line.head,
                    "SLB has no GRE tunnels: it became `ipip`, which servers must accept",
                );
            }
            Mode::Ipip
        }
        _ => {
            ledger.changed(line.head, "no mode of IPVS (NAT, DR, TUN): it became `nat`");
            Mode::Nat
        }
    }
}

/// Why a keyword has no counterpart.
pub(super) fn reason(keyword: &str) -> &'static str {
    match keyword {
        "persistence_granularity" => "persistence of SLB is that of single addresses, not of networks",
        "alpha" | "omega" | "warmup" | "delay_before_retry" | "hysteresis" | "delay_loop_jitter" => {
            "SLB has its own timing: a new server is probed before it receives traffic"
        }
        "failover_up" | "failover_down" | "quorum_up" | "quorum_down" | "notify_up" | "notify_down"
        | "smtp_alert" => "SLB starts no programs and sends no mails: its log and `slb status` show health",
        "ops" => {
            "each datagram goes to a server of its own in IPVS; SLB keeps the datagrams of a flow together"
        }
        "inhibit_on_failure" | "sorry_server_inhibit" => {
            "an unhealthy server keeps its connections in SLB anyway; `drain_timeout` ends them"
        }
        "uthreshold" | "lthreshold" => {
            "SLB has no limit of connections for a server; `new_connections` limits a listener"
        }
        "nat_mask" | "net_mask" => "IPVS needs no mask any more",
        "ha_suspend" => "SLB checks servers whether or not the VIP is an address of this host",
        "sh-fallback" | "mh-fallback" | "flag-1" => {
            "consistent hashing of SLB always chooses another healthy server"
        }
        "ip_family" => "SLB takes the family from the addresses",
        "syn_proxy" => "write `syn_cookies` into the listener",
        "bps_limit" | "cps_limit" => "write `bandwidth` or `new_connections` into the listener",
        "est_timeout" => "write `established_timeout` into the listener",
        "virtualhost" => "only HTTP checks have a host",
        _ => "`slb import` does not know it",
    }
}

/// The check of servers without one.
pub(super) const fn unchecked() -> Check {
    Check::new(CheckKind::None)
}
