//! Settings of health checks, as values.

use super::value::{Fields, Value, duration, map, number, or_absent, text};
use crate::model::{CertificateCheck, CheckKind, HealthCheck, HttpCheck, PassiveCheck, TlsCheck, UdpCheck};

pub(super) fn health_check(check: &HealthCheck) -> Fields {
    let HealthCheck { kind, port, interval, timeout, healthy_threshold, unhealthy_threshold, passive } =
        check;
    vec![
        ("kind", self::kind(kind)),
        ("port", or_absent(*port, number)),
        ("interval", duration(interval)),
        ("timeout", duration(timeout)),
        ("healthy_threshold", number(*healthy_threshold)),
        ("unhealthy_threshold", number(*unhealthy_threshold)),
        ("passive", or_absent(passive.as_ref(), self::passive)),
    ]
}

/// What is sent and expected: `kind` with its settings.
pub(super) fn kind(kind: &CheckKind) -> Value {
    let name = ("kind", text(kind.name()));
    match kind {
        CheckKind::Tcp | CheckKind::Icmp => map([name]),
        CheckKind::Udp(UdpCheck { request, expect }) => map([
            name,
            // Without a request an empty datagram is sent, and `expect` is not allowed.
            ("request", or_absent((!request.is_empty()).then_some(request), |request| bytes(request))),
            ("expect", or_absent(expect.as_deref(), bytes)),
        ]),
        CheckKind::Http(HttpCheck { method, path, host, expect, tls }) => map([
            name,
            ("method", text(method.as_str())),
            ("path", text(path)),
            ("host", or_absent(host.as_ref(), text)),
            ("expect", Value::List(expect.iter().map(text).collect())),
            ("certificate", or_absent(*tls, certificate)),
        ]),
        CheckKind::Tls(TlsCheck { host, verify }) => {
            map([name, ("host", or_absent(host.as_ref(), text)), ("certificate", certificate(*verify))])
        }
    }
}

pub(super) fn passive(passive: &PassiveCheck) -> Value {
    let PassiveCheck { failures, within } = passive;
    map([("failures", number(*failures)), ("within", duration(within))])
}

fn certificate(check: CertificateCheck) -> Value {
    text(match check {
        CertificateCheck::Any => "not verified",
        CertificateCheck::Verified => "verified",
    })
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
