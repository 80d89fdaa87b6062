//! The servers behind a listener in words.

use super::value::Value;

/// The settings of which a listener has exactly one.
pub(super) const WAYS: [&str; 4] =
    ["server_group", "primary_secondary_group", "primary", "default_group_port"];

/// Whether a setting of a listener names its servers.
pub(super) fn is_of_target(path: &str) -> bool {
    WAYS.contains(&path) || matches!(path, "secondary" | "failover_threshold" | "failback_after")
}

/// The servers. `setting` has the value of each setting.
pub(super) fn target<'a>(setting: impl Fn(&str) -> &'a Value) -> String {
    let is_set = |path| *setting(path) != Value::Absent;
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

/// A server of a primary/secondary server group: its address and port.
pub(super) fn endpoint(address: &Value, port: &Value) -> String {
    let address = address.to_string();
    if *port == Value::Absent {
        return address;
    }
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}
