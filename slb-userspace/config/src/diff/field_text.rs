//! Changed fields in words.

use super::{HEALTH_CHECK, change::FieldChange, check_text, value::Value, value_text};

/// What differs, each without the name of the object.
pub(super) fn words(field: &FieldChange) -> Vec<String> {
    let FieldChange { path, old, new } = field;
    match (path.as_str(), old, new) {
        ("addresses", ..) => items("address", old, new),
        ("tunnel_addresses", ..) => items("tunnel address", old, new),
        ("probe_source", ..) => items("probe source", old, new),
        (HEALTH_CHECK, Value::Absent, check) => {
            vec![format!("health check added ({})", check_text::summary(check))]
        }
        (HEALTH_CHECK, ..) => {
            vec!["health check removed: its servers are taken as able to serve".to_owned()]
        }
        // The protocol differs too, and the other one has no such setting.
        ("established_timeout", Value::Absent, _) | ("established_timeout", _, Value::Absent) => Vec::new(),
        _ => {
            let setting = path.replace('.', ": ").replace('_', " ");
            let [old, new] = [old, new].map(|value| value_text::of(path, value));
            vec![format!("{setting} {old} -> {new}")]
        }
    }
}

/// Items that are removed and added, regardless of order.
fn items(what: &str, old: &Value, new: &Value) -> Vec<String> {
    let (old, new) = (old.items(), new.items());
    let removed = old.iter().filter(|item| !new.contains(item)).map(|item| format!("{what} {item} removed"));
    let added = new.iter().filter(|item| !old.contains(item)).map(|item| format!("{what} {item} added"));
    removed.chain(added).collect()
}
