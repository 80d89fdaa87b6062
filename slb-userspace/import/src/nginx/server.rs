//! `server` blocks of `stream`, and the settings that they inherit.

use std::{net::IpAddr, time::Duration};

use super::address;
use crate::{
    ImportError, excerpt,
    ledger::{ACCESS, Ledger, PROXY},
    limits,
    model::{Check, CheckKind, Ports, Protocol, Vip},
    source::{Lines, Sources},
    tree::{Statement, leave_out_replaced},
};

/// Settings of `stream` and `server`.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    /// The silence after which nginx ends a connection, and where it is written.
    pub(super) timeout: Option<(Duration, Lines)>,
    pub(super) is_transparent: bool,
    pub(super) local_address: Option<IpAddr>,
    /// Whether the connection to the server is TLS that nginx originates.
    pub(super) is_encrypted: bool,
    /// The check of NGINX Plus.
    pub(super) check: Option<Check>,
}

/// Directives of which the last one holds.
pub(super) const ONCE: [&str; 5] = ["proxy_pass", "proxy_timeout", "proxy_bind", "proxy_ssl", "health_check"];

/// A server block.
#[derive(Debug)]
pub(super) struct StreamServer {
    pub(super) statement: Statement,
    pub(super) settings: Settings,
    pub(super) listens: Vec<(Vip, Protocol, Ports, Lines)>,
    /// What `proxy_pass` names, and where it is written.
    pub(super) target: Option<(String, Lines)>,
    /// Why it is not layer 4.
    pub(super) refused: Option<&'static str>,
    /// What to say of lines, if the server is part of the result.
    pub(super) ledger: Ledger,
}

impl Settings {
    /// Takes a directive that may stand in `stream` and in `server`. One without counterpart is noted.
    pub(super) fn take(&mut self, ledger: &mut Ledger, line: &Statement) {
        let at = line.whole;
        match line.keyword() {
            "proxy_timeout" => match limits::with_units(line.argument(1), 1000) {
                Some(time) => self.timeout = Some((limits::ESTABLISHED.fit(ledger, at, time), at)),
                None => ledger.left_out(at, "it is no time"),
            },
            "proxy_bind" if line.argument(1) == "off" => {
                self.is_transparent = false;
                match self.local_address.take() {
                    Some(_) => {
                        ledger.changed(at, "`local_addresses` of other servers hold for all listeners");
                    }
                    None => ledger.used(at),
                }
            }
            "proxy_bind" if line.words.iter().any(|word| word == "transparent") => {
                (self.is_transparent, self.local_address) = (true, None);
                ledger.changed(
                    at,
                    "servers see the client's address in mode `nat`: they answer through this host",
                );
            }
            "proxy_bind" => match line.argument(1).parse::<IpAddr>() {
                Ok(address) if !address.is_unspecified() => {
                    (self.is_transparent, self.local_address) = (false, Some(address));
                    ledger.changed(at, "it became one of `local_addresses`, which all listeners share");
                }
                _ => ledger
                    .left_out(at, "`local_addresses` of `[daemon]` is where connections to servers begin"),
            },
            "proxy_ssl" if line.argument(1) == "on" => {
                self.is_encrypted = true;
                ledger.left_out(at, "SLB forwards bytes as they are, and originates no TLS");
            }
            "proxy_ssl" if line.argument(1) == "off" => {
                if std::mem::take(&mut self.is_encrypted) {
                    ledger.used(at);
                } else {
                    ledger.left_out(at, "SLB originates no TLS anyway");
                }
            }
            "health_check" => self.check = Some(health_check(ledger, line)),
            keyword => line.leave_out(ledger, reason(keyword)),
        }
    }
}

/// The active check of NGINX Plus: `health_check interval=5 passes=1 fails=1 port=80 udp`.
fn health_check(ledger: &mut Ledger, line: &Statement) -> Check {
    let at = line.whole;
    ledger.used(at);
    let mut check = Check::new(CheckKind::Tcp);
    check.interval = Some(Duration::from_secs(5));
    (check.healthy, check.unhealthy) = (Some(1), Some(1));
    for word in line.words.iter().skip(1) {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match (name, value.parse::<u64>()) {
            ("interval", _) => {
                let time = limits::with_units(value, 1000);
                check.interval = time.map(|time| limits::INTERVAL.fit(ledger, at, time)).or(check.interval);
            }
            ("passes", Ok(count)) => {
                check.healthy = Some(limits::count(ledger, at, "healthy_threshold", count, 1..=10));
            }
            ("fails", Ok(count)) => {
                check.unhealthy = Some(limits::count(ledger, at, "unhealthy_threshold", count, 1..=10));
            }
            ("port", Ok(port @ 1..=65_535)) => check.port = u16::try_from(port).ok(),
            ("udp", _) => check.kind = CheckKind::Udp { request: None, expect: None },
            _ => ledger.left_out(at, format!("{}: SLB's check has no such setting", excerpt::word(name))),
        }
    }
    check
}

