//! Checks of real servers.

use std::time::Duration;

use super::{dns, reason::reason};
use crate::{
    ledger::Ledger,
    limits,
    model::{Check, CheckKind, HttpCheck, Status},
    source::Lines,
    tree::{Statement, leave_out_replaced},
};

/// Why timing of servers without check is left out.
pub(super) const WITHOUT_CHECK: &str = "without a check it has no effect";

/// Settings that virtual servers, real servers and checks may have, the inner ones before the outer ones.
#[derive(Debug, Clone, Default)]
pub(super) struct Timing {
    interval: Option<(Duration, Lines)>,
    timeout: Option<(Duration, Lines)>,
    retries: Option<(u64, Lines)>,
    /// Between a failure and the next attempt.
    delay: Option<(Duration, Lines)>,
    host: Option<(String, Lines)>,
    /// The lines of all these settings.
    pub(super) at: Vec<Lines>,
}

/// A check, and what it takes of the settings.
pub(super) struct Read {
    pub(super) check: Check,
    /// The lines of all settings that it could have.
    pub(super) timing: Vec<Lines>,
    /// Those that have an effect.
    pub(super) effective: Vec<Lines>,
}

impl Timing {
    /// Takes a line, if it is one of these settings.
    pub(super) fn take(&mut self, ledger: &mut Ledger, line: &Statement) -> bool {
        let (at, value) = (line.head, line.argument(1));
        let time = || limits::fraction(value);
        let is_read = match line.keyword() {
            "delay_loop" => {
                let interval = time().map(|time| (limits::INTERVAL.fit(ledger, at, time), at));
                self.interval = interval.or(self.interval);
                time().is_some()
            }
            "connect_timeout" => {
                let timeout = time().map(|time| (limits::TIMEOUT.fit(ledger, at, time), at));
                self.timeout = timeout.or(self.timeout);
                time().is_some()
            }
            "retry" | "nb_get_retry" | "nb_sock_retry" => {
                let retries: Option<u64> = value.parse().ok();
                self.retries = retries.map(|retries| (retries, at)).or(self.retries);
                retries.is_some()
            }
            "delay_before_retry" => {
                self.delay = time().map(|time| (time, at)).or(self.delay);
                time().is_some()
            }
            "virtualhost" => {
                self.host = limits::is_host(value).then(|| (value.to_owned(), at));
                self.host.is_some()
            }
            _ => return false,
        };
        if is_read {
            ledger.used(at);
            self.at.push(at);
        } else {
            ledger.left_out(at, format!("`{value}` is no value of it that SLB could use"));
        }
        true
    }

    /// The lines of these settings that are not among those of an outer block.
    pub(super) fn own_lines(&self, outer: &Self) -> Vec<Lines> {
        self.at.iter().filter(|at| !outer.at.contains(at)).copied().collect()
    }

    /// Notes that these settings have no effect without a check.
    pub(super) fn leave_out(&self, ledger: &mut Ledger) {
        for at in &self.at {
            ledger.left_out(*at, WITHOUT_CHECK);
        }
    }

    /// The interval of SLB without a setting.
    const fn default_interval(kind: &CheckKind) -> Duration {
        match kind {
            CheckKind::Udp { .. } => Duration::from_secs(5),
            _ => Duration::from_secs(2),
        }
    }

    /// Sets the failures after which a server is unhealthy. keepalived has retries, SLB further probes.
    fn retries(&self, ledger: &mut Ledger, check: &mut Check, kind: &str) {
        let interval = self.interval.map_or(Self::default_interval(&check.kind), |(time, _)| time);
        let (default, delay) = match kind {
            "DNS_CHECK" => (Some(3), interval),
            "MISC_CHECK" => (None, Duration::from_secs(1)),
            "HTTP_GET" | "SSL_GET" => (Some(1), Duration::from_secs(3)),
            _ => (Some(1), Duration::from_secs(1)),
        };
        let delay = self.delay.map_or(delay, |(delay, _)| delay);
        let Some(retries) = self.retries.map(|(retries, _)| retries).or(default) else {
            if let Some((_, at)) = self.delay {
                ledger.left_out(at, "without `retry` it has no effect");
            }
            return;
        };
        let probes = retries.saturating_add(1);
        let probes = match self.retries {
            Some((_, at)) => limits::count(ledger, at, "unhealthy_threshold", probes, 1..=10),
            None => probes,
        };
        check.unhealthy = Some(probes);
        let times = |time: Duration, count: u64| {
            limits::text(time.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)))
        };
        let reason = format!(
            "a server is unhealthy in keepalived {} after the first failure (`delay_before_retry` is {}), in SLB after {} \
             (`interval` is {})",
            times(delay, retries),
            limits::text(delay),
            times(interval, probes - 1),
            limits::text(interval),
        );
        for at in [self.retries.map(|(_, at)| at), self.delay.map(|(_, at)| at)].into_iter().flatten() {
            ledger.changed(at, reason.clone());
        }
    }
}

