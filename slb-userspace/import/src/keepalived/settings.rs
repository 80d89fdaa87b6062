//! Settings of a virtual server, and lines that real servers have, too.

use std::time::Duration;

use super::{check, reason::reason};
use crate::{
    ipvs,
    ledger::Ledger,
    limits,
    model::{Mode, Protocol, Scheduler, Server},
    source::Lines,
    tree::{Statement, leave_out_replaced},
};

/// Persistence without a number.
const DEFAULT_PERSISTENCE: Duration = Duration::from_secs(360);

/// Settings of a virtual server that its real servers inherit, or that describe the service.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) protocol: Protocol,
    pub(super) mode: Mode,
    pub(super) scheduler: Scheduler,
    pub(super) is_failover: bool,
    pub(super) persistence: Option<Duration>,
    pub(super) timing: check::Timing,
    pub(super) weight: u64,
    pub(super) quorum: Option<(u64, Lines)>,
    /// Percent of the real servers that must be unhealthy before backup servers take over.
    pub(super) failover_percent: Option<usize>,
    pub(super) sorry: Vec<Server>,
}

/// Reads the settings of a virtual server.
pub(super) fn read(ledger: &mut Ledger, statement: &Statement) -> Settings {
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
    const ONCE: [&str; 6] =
        ["protocol", "lb_algo", "lvs_sched", "lb_kind", "lvs_method", "persistence_timeout"];
    leave_out_replaced(ledger, statement.statements(), &ONCE);
    let has_flag = |line: &Statement| matches!(line.keyword(), "sh-port" | "mh-port" | "flag-2");
    let mut flags = Vec::new();
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
            "sh-port" | "mh-port" | "flag-2" => flags.push(at),
            _ if settings.timing.take(ledger, line) => {}
            keyword => line.leave_out(ledger, reason(keyword)),
        }
    }
    let hashes = matches!(settings.scheduler, Scheduler::Maglev | Scheduler::MaglevClient);
    for at in flags {
        if hashes { ledger.used(at) } else { ledger.left_out(at, "only hashing schedulers have it") }
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