/// Why a directive has no counterpart.
fn reason(keyword: &str) -> &'static str {
    match keyword {
        "access_log" | "error_log" | "log_format" | "open_log_file_cache" => {
            "SLB logs no connections: `slb status` counts them"
        }
        "allow" | "deny" => ACCESS,
        "limit_conn" | "limit_conn_zone" | "limit_conn_log_level" => {
            "SLB has no limit of concurrent connections; `new_connections` limits new ones"
        }
        "proxy_download_rate" | "proxy_upload_rate" => {
            "a rate of each connection; `bandwidth` limits a listener"
        }
        "proxy_connect_timeout"
        | "proxy_next_upstream"
        | "proxy_next_upstream_timeout"
        | "proxy_next_upstream_tries"
        | "proxy_buffer_size"
        | "proxy_socket_keepalive"
        | "proxy_half_close"
        | "tcp_nodelay"
        | "preread_timeout"
        | "preread_buffer_size"
        | "proxy_session_drop" => "SLB forwards packets and holds no connections of its own",
        "proxy_protocol" => {
            "SLB sends no PROXY header, and servers must not expect one. `toa` and `slb-toa` give them the client's address"
        }
        "proxy_protocol_timeout" | "set_real_ip_from" => "SLB reads no PROXY header",
        "proxy_responses" | "proxy_requests" => "a UDP flow of SLB ends after 90 s without datagrams",
        "resolver" | "resolver_timeout" => "SLB looks up no host names",
        "ssl_preread" => "SLB does not read what connections carry",
        "health_check_timeout" | "match" => "SLB's check has no such setting",
        "check" => "a check of a module: write a `health_check` into the listener",
        "set"
        | "js_access"
        | "js_preread"
        | "js_filter"
        | "js_import"
        | "js_include"
        | "js_path"
        | "js_set"
        | "variables_hash_bucket_size"
        | "variables_hash_max_size"
        | "map_hash_bucket_size"
        | "map_hash_max_size"
        | "load_module"
        | "server_names_hash_bucket_size" => "SLB has no variables and runs no programs",
        "server_name" => "SLB does no content switching: a listener has an address and a port",
        keyword if keyword.starts_with("ssl_") || keyword.starts_with("proxy_ssl") => {
            "SLB forwards TLS as it is, and neither terminates nor originates it"
        }
        keyword
            if keyword.ends_with("_by_lua_block")
                || keyword.ends_with("_by_lua_file")
                || keyword.starts_with("lua_") =>
        {
            "SLB runs no programs"
        }
        _ => "unknown directive",
    }
}

/// Reads a block. `settings` are those of `stream`.
pub(super) fn read(
    sources: &Sources<'_>,
    statement: &Statement,
    settings: Settings,
) -> Result<StreamServer, ImportError> {
    let mut server = StreamServer {
        statement: statement.clone(),
        settings,
        listens: Vec::new(),
        target: None,
        refused: None,
        ledger: Ledger::default(),
    };
    statement.use_frame(&mut server.ledger);
    leave_out_replaced(&mut server.ledger, statement.statements(), &ONCE);
    for line in statement.statements() {
        match line.keyword() {
            "listen" => server.listen(sources, line)?,
            "proxy_pass" if line.argument(1).is_empty() => {
                return Err(sources.error(
                    line.head,
                    "`proxy_pass` without a server",
                    "a name or an address with port",
                ));
            }
            "proxy_pass" => {
                server.ledger.used(line.whole);
                server.target = Some((line.argument(1).to_owned(), line.whole));
            }
            "location" | "root" => {
                server.refused = Some("it is not layer 4: SLB forwards connections and reads no requests");
            }
            "return" => server.refused = Some("it answers by itself: SLB forwards connections"),
            _ => server.settings.take(&mut server.ledger, line),
        }
    }
    Ok(server)
}

impl StreamServer {
    fn listen(&mut self, sources: &Sources<'_>, line: &Statement) -> Result<(), ImportError> {
        let at = line.whole;
        if line.argument(1).is_empty() {
            return Err(sources.error(
                line.head,
                "`listen` without an address",
                "a port, or an address and port",
            ));
        }
        let has = |name: &str| line.words.iter().any(|word| word == name);
        if has("ssl") {
            line.leave_out(
                &mut self.ledger,
                "nginx terminates TLS here; SLB forwards TLS to servers as it is",
            );
            return Ok(());
        }
        let protocol = if has("udp") { Protocol::Udp } else { Protocol::Tcp };
        match address::listen(line.argument(1), has("ipv6only=off")) {
            Ok((vips, ports)) => {
                self.ledger.used(at);
                self.listens.extend(vips.into_iter().map(|vip| (vip, protocol, ports, at)));
            }
            Err(why) => {
                line.leave_out(&mut self.ledger, why);
                return Ok(());
            }
        }
        for word in line.words.iter().skip(2) {
            let name = word.split('=').next().unwrap_or(word);
            let reason = match name {
                "udp" | "ipv6only" | "bind" | "default_server" | "default" => continue,
                "proxy_protocol" => PROXY,
                _ => "it is for sockets, and SLB opens none",
            };
            self.ledger.left_out(at, format!("{}: {reason}", excerpt::word(name)));
        }
        Ok(())
    }
}
