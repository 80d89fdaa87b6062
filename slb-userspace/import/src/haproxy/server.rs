//! Options of `server` and `default-server`.

use std::{net::IpAddr, time::Duration};

use super::{
    address::{self, LOCAL_ADDRESS},
    without,
};
use crate::{ledger::Ledger, limits, source::Lines};

/// What a server has, in the terms of SLB.
#[derive(Debug, Clone, Default)]
pub(super) struct ServerOptions {
    pub(super) weight: Option<u64>,
    pub(super) is_checked: bool,
    pub(super) is_backup: bool,
    pub(super) is_disabled: bool,
    /// Whether the connection to the server is TLS that HAProxy originates.
    pub(super) is_encrypted: bool,
    pub(super) slow_start: Option<Duration>,
    /// Whether the server sees the client's address.
    pub(super) is_transparent: bool,
    /// Where connections to it begin.
    pub(super) local_address: Option<IpAddr>,
    pub(super) check: ServerCheck,
}

/// Settings of a check that each server has for itself in HAProxy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ServerCheck {
    pub(super) port: Option<u16>,
    pub(super) interval: Option<Duration>,
    pub(super) rise: Option<u64>,
    pub(super) fall: Option<u64>,
    pub(super) is_encrypted: bool,
    pub(super) verifies: bool,
    pub(super) host: Option<String>,
    pub(super) observes: bool,
    pub(super) error_limit: Option<u64>,
}

/// Options with a value that SLB does not have.
const WITH_VALUE: [&str; 52] = [
    "addr",
    "agent-addr",
    "agent-inter",
    "agent-port",
    "agent-send",
    "alpn",
    "ca-file",
    "cc",
    "check-alpn",
    "check-proto",
    "ciphers",
    "ciphersuites",
    "client-sigalgs",
    "cookie",
    "crl-file",
    "crt",
    "curves",
    "downinter",
    "fastinter",
    "guid",
    "hash-key",
    "id",
    "init-addr",
    "interface",
    "log-bufsize",
    "log-proto",
    "max-reuse",
    "maxconn",
    "maxqueue",
    "minconn",
    "namespace",
    "npn",
    "on-error",
    "on-marked-down",
    "on-marked-up",
    "pool-conn-name",
    "pool-low-conn",
    "pool-max-conn",
    "pool-purge-delay",
    "proto",
    "proxy-v2-options",
    "redir",
    "resolve-net",
    "resolve-opts",
    "resolve-prefer",
    "resolvers",
    "set-proxy-v2-tlv-fmt",
    "shard",
    "sigalgs",
    "socks4",
    "tcp-ut",
    "track",
];

impl ServerOptions {
    /// Takes the words after the address.
    pub(super) fn take(&mut self, ledger: &mut Ledger, at: Lines, words: &[String]) {
        ledger.used(at);
        let mut words = words.iter().map(String::as_str).peekable();
        while let Some(word) = words.next() {
            if self.flag(ledger, at, word) {
                continue;
            }
            if word == "source" {
                let source = words.next().unwrap_or_default();
                self.is_transparent = words.next_if(|next| *next == "usesrc").is_some();
                self.local_address = address::source(source).filter(|_| !self.is_transparent);
                match (self.is_transparent, self.local_address) {
                    // All servers of a backend decide.
                    (true, _) => _ = words.next(),
                    (false, Some(_)) => ledger.changed(at, LOCAL_ADDRESS),
                    (false, None) => without(ledger, at, word, reason(word)),
                }
                continue;
            }
            if matches!(word, "usesrc" | "ssl-max-ver" | "ssl-min-ver" | "ws" | "verifyhost")
                || WITH_VALUE.contains(&word)
            {
                words.next();
                without(ledger, at, word, reason(word));
                continue;
            }
            let is_known = matches!(
                word,
                "weight"
                    | "inter"
                    | "rise"
                    | "fall"
                    | "port"
                    | "slowstart"
                    | "verify"
                    | "sni"
                    | "check-sni"
                    | "observe"
                    | "error-limit"
            );
            if is_known {
                self.value(ledger, at, word, words.next().unwrap_or_default());
            } else {
                without(ledger, at, word, reason(word));
            }
        }
    }

    /// Takes an option without a value.
    fn flag(&mut self, ledger: &mut Ledger, at: Lines, word: &str) -> bool {
        match word {
            "check" => self.is_checked = true,
            "no-check" => self.is_checked = false,
            "backup" => self.is_backup = true,
            "no-backup" => self.is_backup = false,
            "disabled" => {
                self.is_disabled = true;
                ledger.changed(at, "a disabled server has weight 0: it receives no new connections");
            }
            "enabled" => self.is_disabled = false,
            "ssl" => {
                self.is_encrypted = true;
                self.check.is_encrypted = true;
            }
            "no-ssl" => self.is_encrypted = false,
            "check-ssl" => self.check.is_encrypted = true,
            "no-check-ssl" => self.check.is_encrypted = false,
            _ => return false,
        }
        true
    }