/// Whether a keyword begins a check.
pub(super) fn is_check(keyword: &str) -> bool {
    keyword.ends_with("_CHECK") || matches!(keyword, "HTTP_GET" | "SSL_GET")
}

/// Reads a check.
///
/// # Errors
/// Why SLB cannot have it.
pub(super) fn read(
    ledger: &mut Ledger,
    outer: &Timing,
    statement: &Statement,
    is_tcp: bool,
) -> Result<Read, &'static str> {
    statement.use_frame(ledger);
    leave_out_replaced(
        ledger,
        statement.statements(),
        &["connect_port", "payload", "require_reply", "type", "name"],
    );
    let kind = statement.keyword();
    let mut check = match kind {
        "TCP_CHECK" => Check::new(CheckKind::Tcp),
        "HTTP_GET" | "SSL_GET" => {
            let http = limits::http(kind == "SSL_GET", true, vec![Status::Class(2)]);
            Check::new(CheckKind::Http(http))
        }
        "SMTP_CHECK" => {
            ledger.changed(statement.head, "SLB does not speak SMTP: a TCP connection is checked");
            Check::new(CheckKind::Tcp)
        }
        "PING_CHECK" => Check::new(CheckKind::Icmp),
        "UDP_CHECK" => Check::new(CheckKind::Udp { request: None, expect: None }),
        "DNS_CHECK" => dns_check(ledger, statement)?,
        "MISC_CHECK" if is_tcp => {
            ledger.changed(statement.head, "SLB runs no scripts: a TCP connection is checked in its place");
            Check::new(CheckKind::Tcp)
        }
        "MISC_CHECK" => {
            return Err("SLB runs no scripts: write a `health_check` if the service has one that SLB knows");
        }
        _ => return Err("SLB has no check of this kind"),
    };
    let mut timing = outer.clone();
    let mut has_url = false;
    for line in statement.statements() {
        let (at, value) = (line.head, line.argument(1));
        match line.keyword() {
            "url" => {
                if let (CheckKind::Http(http), false) = (&mut check.kind, has_url) {
                    has_url = true;
                    url(ledger, line, http);
                } else {
                    line.leave_out(ledger, "SLB probes one path");
                }
            }
            "connect_port" => {
                check.port = value.parse().ok().filter(|port| *port != 0);
                if check.port.is_some() { ledger.used(at) } else { ledger.left_out(at, "it is no port") }
            }
            "payload" | "require_reply" => udp_payload(ledger, line, &mut check.kind),
            "type" | "name" if kind == "DNS_CHECK" => ledger.used(at),
            "enable_sni" if kind == "SSL_GET" => ledger.changed(at, "SLB sends the host of the check as SNI"),
            "enable_sni" => ledger.left_out(at, "only TLS checks have it"),
            "misc_timeout" => match limits::fraction(value) {
                Some(time) => {
                    timing.timeout = Some((limits::TIMEOUT.fit(ledger, at, time), at));
                    timing.at.push(at);
                }
                None => ledger.left_out(at, "it is no time"),
            },
            _ if timing.take(ledger, line) => {}
            keyword => line.leave_out(ledger, check_reason(keyword)),
        }
    }
    timing.retries(ledger, &mut check, kind);
    if let CheckKind::Udp { request: None, .. } = check.kind {
        for line in statement.statements().iter().filter(|line| line.keyword() == "require_reply") {
            ledger.left_out(line.head, "without `payload` SLB sends an empty probe and expects no reply");
        }
    }
    let effective = finish(&mut check, &timing);
    Ok(Read { check, timing: timing.at, effective })
}

