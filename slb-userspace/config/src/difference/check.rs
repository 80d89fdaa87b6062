//! Health checks in words, as in the file.

use humantime::format_duration;

use super::{debug, listed};
use crate::model::{CertificateCheck, CheckKind, HealthCheck, HttpCheck, PassiveCheck, TlsCheck, UdpCheck};

/// Summary of a check that is added.
pub(super) fn in_words(check: &HealthCheck) -> String {
    format!("{} every {}", kind(&check.kind), debug(&check.interval))
}

/// All settings of a check. Different checks have different texts, and the format is the same in every build.
pub fn in_full(check: &HealthCheck) -> String {
    let HealthCheck { kind, port, interval, timeout, healthy_threshold, unhealthy_threshold, passive } =
        check;
    let [interval, timeout] = [interval, timeout].map(|time| format_duration(*time));
    format!(
        "{} on port {} every {interval}, timeout {timeout}, healthy after {healthy_threshold}, \
         unhealthy after {unhealthy_threshold}, passive {}",
        self::kind(kind),
        self::port(port),
        self::passive(passive)
    )
}

pub(super) fn kind(kind: &CheckKind) -> String {
    match kind {
        CheckKind::Tcp => "tcp".to_owned(),
        CheckKind::Icmp => "icmp".to_owned(),
        CheckKind::Udp(UdpCheck { request, expect }) => {
            // Without a request an empty datagram is sent, and `expect` is not allowed.
            let request = (!request.is_empty()).then(|| format!("request {}", bytes(request)));
            let expect = expect.as_deref().map(|expect| format!("expect {}", bytes(expect)));
            let settings: Vec<_> = request.into_iter().chain(expect).collect();
            if settings.is_empty() { "udp".to_owned() } else { format!("udp ({})", settings.join(", ")) }
        }
        CheckKind::Http(HttpCheck { method, path, host, expect, tls }) => {
            let (scheme, certificate) = match tls {
                None => ("http", String::new()),
                Some(tls) => ("https", format!("; {}", certificate(*tls))),
            };
            let host = host.as_deref().unwrap_or("the server");
            format!("{scheme} {} {path} of {host} (expect {}{certificate})", method.as_str(), listed(expect))
        }
        CheckKind::Tls(TlsCheck { host, verify }) => {
            let host = host.as_deref().unwrap_or("the server");
            format!("tls of {host} ({})", certificate(*verify))
        }
    }
}

fn certificate(tls: CertificateCheck) -> &'static str {
    match tls {
        CertificateCheck::Any => "certificate not verified",
        CertificateCheck::Verified => "certificate verified",
    }
}

pub(super) fn passive(passive: &Option<PassiveCheck>) -> String {
    passive.map_or_else(
        || "off".to_owned(),
        |PassiveCheck { failures, within }| format!("{failures} in {within:?}"),
    )
}

pub(super) fn port(port: &Option<u16>) -> String {
    port.map_or_else(|| "the server's".to_owned(), |port| port.to_string())
}

/// Quoted text, or else hexadecimal bytes. Different values have different texts.
fn bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) && !text.starts_with("hex:") => format!("{text:?}"),
        _ => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("\"hex:{digits}\"")
        }
    }
}
