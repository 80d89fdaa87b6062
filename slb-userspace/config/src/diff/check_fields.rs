//! Settings of health checks, as values.

use super::value::{Fields, Value, duration, number, or_absent, text};
use crate::model::{
    CertificateCheck, CheckKind, ExpectedStatus, HealthCheck, HttpCheck, PassiveCheck, TlsCheck, UdpCheck,
};

/// The settings in `health_check` of a listener. No check is the kind `none`, which has no other settings.
pub(super) fn health_check(check: Option<&HealthCheck>) -> Fields {
    let Timing { port, interval, timeout, healthy_threshold, unhealthy_threshold } =
        check.map_or_else(Timing::default, timing);
    let Probe { method, path, host, verify, request, expect } =
        check.map_or_else(Probe::default, |check| probe(&check.kind));
    let [failures, within] = passive(check.and_then(|check| check.passive.as_ref()));
    vec![
        ("health_check.kind", text(check.map_or(NONE, |check| check.kind.name()))),
        ("health_check.port", port),
        ("health_check.interval", interval),
        ("health_check.timeout", timeout),
        ("health_check.healthy_threshold", healthy_threshold),
        ("health_check.unhealthy_threshold", unhealthy_threshold),
        ("health_check.method", method),
        ("health_check.path", path),
        ("health_check.host", host),
        ("health_check.verify", verify),
        ("health_check.request", request),
        ("health_check.expect", expect),
        ("health_check.passive.failures", failures),
        ("health_check.passive.within", within),
    ]
}

/// The kind that switches checks off.
pub(super) const NONE: &str = "none";

/// Settings of checks of every kind.
#[derive(Default)]
struct Timing {
    port: Value,
    interval: Value,
    timeout: Value,
    healthy_threshold: Value,
    unhealthy_threshold: Value,
}

fn timing(check: &HealthCheck) -> Timing {
    let HealthCheck { kind: _, port, interval, timeout, healthy_threshold, unhealthy_threshold, passive: _ } =
        check;
    Timing {
        port: or_absent(*port, number),
        interval: duration(interval),
        timeout: duration(timeout),
        healthy_threshold: number(*healthy_threshold),
        unhealthy_threshold: number(*unhealthy_threshold),
    }
}

/// Settings of some kinds: what is sent and expected.
#[derive(Default)]
struct Probe {
    method: Value,
    path: Value,
    host: Value,
    verify: Value,
    request: Value,
    expect: Value,
}

fn probe(kind: &CheckKind) -> Probe {
    match kind {
        CheckKind::Tcp | CheckKind::Icmp => Probe::default(),
        CheckKind::Udp(UdpCheck { request, expect }) => Probe {
            // Without a request an empty datagram is sent, and `expect` is not allowed.
            request: or_absent((!request.is_empty()).then_some(request), |request| bytes(request)),
            expect: or_absent(expect.as_deref(), bytes),
            ..Probe::default()
        },
        CheckKind::Http(HttpCheck { method, path, host, expect, tls }) => Probe {
            method: text(method.as_str()),
            path: text(path),
            host: or_absent(host.as_ref(), text),
            verify: or_absent(*tls, verify),
            expect: Value::List(expect.iter().map(status).collect()),
            ..Probe::default()
        },
        CheckKind::Tls(TlsCheck { host, verify }) => {
            Probe { host: or_absent(host.as_ref(), text), verify: self::verify(*verify), ..Probe::default() }
        }
    }
}

/// `failures` and `within`.
fn passive(passive: Option<&PassiveCheck>) -> [Value; 2] {
    passive.map_or_else(<[Value; 2]>::default, |PassiveCheck { failures, within }| {
        [number(*failures), duration(within)]
    })
}

fn verify(check: CertificateCheck) -> Value {
    Value::Boolean(match check {
        CertificateCheck::Any => false,
        CertificateCheck::Verified => true,
    })
}

fn status(status: &ExpectedStatus) -> Value {
    match status {
        ExpectedStatus::Code(code) => number(*code),
        class @ ExpectedStatus::Class(_) => text(class),
    }
}

/// Text, or else hexadecimal bytes. Different values have different texts.
fn bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) && !text.starts_with("hex:") => self::text(text),
        _ => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            text(format!("hex:{digits}"))
        }
    }
}
