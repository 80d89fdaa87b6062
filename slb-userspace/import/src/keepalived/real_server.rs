//! A `real_server` and its checks.

use std::collections::BTreeSet;

use super::{
    check,
    reason::reason,
    settings::{Settings, mode, weight},
};
use crate::{
    ledger::Ledger,
    model::{Check, CheckKind, Mode, Protocol, Server},
    source::Lines,
    tree::{Statement, leave_out_replaced},
};

/// A server with its check.
pub(super) struct RealServer {
    pub(super) server: Server,
    pub(super) mode: Mode,
    /// The first check that SLB can express, its place, and what it does with its lines.
    check: Option<(check::Read, Lines, Ledger)>,
    /// Settings of its checks outside of them.
    timing: Vec<Lines>,
}

/// Reads a server. `None` if it is left out.
pub(super) fn read(ledger: &mut Ledger, settings: &Settings, statement: &Statement) -> Option<RealServer> {
    let host = statement.argument(1).to_owned();
    let port = match statement.argument(2) {
        "" => None,
        text => match text.parse::<u16>() {
            Ok(port) => Some(port).filter(|port| *port != 0),
            Err(_) => {
                statement.leave_out(ledger, "its port is no number from 0 to 65535");
                return None;
            }
        },
    };
    if host.is_empty() {
        statement.leave_out(ledger, "it has no address");
        return None;
    }
    statement.use_frame(ledger);
    leave_out_replaced(ledger, statement.statements(), &["weight", "lb_kind", "lvs_method"]);
    let mut real = RealServer {
        server: Server { at: statement.head, host, port, weight: settings.weight },
        mode: settings.mode,
        check: None,
        timing: Vec::new(),
    };
    let mut timing = settings.timing.clone();
    for line in statement.statements() {
        match line.keyword() {
            "weight" => weight(ledger, line, &mut real.server.weight),
            "lb_kind" | "lvs_method" => real.mode = mode(ledger, line),
            keyword if check::is_check(keyword) => {}
            _ if timing.take(ledger, line) => {}
            keyword => line.leave_out(ledger, reason(keyword)),
        }
    }
    real.timing = timing.own_lines(&settings.timing);
    for line in statement.statements().iter().filter(|line| check::is_check(line.keyword())) {
        if real.check.is_some() {
            line.leave_out(ledger, "SLB has one check for each listener, and the server has one before it");
            continue;
        }
        let mut own = Ledger::default();
        match check::read(&mut own, &timing, line, settings.protocol == Protocol::Tcp) {
            Ok(mut read) => {
                read.check.port = read.check.port.filter(|port| Some(*port) != real.server.port);
                real.check = Some((read, line.whole, own));
            }
            Err(reason) => line.leave_out(ledger, reason),
        }
    }
    Some(real)
}

/// The check of all servers: that of the first one. Others that differ are left out.
pub(super) fn common_check(ledger: &mut Ledger, settings: &Settings, servers: &[&RealServer]) -> Check {
    let mut common: Option<(&Check, usize)> = None;
    let (mut timing, mut effective) = (BTreeSet::new(), BTreeSet::new());
    for (real, (read, at, own)) in servers.iter().filter_map(|real| Some((real, real.check.as_ref()?))) {
        let check = &read.check;
        if common.is_none_or(|(first, _)| first == check) {
            timing.extend(&read.timing);
            effective.extend(&read.effective);
        }
        match common {
            None => {
                common = Some((check, at.first));
                ledger.absorb(own);
            }
            Some((first, _)) if first == check => ledger.absorb(own),
            Some((_, line)) => {
                for at in real.timing.iter().chain([at]) {
                    let reason = format!("all servers of a listener have one check: that of line {line}");
                    ledger.left_out(*at, reason);
                }
            }
        }
    }
    for at in servers.iter().filter(|real| real.check.is_none()).flat_map(|real| &real.timing) {
        ledger.left_out(*at, check::WITHOUT_CHECK);
    }
    let Some((check, _)) = common else {
        settings.timing.leave_out(ledger);
        return Check::new(CheckKind::None);
    };
    timing.extend(&settings.timing.at);
    for at in timing.difference(&effective) {
        ledger.left_out(*at, "an inner setting replaces it, or the check does not use it");
    }
    for real in servers.iter().filter(|real| real.check.is_none()) {
        ledger.changed(real.server.at, "the server had no check: that of the listener probes it too");
    }
    check.clone()
}
