//! Health checks in words, as in the file.

use humantime::format_duration;

use super::{check_fields, value::Value};
use crate::model::HealthCheck;

/// Summary of a check that is added.
pub(super) fn summary(check: &Value) -> String {
    format!("{} every {}", kind(check.get("kind")), check.get("interval"))
}

/// All settings of a check. Different checks have different texts, and the format is the same in every build.
pub fn in_full(check: &HealthCheck) -> String {
    let HealthCheck { kind, port, interval, timeout, healthy_threshold, unhealthy_threshold, passive } =
        check;
    let [interval, timeout] = [interval, timeout].map(|time| format_duration(*time));
    let port = port.map_or_else(|| SERVERS_PORT.to_owned(), |port| port.to_string());
    let passive = passive.as_ref().map_or(Value::Absent, check_fields::passive);
    format!(
        "{} on port {port} every {interval}, timeout {timeout}, healthy after {healthy_threshold}, \
         unhealthy after {unhealthy_threshold}, passive {}",
        self::kind(&check_fields::kind(kind)),
        self::passive(&passive)
    )
}

/// The port of a check without a port of its own.
pub(super) const SERVERS_PORT: &str = "the server's";

/// What is sent and expected.
pub(super) fn kind(kind: &Value) -> String {
    let name = kind.get("kind").to_string();
    let setting = |setting: &str| match kind.get(setting) {
        Value::Absent => None,
        value => Some(value.to_string()),
    };
    let host = || setting("host").unwrap_or_else(|| "the server".to_owned());
    let certificate = setting("certificate").map(|certificate| format!("certificate {certificate}"));
    match (setting("method"), certificate) {
        (Some(method), certificate) => {
            let (path, expect) = (kind.get("path"), kind.get("expect"));
            let certificate = certificate.map_or_else(String::new, |certificate| format!("; {certificate}"));
            format!("{name} {method} {path} of {} (expect {expect}{certificate})", host())
        }
        (None, Some(certificate)) => format!("{name} of {} ({certificate})", host()),
        (None, None) => {
            let bytes = ["request", "expect"].map(|word| Some(format!("{word} {:?}", setting(word)?)));
            let bytes: Vec<_> = bytes.into_iter().flatten().collect();
            if bytes.is_empty() { name } else { format!("{name} ({})", bytes.join(", ")) }
        }
    }
}

/// When failed connections of clients eject a server.
pub(super) fn passive(passive: &Value) -> String {
    match passive {
        Value::Absent => "off".to_owned(),
        _ => format!("{} in {}", passive.get("failures"), passive.get("within")),
    }
}
