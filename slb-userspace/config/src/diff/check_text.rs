//! Health checks in words.

use humantime::format_duration;

use super::{check_fields, value::Value};
use crate::model::HealthCheck;

/// Summary of a check that is added. `setting` has the value of each setting of `health_check`.
pub(super) fn summary<'a>(setting: impl Fn(&str) -> &'a Value) -> String {
    let interval = setting("health_check.interval");
    format!("{} every {interval}", probe(setting))
}

/// All settings of a check. Different checks have different texts, and the format is the same in every build.
pub fn in_full(check: &HealthCheck) -> String {
    let HealthCheck { kind: _, port, interval, timeout, healthy_threshold, unhealthy_threshold, passive: _ } =
        check;
    let fields = check_fields::health_check(Some(check));
    let setting = |path: &str| {
        let field = fields.iter().find(|(known, _)| *known == path);
        field.map_or(&Value::Absent, |(_, value)| value)
    };
    let [interval, timeout] = [interval, timeout].map(|time| format_duration(*time));
    let port = port.map_or_else(|| SERVERS_PORT.to_owned(), |port| port.to_string());
    format!(
        "{} on port {port} every {interval}, timeout {timeout}, healthy after {healthy_threshold}, \
         unhealthy after {unhealthy_threshold}, passive {}",
        probe(setting),
        passive(setting)
    )
}

/// The port of a check without a port of its own.
pub(super) const SERVERS_PORT: &str = "the server's";

/// What is sent and expected.
fn probe<'a>(setting: impl Fn(&str) -> &'a Value) -> String {
    let text = |path| match setting(path) {
        Value::Absent => None,
        value => Some(value.to_string()),
    };
    let name = setting("health_check.kind");
    let host = || text("health_check.host").unwrap_or_else(|| "the server".to_owned());
    let certificate = match setting("health_check.verify") {
        Value::Boolean(true) => Some("certificate verified"),
        Value::Boolean(false) => Some("certificate not verified"),
        _ => None,
    };
    match (text("health_check.method"), certificate) {
        (Some(method), certificate) => {
            let (path, expect) = (setting("health_check.path"), setting("health_check.expect"));
            let certificate = certificate.map_or_else(String::new, |certificate| format!("; {certificate}"));
            format!("{name} {method} {path} of {} (expect {expect}{certificate})", host())
        }
        (None, Some(certificate)) => format!("{name} of {} ({certificate})", host()),
        (None, None) => {
            let bytes = [("request", "health_check.request"), ("expect", "health_check.expect")];
            let bytes = bytes.map(|(word, path)| Some(format!("{word} {:?}", text(path)?)));
            let bytes: Vec<_> = bytes.into_iter().flatten().collect();
            if bytes.is_empty() { name.to_string() } else { format!("{name} ({})", bytes.join(", ")) }
        }
    }
}

/// When failed connections of clients eject a server.
pub(super) fn passive<'a>(setting: impl Fn(&str) -> &'a Value) -> String {
    match setting("health_check.passive.failures") {
        Value::Absent => "off".to_owned(),
        failures => format!("{failures} in {}", setting("health_check.passive.within")),
    }
}
