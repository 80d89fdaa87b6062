//! Values of fields in words.

use super::{
    check_text::{SERVERS_PORT, kind, passive},
    value::Value,
};

/// A value of the setting `path`.
pub(super) fn of(path: &str, value: &Value) -> String {
    match (path, value) {
        ("health_check.passive", _) => passive(value),
        ("health_check.port", Value::Absent) => SERVERS_PORT.to_owned(),
        ("probe_mark", Value::Absent) => "none".to_owned(),
        ("hash_seed", Value::Absent) => "of slbd's own".to_owned(),
        ("unmatched", Value::Absent) => "default".to_owned(),
        (_, Value::Absent) => "off".to_owned(),
        ("health_check.kind", _) => kind(value),
        ("target", _) => target(value),
        ("probe_mark", Value::Number(mark)) => format!("{mark:#x}"),
        ("pin_dir" | "socket" | "read_only_socket" | "state_dir", Value::Text(path)) => format!("{path:?}"),
        _ => value.to_string(),
    }
}

/// The servers behind a listener.
pub(super) fn target(target: &Value) -> String {
    let setting = |setting| target.get(setting);
    let is_set = |setting| *target.get(setting) != Value::Absent;
    if is_set("default_group_port") {
        format!("the default group, port {}", setting("default_group_port"))
    } else if is_set("server_group") {
        format!("server group {}", setting("server_group"))
    } else if is_set("primary_secondary_group") {
        format!("primary/secondary server group {}", setting("primary_secondary_group"))
    } else {
        format!(
            "server group {}, and {} when {} are unhealthy (back after {})",
            setting("primary"),
            setting("secondary"),
            setting("failover_threshold"),
            setting("failback_after")
        )
    }
}
