//! Health checks of a backend: their kind and what they expect.

use std::time::Duration;

use super::lexer::{FOREIGN, Line, is_check};
use crate::{
    ledger::Ledger,
    limits,
    model::{CheckKind, HttpCheck, Status},
    source::Lines,
};

/// Settings of checks in a section.
#[derive(Debug, Clone)]
pub(super) struct CheckSettings {
    pub(super) kind: CheckKind,
    /// The line with the kind.
    pub(super) kind_at: Option<Lines>,
    pub(super) timeout: Option<(Duration, Lines)>,
}

impl Default for CheckSettings {
    fn default() -> Self {
        Self { kind: CheckKind::Tcp, kind_at: None, timeout: None }
    }
}

const CONTENT: &str = "SLB reads the status of an answer, and not its content";

impl CheckSettings {
    /// The lines with these settings.
    pub(super) fn lines(&self) -> impl Iterator<Item = Lines> {
        [self.kind_at, self.timeout.map(|(_, at)| at)].into_iter().flatten()
    }

    /// Takes a line, if it is about checks.
    pub(super) fn take(&mut self, ledger: &mut Ledger, line: &Line) -> bool {
        let at = line.at;
        if line.keyword() == "option" && is_check(line.word(1)) {
            self.kind_at = Some(at);
        }
        match (line.keyword(), line.word(1)) {
            ("no" | "default", "option") if is_check(line.word(2)) => {
                (self.kind, self.kind_at) = (CheckKind::Tcp, None);
                ledger.used(at);
                true
            }
            ("option", "httpchk") => {
                self.kind = CheckKind::Http(httpchk(ledger, line));
                true
            }
            ("option", "tcp-check") => {
                self.kind = CheckKind::Tcp;
                ledger.used(at);
                true
            }
            ("option", "ssl-hello-chk") => {
                self.kind = CheckKind::Tls { host: None, verify: false };
                ledger.used(at);
                true
            }
            ("option", option) if FOREIGN.contains(&option) => {
                self.kind = CheckKind::Tcp;
                ledger.changed(
                    at,
                    "SLB does not speak this protocol and runs no programs: a TCP connection is checked",
                );
                true
            }
            ("tcp-check", "connect") if line.words.len() == 2 => {
                ledger.used(at);
                true
            }
            ("tcp-check", _) => {
                ledger.left_out(at, "SLB checks that a connection opens, and exchanges no data");
                true
            }
            ("http-check", _) => {
                self.http_check(ledger, line);
                true
            }
            _ => false,
        }
    }

    fn http_check(&mut self, ledger: &mut Ledger, line: &Line) {
        let at = line.at;
        let CheckKind::Http(http) = &mut self.kind else {
            return ledger.left_out(at, "without `option httpchk` before it has no effect");
        };
        match line.word(1) {
            "expect" => match expected(line.from(2)) {
                Some(statuses) => {
                    http.expect = statuses;
                    ledger.used(at);
                }
                None => ledger.left_out(at, CONTENT),
            },
            "send" => send(ledger, line, http),
            _ => ledger.left_out(at, "SLB's check has no such setting"),
        }
    }
}

/// Statuses of `status 200-399,404`. `None` if SLB does not expect such things.
fn expected(words: &[String]) -> Option<Vec<Status>> {
    let at = words.iter().position(|word| word == "status")?;
    if words.iter().any(|word| word == "!") {
        return None;
    }
    let mut found = Vec::new();
    for word in words.get(at + 1)?.split(',') {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        found.extend(limits::statuses(first.parse().ok()?, last.parse().ok()?)?);
    }
    (!found.is_empty()).then_some(found)
}

/// Reads `option httpchk [METHOD] URI [VERSION]`. HAProxy accepts 2xx and 3xx by default.
fn httpchk(ledger: &mut Ledger, line: &Line) -> HttpCheck {
    let mut http = limits::http(false, false, vec![Status::Class(2), Status::Class(3)]);
    let words = line.from(2);
    let (method, uri) = match words {
        [] => ("OPTIONS", "/"),
        [uri] => ("OPTIONS", uri.as_str()),
        [method, uri, ..] => (method.as_str(), uri.as_str()),
    };
    ledger.used(line.at);
    set_method(ledger, line.at, &mut http, method);
    set_path(ledger, line.at, &mut http, uri);
    // Headers were written after the version, before `http-check send`.
    let rest = words.get(2..).unwrap_or_default().join(" ");
    for header in rest.split(['\r', '\n']).skip(1).filter(|header| !header.is_empty()) {
        match header.split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("host") => {
                set_host(ledger, line.at, &mut http, value.trim());
            }
            _ => ledger.left_out(line.at, "SLB's check sends no headers but `Host`"),
        }
    }
    http
}

/// Reads `http-check send meth GET uri /x ver HTTP/1.1 hdr Host web.example`.
fn send(ledger: &mut Ledger, line: &Line, http: &mut HttpCheck) {
    let at = line.at;
    ledger.used(at);
    let mut words = line.from(2).iter().map(String::as_str);
    while let Some(word) = words.next() {
        let value = words.next().unwrap_or_default();
        match word {
            "meth" => set_method(ledger, at, http, value),
            "uri" => set_path(ledger, at, http, value),
            "ver" => {}
            "hdr" => {
                let content = words.next().unwrap_or_default();
                if value.eq_ignore_ascii_case("host") {
                    set_host(ledger, at, http, content);
                } else {
                    ledger.left_out(at, "SLB's check sends no headers but `Host`");
                }
            }
            _ => ledger.left_out(at, "SLB's check sends no content"),
        }
    }
}

fn set_method(ledger: &mut Ledger, at: Lines, http: &mut HttpCheck, method: &str) {
    http.is_get = method == "GET";
    if !matches!(method, "GET" | "HEAD") {
        ledger.changed(at, format!("checks of SLB send HEAD or GET: `{method}` became HEAD"));
    }
}

fn set_path(ledger: &mut Ledger, at: Lines, http: &mut HttpCheck, path: &str) {
    if limits::is_path(path) {
        path.clone_into(&mut http.path);
    } else {
        ledger.changed(at, "the path has characters that a request cannot have: it became `/`");
    }
}

fn set_host(ledger: &mut Ledger, at: Lines, http: &mut HttpCheck, host: &str) {
    if limits::is_host(host) {
        http.host = Some(host.to_owned());
    } else {
        ledger.changed(at, "the host is no name: the probed address is sent");
    }
}
