//! Values of fields in words.

use super::{check_text::SERVERS_PORT, value::Value};

/// A value of the setting `path`.
pub(super) fn of(path: &str, value: &Value) -> String {
    match (path, value) {
        ("health_check.port", Value::Absent) => SERVERS_PORT.to_owned(),
        ("hash_seed", Value::Absent) => "of slbd's own".to_owned(),
        ("unmatched", Value::Absent) => "default".to_owned(),
        (_, Value::Absent) => "none".to_owned(),
        ("probe_mark", Value::Number(mark)) => format!("{mark:#x}"),
        ("read_only_socket", Value::Text(path)) if path == "off" => path.clone(),
        ("pin_dir" | "socket" | "read_only_socket" | "state_dir", Value::Text(path)) => format!("{path:?}"),
        ("health_check.request" | "health_check.expect", Value::Text(bytes)) => format!("{bytes:?}"),
        _ => value.to_string(),
    }
}
