//! `upstream` blocks.

use std::time::Duration;

use super::address;
use crate::{
    ImportError, excerpt,
    ledger::Ledger,
    limits,
    model::{Scheduler, Server},
    source::{Lines, Sources},
    tree::Statement,
};

/// Servers of a name.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) name: String,
    pub(super) whole: Lines,
    pub(super) statement: Statement,
    pub(super) scheduler: Scheduler,
    pub(super) servers: Vec<Server>,
    pub(super) backup: Vec<Server>,
    pub(super) slow_start: Option<Duration>,
    /// Failures and time after which nginx avoids a server; `None` for never.
    pub(super) passive: Option<(u64, Duration)>,
    /// What to say of lines, if the upstream is part of the result.
    pub(super) ledger: Ledger,
}

/// Balancing methods, of which the last one holds.
const METHODS: [&str; 4] = ["least_conn", "least_time", "random", "hash"];

/// Reads a block.
pub(super) fn read(sources: &Sources<'_>, statement: &Statement) -> Result<Upstream, ImportError> {
    if statement.argument(1).is_empty() || statement.block.is_none() {
        return Err(sources.error(statement.head, "`upstream` without name or block", "`upstream NAME {`"));
    }
    let mut upstream = Upstream {
        name: statement.argument(1).to_owned(),
        whole: statement.whole,
        statement: statement.clone(),
        scheduler: Scheduler::WeightedRoundRobin,
        servers: Vec::new(),
        backup: Vec::new(),
        slow_start: None,
        passive: Some((1, Duration::from_secs(10))),
        ledger: Ledger::default(),
    };
    statement.use_frame(&mut upstream.ledger);
    let mut passive: Option<Passive> = None;
    let methods = statement.statements().iter().filter(|line| METHODS.contains(&line.keyword()));
    let methods: Vec<&Statement> = methods.collect();
    if let [replaced @ .., last] = methods.as_slice() {
        for line in replaced {
            line.leave_out(&mut upstream.ledger, &format!("line {} sets it again", last.head.first));
        }
    }
    for line in statement.statements() {
        match line.keyword() {
            "server" => {
                let own = upstream.server(line);
                match (&passive, own) {
                    (None, Some(own)) => passive = Some(own),
                    (Some(first), Some(own)) if *first != own => {
                        let reason = "all servers of a listener have the same passive checks: those of the first server";
                        upstream.ledger.changed(line.head, reason);
                    }
                    _ => {}
                }
            }
            "least_conn" => upstream.schedule(line, Scheduler::WeightedLeastConnections, None),
            "least_time" | "random" => upstream.schedule(
                line,
                Scheduler::WeightedLeastConnections,
                Some("SLB does not have it: `wlc` is the nearest one (least connections by weight)"),
            ),
            "hash" => {
                let key = line.argument(1);
                let (scheduler, note) = match key {
                    "$remote_addr" | "$binary_remote_addr" => (
                        Scheduler::MaglevClient,
                        "`maglev-client` hashes the client's address consistently; the hash itself differs",
                    ),
                    _ => (
                        Scheduler::Maglev,
                        "SLB has no variables: `maglev` is consistent hashing of the client's address and port",
                    ),
                };
                upstream.schedule(line, scheduler, Some(note));
            }
            "zone" | "state" | "keepalive" => {
                line.leave_out(&mut upstream.ledger, "SLB has no workers that share memory");
            }
            _ => line.leave_out(&mut upstream.ledger, "unknown directive"),
        }
    }
    if let Some(passive) = passive {
        upstream.passive = passive.settings();
    }
    Ok(upstream)
}

#[derive(Debug, PartialEq, Eq)]
struct Passive {
    failures: u64,
    within: Duration,
}

impl Passive {
    fn settings(&self) -> Option<(u64, Duration)> {
        (self.failures > 0).then_some((self.failures, self.within))
    }
}

impl Upstream {
    fn schedule(&mut self, line: &Statement, scheduler: Scheduler, note: Option<&str>) {
        self.scheduler = scheduler;
        match note {
            None => self.ledger.used(line.whole),
            Some(note) => self.ledger.changed(line.whole, note),
        }
    }

    /// Reads a server. Returns its passive checks.
    fn server(&mut self, line: &Statement) -> Option<Passive> {
        let at = line.whole;
        let (host, port) = match address::server(line.argument(1)) {
            Ok(endpoint) => endpoint,
            Err(why) => {
                line.leave_out(&mut self.ledger, why);
                return None;
            }
        };
        self.ledger.used(at);
        let mut server = Server { at, host, port, weight: 1 };
        let mut passive = Passive { failures: 1, within: Duration::from_secs(10) };
        let (mut is_backup, mut is_down) = (false, false);
        for word in line.words.iter().skip(2) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let time = || limits::with_units(value, 1000);
            match name {
                "weight" => match value.parse() {
                    Ok(weight) => server.weight = weight,
                    Err(_) => self.ledger.left_out(at, "`weight` is no number"),
                },
                "max_fails" => passive.failures = value.parse().unwrap_or(1),
                "fail_timeout" => passive.within = time().unwrap_or(passive.within),
                "slow_start" => {
                    let time = time().filter(|time| !time.is_zero());
                    self.slow_start = time.map(|time| limits::SLOW_START.fit(&mut self.ledger, at, time));
                }
                "backup" => is_backup = true,
                "down" => {
                    is_down = true;
                    self.ledger
                        .changed(at, "a server that is `down` has weight 0: it receives no new connections");
                }
                _ => self.ledger.left_out(at, format!("{}: {}", excerpt::word(name), parameter_reason(name))),
            }
        }
        if is_down {
            server.weight = 0;
        }
        if is_backup {
            self.backup.push(server);
        } else {
            self.servers.push(server);
        }
        Some(passive)
    }
}

fn parameter_reason(name: &str) -> &'static str {
    match name {
        "max_conns" => "SLB has no limit of connections for a server; `new_connections` limits a listener",
        "resolve" | "service" => "SLB looks up no host names",
        _ => "SLB has no such parameter",
    }
}
