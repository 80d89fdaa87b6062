//! Settings that sections inherit from `defaults`.

use std::{net::IpAddr, time::Duration};

use super::{check::CheckSettings, lexer::Line, server::ServerOptions, without};
use crate::{
    ledger::{ACCESS, Ledger},
    limits,
    model::Scheduler,
    source::Lines,
};

/// A time and where it is written.
pub(super) type Time = (Duration, Lines);

/// Settings of a section.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    /// Number of the `defaults` section that it inherits.
    pub(super) defaults: Option<usize>,
    pub(super) scheduler: Option<Scheduler>,
    pub(super) check: CheckSettings,
    pub(super) connect: Option<Duration>,
    pub(super) client: Option<Time>,
    pub(super) server: Option<Time>,
    pub(super) tunnel: Option<Time>,
    /// How long the stick table keeps an address.
    pub(super) stick_table: Option<Duration>,
    /// Whether connections of an address go to the server that is in the table.
    pub(super) sticks_to_address: bool,
    pub(super) default_server: ServerOptions,
    /// Name of the backend, and where it is written.
    pub(super) backend: Option<(String, Lines)>,
    /// Whether servers see the client's address.
    pub(super) is_transparent: bool,
    pub(super) local_addresses: Vec<IpAddr>,
}

impl Settings {
    /// Takes a line that may stand in any section. Lines without counterpart are noted.
    pub(super) fn take(&mut self, ledger: &mut Ledger, line: &Line) {
        let at = line.at;
        match (line.keyword(), line.word(1)) {
            ("mode", _) => ledger.used(at),
            ("balance", _) => self.balance(ledger, line),
            ("hash-type", "consistent") => ledger.used(at),
            ("hash-type", _) => ledger.changed(at, "hashes of SLB are always consistent"),
            ("timeout", name) => self.timeout(ledger, at, name, line.word(2)),
            ("contimeout", value) => self.timeout(ledger, at, "connect", value),
            ("clitimeout", value) => self.timeout(ledger, at, "client", value),
            ("srvtimeout", value) => self.timeout(ledger, at, "server", value),
            ("stick-table", _) => self.stick_table(ledger, line),
            ("stick", _) => self.stick(ledger, line),
            ("default-server", _) => self.default_server.take(ledger, at, line.from(1)),
            ("default_backend", name) => {
                ledger.used(at);
                self.backend = Some((name.to_owned(), at));
            }
            ("source", _) => self.source(ledger, line),
            ("tcp-request", _) if line.words.iter().any(|word| word == "reject") => {
                ledger.left_out(at, ACCESS);
            }
            ("option", "allbackups") => ledger.used(at),
            ("option" | "http-check" | "tcp-check", _) if self.check.take(ledger, line) => {}
            ("option", option) => ledger.left_out(at, option_reason(option)),
            (keyword, _) => ledger.left_out(at, reason(keyword)),
        }
    }

    fn balance(&mut self, ledger: &mut Ledger, line: &Line) {
        let (scheduler, note) = match line.word(1) {
            "roundrobin" | "static-rr" => (Scheduler::WeightedRoundRobin, None),
            "leastconn" => (Scheduler::WeightedLeastConnections, None),
            "source" => (
                Scheduler::MaglevClient,
                Some("`maglev-client` hashes the client's address; the hash itself differs"),
            ),
            "hash" if line.word(2) == "src" => (
                Scheduler::MaglevClient,
                Some("`maglev-client` hashes the client's address; the hash itself differs"),
            ),
            "first" | "random" | "log-hash" => (
                Scheduler::WeightedLeastConnections,
                Some("SLB does not have it: `wlc` is the nearest one (least connections by weight)"),
            ),
            _ => (
                Scheduler::Maglev,
                Some("SLB reads no content: `maglev` is consistent hashing of the client's address and port"),
            ),
        };
        self.scheduler = Some(scheduler);
        match note {
            None => ledger.used(line.at),
            Some(note) => ledger.changed(line.at, note),
        }
    }

    fn timeout(&mut self, ledger: &mut Ledger, at: Lines, name: &str, value: &str) {
        let Some(time) = limits::with_units(value, 1) else {
            return ledger.left_out(at, format!("`{value}` is no time"));
        };
        match name {
            "client" => self.client = Some((time, at)),
            "server" => self.server = Some((time, at)),
            "tunnel" => self.tunnel = Some((time, at)),
            "connect" => self.connect = Some(time),
            "check" => self.check.timeout = Some(limits::TIMEOUT.fit(ledger, at, time)),
            _ => {
                return without(
                    ledger,
                    at,
                    name,
                    "SLB holds no connections of its own: there is nothing to wait for",
                );
            }
        }
        ledger.used(at);
    }