    fn value(&mut self, ledger: &mut Ledger, at: Lines, word: &str, value: &str) {
        let number = || value.parse::<u64>().ok();
        let is_read = match word {
            "weight" => {
                self.weight = number().or(self.weight);
                number().is_some()
            }
            "rise" | "fall" => {
                let count = number().map(|count| {
                    let name = if word == "rise" { "healthy_threshold" } else { "unhealthy_threshold" };
                    limits::count(ledger, at, name, count, 1..=10)
                });
                let field = if word == "rise" { &mut self.check.rise } else { &mut self.check.fall };
                *field = count.or(*field);
                count.is_some()
            }
            "inter" => {
                let time = limits::with_units(value, 1).map(|time| limits::INTERVAL.fit(ledger, at, time));
                self.check.interval = time.or(self.check.interval);
                time.is_some()
            }
            "slowstart" => {
                let time = limits::with_units(value, 1).map(|time| limits::SLOW_START.fit(ledger, at, time));
                self.slow_start = time.or(self.slow_start);
                time.is_some()
            }
            "port" => {
                self.check.port = value.parse().ok().filter(|port| *port != 0).or(self.check.port);
                self.check.port.is_some()
            }
            "verify" => {
                self.check.verifies = value == "required";
                true
            }
            "sni" | "check-sni" => {
                let host =
                    value.strip_prefix("str(").and_then(|rest| rest.strip_suffix(')')).unwrap_or(value);
                self.check.host = Some(host.to_owned()).filter(|host| limits::is_host(host));
                self.check.host.is_some()
            }
            "observe" => {
                self.check.observes = value == "layer4";
                self.check.observes
            }
            _ => {
                self.check.error_limit =
                    number().map(|count| limits::count(ledger, at, "failures", count, 2..=1000));
                self.check.error_limit.is_some()
            }
        };
        if !is_read {
            without(ledger, at, word, &format!("`{value}` is no value of it that SLB could use"));
        }
    }
}

/// Why an option has no counterpart.
fn reason(option: &str) -> &'static str {
    match option {
        "maxconn" | "maxqueue" | "minconn" => {
            "SLB has no limit of connections for a server; `new_connections` limits a listener"
        }
        "send-proxy"
        | "send-proxy-v2"
        | "send-proxy-v2-ssl"
        | "send-proxy-v2-ssl-cn"
        | "proxy-v2-options"
        | "set-proxy-v2-tlv-fmt" => {
            "SLB sends no PROXY header, and servers must not expect one. `toa` and `slb-toa` give them the client's address"
        }
        "check-send-proxy" => "checks of SLB send no PROXY header",
        "on-marked-down" | "on-marked-up" => {
            "`drain_timeout` of the listener ends connections of unhealthy servers"
        }
        "fastinter" | "downinter" => "checks of SLB have one interval",
        "addr" => "SLB probes the server's own address; `port` names another port",
        "track" => "each server of SLB has checks of its own",
        "init-addr" | "resolvers" | "resolve-prefer" | "resolve-net" | "resolve-opts" => {
            "SLB looks up no host names"
        }
        "cookie" | "redir" | "proto" | "alpn" | "npn" | "ws" | "max-reuse" | "pool-max-conn"
        | "pool-purge-delay" | "pool-low-conn" => "it is for HTTP",
        "source" | "usesrc" | "interface" | "namespace" => {
            "`local_addresses` of `[daemon]` is where connections to servers begin"
        }
        "ca-file" | "crl-file" | "verifyhost" | "crt" | "ciphers" | "ciphersuites" | "curves" | "sigalgs"
        | "ssl-min-ver" | "ssl-max-ver" | "force-tlsv12" | "no-sslv3" | "no-tlsv10" | "no-tlsv11"
        | "no-tls-tickets" => "SLB forwards TLS as it is; its checks verify by this machine's roots",
        "id" | "guid" => "SLB knows a server by its address and port",
        "on-error" => "passive checks of SLB eject a server for a time",
        "agent-check" | "agent-addr" | "agent-inter" | "agent-port" | "agent-send" => {
            "SLB has no agents: `slb server set --weight` changes weights at run time"
        }
        "non-stick" => "`session_persistence` holds for all servers of a listener",
        _ => "SLB has no such option",
    }
}
