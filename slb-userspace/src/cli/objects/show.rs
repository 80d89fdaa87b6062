//! Objects for people: a table of a list, and an object as it stands in a configuration file.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Kind;
use crate::cli::{status::Output, table::table};

/// A list.
pub(super) fn list(kind: Kind, items: &[Value], output: Output) -> Result<String> {
    if output == Output::Json {
        return Ok(serde_json::to_string_pretty(items)? + "\n");
    }
    let count = |value: &Value| value.as_array().map_or(0, Vec::len).to_string();
    let rows = items.iter().map(|object| match kind {
        Kind::LoadBalancer => [
            text(&object["id"]),
            text(&object["source"]),
            text(&object["state"]),
            text(&object["addresses"]),
            format!("{} listeners, {} default servers", count(&object["listener"]), count(&object["server"])),
        ],
        Kind::Listener => [
            format!("{}/{}", text(&object["load_balancer"]), text(&object["id"])),
            text(&object["source"]),
            text(&object["state"]),
            format!("{} {}", text(&object["protocol"]), text(&object["port"])),
            format!("{}, {}", text(&object["mode"]), target(object)),
        ],
        Kind::ServerGroup => [
            text(&object["id"]),
            text(&object["source"]),
            String::new(),
            String::new(),
            format!("{} servers", count(&object["servers"])),
        ],
        Kind::AccessList => [
            text(&object["name"]),
            text(&object["source"]),
            String::new(),
            String::new(),
            format!("{} entries", count(&object["entries"])),
        ],
    });
    let header = match kind {
        Kind::LoadBalancer => ["load balancer", "source", "state", "addresses", ""],
        Kind::Listener => ["listener", "source", "state", "port", "mode and servers"],
        Kind::ServerGroup => ["server group", "source", "", "", ""],
        Kind::AccessList => ["access list", "source", "", "", ""],
    };
    let mut shown = table(header, 5);
    shown.add_rows(rows);
    Ok(format!("{shown}\n"))
}

/// The servers of a listener.
fn target(listener: &Value) -> String {
    let named = |key: &str| listener[key].as_str().map(str::to_owned);
    let port =
        || listener["default_group_port"].as_u64().map(|port| format!("default server group, port {port}"));
    named("server_group")
        .or_else(|| named("primary_secondary_group"))
        .or_else(|| Some(format!("{}, then {}", named("primary")?, named("secondary")?)))
        .or_else(port)
        .unwrap_or_default()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// An object, with its owner in a comment.
pub(super) fn object(mut object: Value, output: Output) -> Result<String> {
    if output == Output::Json {
        return Ok(serde_json::to_string_pretty(&object)? + "\n");
    }
    let source = object.as_object_mut().and_then(|object| object.remove("source"));
    let source = source.map_or_else(String::new, |source| format!("# source: {}\n", text(&source)));
    let shown = toml::to_string(&object).context("the object cannot be shown")?;
    Ok(source + &shown)
}