/// Gives a check its timing. Returns the lines with an effect.
fn finish(check: &mut Check, timing: &Timing) -> Vec<Lines> {
    check.interval = timing.interval.map(|(time, _)| time);
    check.timeout = timing.timeout.map(|(time, _)| time);
    // keepalived takes a server back after one success.
    check.healthy = Some(1);
    let places = [timing.interval, timing.timeout, timing.delay].into_iter().flatten().map(|(_, at)| at);
    let mut effective: Vec<Lines> = places.chain(timing.retries.map(|(_, at)| at)).collect();
    if let (CheckKind::Http(http), Some((host, at))) = (&mut check.kind, &timing.host)
        && http.host.is_none()
    {
        http.host = Some(host.clone());
        effective.push(*at);
    }
    if let CheckKind::Udp { request: None, expect } = &mut check.kind {
        *expect = None;
    }
    effective
}

fn check_reason(keyword: &str) -> &'static str {
    match keyword {
        "connect_ip" => "SLB probes the server's own address; `port` names another port",
        "bindto" | "bind_to" | "bind_port" | "bind_if" => {
            "`probe_source` of `[daemon]` is where all checks come from"
        }
        "fwmark" => "`probe_mark` of `[daemon]` is the mark of all checks",
        "misc_path" | "misc_dynamic" | "user" => "SLB runs no scripts",
        "http_protocol" | "fast_recovery" | "tls_compliant" => "SLB's check has no such setting",
        "helo_name" | "host" => "SLB does not speak SMTP",
        other => reason(other),
    }
}

/// Reads a `url` block.
fn url(ledger: &mut Ledger, statement: &Statement, http: &mut HttpCheck) {
    statement.use_frame(ledger);
    leave_out_replaced(ledger, statement.statements(), &["path", "virtualhost", "status_code"]);
    for line in statement.statements() {
        let (at, value) = (line.head, line.argument(1));
        match line.keyword() {
            "path" if limits::is_path(value) => {
                value.clone_into(&mut http.path);
                ledger.used(at);
            }
            "virtualhost" if limits::is_host(value) => {
                http.host = Some(value.to_owned());
                ledger.used(at);
            }
            "status_code" => match status_codes(&line.words[1..]) {
                Some(statuses) => {
                    http.expect = statuses;
                    ledger.used(at);
                }
                None => ledger.left_out(at, "SLB expects statuses from 200 to 599: \"2xx\" is expected"),
            },
            "path" | "virtualhost" => ledger.left_out(at, "it has characters that a request cannot have"),
            _ => line.leave_out(ledger, "SLB reads the status of the answer, and not its content"),
        }
    }
}

/// Statuses and ranges of them: `200 204 300-399`.
fn status_codes(words: &[String]) -> Option<Vec<Status>> {
    let mut found = Vec::new();
    for word in words.iter().flat_map(|word| word.split(',')).filter(|word| !word.is_empty()) {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        found.extend(limits::statuses(first.parse().ok()?, last.parse().ok()?)?);
    }
    (!found.is_empty()).then_some(found)
}

/// Bytes in hexadecimal digits, in which keepalived allows spaces.
fn udp_payload(ledger: &mut Ledger, line: &Statement, kind: &mut CheckKind) {
    let CheckKind::Udp { request, expect } = kind else {
        return line.leave_out(ledger, "only UDP checks have it");
    };
    let digits: String = line.words[1..].concat().chars().filter(|c| !c.is_whitespace()).collect();
    let digits = digits.strip_prefix("0x").unwrap_or(&digits).to_lowercase();
    let is_hex = digits.chars().all(|c| c.is_ascii_hexdigit());
    if digits.is_empty() || !is_hex || !digits.len().is_multiple_of(2) || digits.len() > 1000 {
        return line.leave_out(ledger, "SLB expects 1 to 500 bytes here");
    }
    let field = if line.keyword() == "payload" { request } else { expect };
    *field = Some(format!("hex:{digits}"));
    ledger.used(line.head);
}

fn dns_check(ledger: &mut Ledger, statement: &Statement) -> Result<Check, &'static str> {
    let value = |keyword: &str, default: &'static str| {
        let line = statement.statements().iter().rfind(|line| line.keyword() == keyword);
        line.map_or(default.to_owned(), |line| line.argument(1).to_owned())
    };
    let query = dns::query(&value("name", "."), &value("type", "SOA"));
    let Some((request, question)) = query else {
        return Err("SLB cannot ask for this name or type: write a `udp` check");
    };
    ledger.changed(statement.head, "it became a `udp` check with a DNS query; the answer's code is not read");
    Ok(Check::new(CheckKind::Udp { request: Some(request), expect: Some(question) }))
}
