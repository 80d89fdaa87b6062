//! Settings that sections inherit from `defaults`.

use std::{net::IpAddr, time::Duration};

use super::{
    address::{self, LOCAL_ADDRESS, TRANSPARENT},
    check::CheckSettings,
    lexer::Line,
    server::ServerOptions,
    without,
};
use crate::{
    ledger::{ACCESS, Ledger, PROXY, RATE},
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
    pub(super) client: Option<Time>,
    pub(super) server: Option<Time>,
    pub(super) tunnel: Option<Time>,
    /// How long the stick table keeps an address.
    pub(super) stick_table: Option<Time>,
    /// Whether connections of an address go to the server that is in the table.
    pub(super) sticks_to_address: bool,
    pub(super) default_server: ServerOptions,
    /// Name of the default backend, and where it is written.
    pub(super) backend: Option<(String, Lines)>,
    /// Whether it takes no traffic.
    pub(super) is_disabled: bool,
    /// Whether all backup servers receive traffic together.
    pub(super) has_all_backups: bool,
    /// Names of conditions about rates.
    pub(super) rate_acls: Vec<String>,
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
            ("disabled" | "enabled", _) => {
                self.is_disabled = line.keyword() == "disabled";
                ledger.used(at);
            }
            ("acl" | "tcp-request" | "http-request", _) => self.rule(ledger, line),
            ("option", "allbackups") => {
                self.has_all_backups = true;
                ledger.used(at);
            }
            ("no" | "default", "option") if line.word(2) == "allbackups" => {
                self.has_all_backups = false;
                ledger.used(at);
            }
            ("option" | "http-check" | "tcp-check" | "no" | "default", _)
                if self.check.take(ledger, line) => {}
            ("option", option) => ledger.left_out(at, option_reason(option)),
            ("no" | "default", "option") => ledger.left_out(at, option_reason(line.word(2))),
            ("no" | "default", keyword) => ledger.left_out(at, reason(keyword)),
            (keyword, _) => ledger.left_out(at, reason(keyword)),
        }
    }

    /// Notes a rule about clients, or a condition of rules.
    fn rule(&mut self, ledger: &mut Ledger, line: &Line) {
        let is_rate = |word: &String| is_rate(word) || self.rate_acls.iter().any(|name| name == word);
        let has_rate =
            line.from(1).iter().any(|word| is_rate(&word.trim_matches(['!', '{', '}']).to_owned()));
        let is_condition = |word: &&String| !matches!(word.as_str(), "if" | "unless");
        let mut actions = line.from(1).iter().take_while(is_condition);
        let refuses = |word: &String| matches!(word.as_str(), "reject" | "silent-drop" | "tarpit" | "deny");
        let reason = match line.keyword() {
            "acl" if has_rate => {
                self.rate_acls.push(line.word(1).to_owned());
                RATE
            }
            "acl" => reason("acl"),
            "tcp-request" if line.word(2) == "expect-proxy" => PROXY,
            _ if !actions.any(refuses) => reason(line.keyword()),
            _ if has_rate => RATE,
            _ => ACCESS,
        };
        ledger.left_out(line.at, reason);
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
            "check" => self.check.timeout = Some((limits::TIMEOUT.fit(ledger, at, time), at)),
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
        let fitted = limits::PERSISTENCE.fit(ledger, line.at, time.unwrap_or(hour));
        self.stick_table = Some((fitted, line.at));
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
        match (line.word(2), address::source(line.word(1))) {
            ("usesrc", _) => {
                self.is_transparent = true;
                ledger.changed(line.at, TRANSPARENT);
            }
            ("", Some(address)) => {
                self.local_addresses.push(address);
                ledger.changed(line.at, LOCAL_ADDRESS);
            }
            _ => ledger
                .left_out(line.at, "`local_addresses` of `[daemon]` is where connections to servers begin"),
        }
    }
}

/// Whether a word samples the rate or number of connections.
fn is_rate(word: &str) -> bool {
    const PREFIXES: [&str; 9] =
        ["sc0_", "sc1_", "sc2_", "sc_", "src_conn_", "src_sess_", "src_http_", "fe_", "be_"];
    PREFIXES.iter().any(|prefix| word.starts_with(prefix))
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
        "description" | "id" | "guid" => "SLB has no such setting",
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
        _ => "unknown directive",
    }
}