    fn stick_table(&mut self, ledger: &mut Ledger, line: &Line) {
        let after = |name: &str| {
            let at = line.words.iter().position(|word| word == name)?;
            line.words.get(at + 1).map(String::as_str)
        };
        if !matches!(after("type"), Some("ip" | "ipv6")) {
            return ledger
                .left_out(line.at, "SLB persists by the client's address only: `session_persistence`");
        }
        let hour = Duration::from_secs(3600);
        let time = after("expire").and_then(|text| limits::with_units(text, 1));
        if time.is_none() {
            ledger.changed(line.at, "without a time it became 3600s, the longest of SLB");
        }
        self.stick_table = Some(limits::PERSISTENCE.fit(ledger, line.at, time.unwrap_or(hour)));
    }

    fn stick(&mut self, ledger: &mut Ledger, line: &Line) {
        let by_address = matches!((line.word(1), line.word(2)), ("on" | "match", "src"));
        let is_plain = line.words.len() == 3;
        if by_address && is_plain {
            self.sticks_to_address = true;
            ledger.used(line.at);
        } else {
            ledger.left_out(line.at, "SLB persists by the client's address only: `session_persistence`");
        }
    }

    fn source(&mut self, ledger: &mut Ledger, line: &Line) {
        let host = line.word(1).rsplit_once(':').filter(|(host, _)| !host.contains(':'));
        let host = host.map_or(line.word(1), |(host, _)| host);
        match (line.word(2), host.parse::<IpAddr>()) {
            ("usesrc", _) => {
                self.is_transparent = true;
                ledger.changed(
                    line.at,
                    "servers see the client's address in mode `nat`: they answer through this host",
                );
            }
            ("", Ok(address)) if !address.is_unspecified() => {
                self.local_addresses.push(address);
                ledger.changed(line.at, "it became one of `local_addresses`, which all listeners share");
            }
            _ => ledger
                .left_out(line.at, "`local_addresses` of `[daemon]` is where connections to servers begin"),
        }
    }
}

/// Why an option has no counterpart.
fn option_reason(option: &str) -> &'static str {
    match option {
        "tcplog"
        | "httplog"
        | "dontlognull"
        | "dontlog-normal"
        | "logasap"
        | "log-health-checks"
        | "httpslog"
        | "log-separate-errors" => "SLB logs no connections: `slb status` counts them",
        "redispatch" => "a connection stays with its server in SLB; new ones avoid unhealthy servers",
        "tcpka" | "clitcpka" | "srvtcpka" => {
            "client and server have one connection, and keep it alive themselves"
        }
        "splice-auto" | "splice-request" | "splice-response" | "tcp-smart-accept" | "tcp-smart-connect"
        | "nolinger" | "transparent" => "SLB forwards packets and holds no connections of its own",
        "forwardfor"
        | "httpclose"
        | "http-server-close"
        | "http-keep-alive"
        | "http-use-htx"
        | "forceclose"
        | "originalto"
        | "http-buffer-request"
        | "http-pretend-keepalive"
        | "http-ignore-probes" => "it is for HTTP",
        _ => "SLB has no such option",
    }
}

/// Why a keyword has no counterpart.
pub(super) fn reason(keyword: &str) -> &'static str {
    match keyword {
        "log" | "log-format" | "log-tag" | "unique-id-format" | "error-log-format" => {
            "SLB logs no connections: `slb status` counts them"
        }
        "maxconn" | "fullconn" | "backlog" => {
            "SLB has no limit of concurrent connections; `new_connections` limits new ones"
        }
        "rate-limit" => "write `new_connections` into the listener",
        "retries" | "retry-on" => "SLB forwards SYNs: clients try again themselves",
        "acl" | "tcp-request" | "tcp-response" | "use-server" => "SLB reads no content and has no rules",
        "stats" | "monitor-uri" | "monitor" | "monitor-net" => "SLB has `slb status` and its API",
        "http-request"
        | "http-response"
        | "http-after-response"
        | "errorfile"
        | "errorloc"
        | "compression"
        | "cookie"
        | "redirect"
        | "reqadd"
        | "rspadd"
        | "capture"
        | "option-http"
        | "http-reuse"
        | "http-error"
        | "appsession"
        | "reqidel"
        | "rspidel"
        | "reqrep" => "it is for HTTP",
        "description" | "id" | "disabled" | "enabled" | "guid" => {
            "SLB has no such setting; `state` stops a listener"
        }
        "email-alert" => "SLB sends no mails: its log and `slb status` show health",
        "bind-process" | "grace" | "nbproc" => "SLB forwards on all CPUs",
        "filter"
        | "declare"
        | "persist"
        | "force-persist"
        | "ignore-persist"
        | "load-server-state-from-file"
        | "server-state-file-name"
        | "tcp-check"
        | "http-check"
        | "http-send-name-header"
        | "dispatch"
        | "external-check" => "SLB has no such setting",
        _ => "`slb import` does not know it",
    }
}
