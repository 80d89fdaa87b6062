//! The diff of two configurations as data: objects that are added, removed or changed, with the old and the new value
//! of each field. [`lines`] describes it in words. Pure.

use std::{collections::BTreeSet, iter};

pub use self::{
    change::{Change, ChangeAction, Diff, FieldChange, Identity, ObjectKind},
    check_text::in_full,
    text::lines,
    value::Value,
};
use self::{
    objects::{Object, ObjectKey, Objects, objects},
    value::Fields,
};
use super::model::Config;

mod change;
mod check_fields;
mod check_text;
mod field_text;
mod fields;
mod objects;
mod target_fields;
mod target_text;
mod text;
mod value;
mod value_text;

/// What changes when `new` replaces `old`. Empty if they are equal.
pub fn diff(old: &Config, new: &Config) -> Diff {
    let (before, after) = (objects(old), objects(new));
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let changes = keys.into_iter().filter_map(|key| {
        let (action, fields) = match (before.get(key), after.get(key)) {
            (Some(before), Some(after)) => {
                let fields = changed_fields(&before.fields, &after.fields);
                let is_changed = !fields.is_empty() || before.name != after.name;
                is_changed.then_some((ChangeAction::Changed, fields))?
            }
            (Some(gone), None) => (ChangeAction::Removed, all_fields(gone, |old| (old, Value::Absent))),
            (None, Some(new)) => (ChangeAction::Added, all_fields(new, |new| (Value::Absent, new))),
            (None, None) => return None,
        };
        let owner = key.owner().and_then(|owner| identity(&owner, &before, &after));
        Some(Change { kind: key.kind, owner, object: identity(key, &before, &after)?, action, fields })
    });
    let mut diff = Diff { changes: changes.collect() };
    if diff.is_empty() && old != new {
        diff.changes.push(reordered());
    }
    diff
}

/// An object of a configuration, as values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectValues {
    /// Kind of the object.
    pub kind: ObjectKind,
    /// Id of the object that this one is part of; `None` at the top.
    pub owner: Option<String>,
    /// Its id; the address of a server.
    pub id: String,
    /// Its name; the address of a server.
    pub name: String,
    /// Its fields that have a value, by their paths in the object's table of the configuration file.
    pub fields: Vec<(&'static str, Value)>,
}

/// The objects of a configuration, in the order of a diff.
pub fn object_values(config: &Config) -> Vec<ObjectValues> {
    let values = |(key, object): (ObjectKey, Object)| ObjectValues {
        kind: key.kind,
        id: key.id.to_string(),
        owner: key.owner,
        name: object.name,
        fields: object.fields.into_iter().filter(|(_, value)| *value != Value::Absent).collect(),
    };
    objects(config).into_iter().map(values).collect()
}

/// The configurations differ in the order of entries, and in nothing else.
fn reordered() -> Change {
    let name = || "configuration".to_owned();
    Change {
        kind: ObjectKind::Configuration,
        owner: None,
        object: Identity { id: name(), before: name(), after: name() },
        action: ChangeAction::Reordered,
        fields: Vec::new(),
    }
}

/// The names of an object; `None` if neither configuration has it.
fn identity(key: &ObjectKey, before: &Objects, after: &Objects) -> Option<Identity> {
    let name = |objects: &Objects| objects.get(key).map(|Object { name, .. }| name.clone());
    let (before, after) = (name(before), name(after));
    Some(Identity {
        id: key.id.to_string(),
        before: before.clone().or_else(|| after.clone())?,
        after: after.or(before)?,
    })
}

/// The fields of an object that one configuration has. `sides` gives the old and the new value.
fn all_fields(object: &Object, sides: impl Fn(Value) -> (Value, Value)) -> Vec<FieldChange> {
    let present = object.fields.iter().filter(|(_, value)| *value != Value::Absent);
    let field = |(path, value): &(&str, Value)| {
        let (old, new) = sides(value.clone());
        FieldChange { path: (*path).to_owned(), old, new }
    };
    present.map(field).collect()
}

/// The fields of an object with different values. Both lists have the same paths.
fn changed_fields(old: &Fields, new: &Fields) -> Vec<FieldChange> {
    let both = iter::zip(old, new).filter(|((_, old), (_, new))| old != new);
    both.map(|((path, old), (_, new))| FieldChange {
        path: (*path).to_owned(),
        old: old.clone(),
        new: new.clone(),
    })
    .collect()
}

#[cfg(test)]
mod tests;
