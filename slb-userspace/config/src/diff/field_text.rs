//! Changed fields in words.

use super::{change::FieldChange, check_fields, check_text, target_text, value::Value, value_text};

/// What differs, each without the name of the object.
pub(super) fn words(fields: &[FieldChange]) -> Vec<String> {
    let mut summaries = [target(fields), health_check(fields), passive(fields)];
    let mut words = Vec::new();
    for field in fields {
        let summary = summaries.iter_mut().flatten().find(|summary| (summary.covers)(&field.path));
        match summary {
            Some(summary) => words.extend(summary.text.take()),
            None => words.extend(self::field(field)),
        }
    }
    words
}

/// Several fields in one line.
struct Summary {
    covers: fn(&str) -> bool,
    /// Taken once it is written.
    text: Option<String>,
}

/// Another way to name the servers. Then all fields of both ways differ.
fn target(fields: &[FieldChange]) -> Option<Summary> {
    let is_way = |field: &&FieldChange| target_text::WAYS.contains(&field.path.as_str());
    let is_other = |field: &FieldChange| field.old == Value::Absent || field.new == Value::Absent;
    let text = |side| target_text::target(|path| value(fields, path, side));
    fields.iter().filter(is_way).any(is_other).then(|| Summary {
        covers: target_text::is_of_target,
        text: Some(format!("target {} -> {}", text(Side::Old), text(Side::New))),
    })
}

/// A check where there was none, or none where there was one. Then all its fields differ.
fn health_check(fields: &[FieldChange]) -> Option<Summary> {
    let kind = fields.iter().find(|field| field.path == "health_check.kind")?;
    let is_none = |kind: &Value| *kind == Value::Text(check_fields::NONE.to_owned());
    let text = if is_none(&kind.old) {
        let check = check_text::summary(|path| value(fields, path, Side::New));
        format!("health check added ({check})")
    } else if is_none(&kind.new) {
        "health check removed: its servers are taken as able to serve".to_owned()
    } else {
        return None;
    };
    Some(Summary { covers: |path| path.starts_with("health_check."), text: Some(text) })
}

/// Passive checks are added or removed. Then both of their fields differ.
fn passive(fields: &[FieldChange]) -> Option<Summary> {
    let failures = fields.iter().find(|field| field.path == "health_check.passive.failures")?;
    let is_off = failures.old == Value::Absent || failures.new == Value::Absent;
    let text = |side| check_text::passive(|path| value(fields, path, side));
    is_off.then(|| Summary {
        covers: |path| path.starts_with("health_check.passive."),
        text: Some(format!("health check: passive {} -> {}", text(Side::Old), text(Side::New))),
    })
}

fn field(field: &FieldChange) -> Vec<String> {
    let FieldChange { path, old, new } = field;
    match (path.as_str(), old, new) {
        ("addresses", ..) => items("address", old, new),
        ("tunnel_addresses", ..) => items("tunnel address", old, new),
        ("tunnel_sources", ..) => items("tunnel source network", old, new),
        ("local_addresses", ..) => items("local address", old, new),
        ("probe_source", ..) => items("probe source", old, new),
        ("entries", ..) => items("entry", old, new),
        // Protocol or mode differ too, and the others have no such setting.
        ("established_timeout" | "unknown_datagrams", Value::Absent, _)
        | ("established_timeout" | "unknown_datagrams", _, Value::Absent) => Vec::new(),
        _ => {
            let setting = path.replace('.', ": ").replace('_', " ");
            let [old, new] = [old, new].map(|value| value_text::of(path, value));
            vec![format!("{setting} {old} -> {new}")]
        }
    }
}

/// Which value of a changed field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    /// The one before the change.
    Old,
    /// The one after it.
    New,
}

/// A value of the field `path`; [`Value::Absent`] if it does not differ.
pub(super) fn value<'a>(fields: &'a [FieldChange], path: &str, side: Side) -> &'a Value {
    let field = fields.iter().find(|field| field.path == path);
    field.map_or(&Value::Absent, |field| match side {
        Side::Old => &field.old,
        Side::New => &field.new,
    })
}

/// Items that are removed and added, regardless of order.
fn items(what: &str, old: &Value, new: &Value) -> Vec<String> {
    let (old, new) = (old.items(), new.items());
    let removed = old.iter().filter(|item| !new.contains(item)).map(|item| format!("{what} {item} removed"));
    let added = new.iter().filter(|item| !old.contains(item)).map(|item| format!("{what} {item} added"));
    removed.chain(added).collect()
}
