//! Changes as the API's documents, and these in words.

pub mod overrides;

use slb_api::changes::{
    ApiChange, ApiChangeAction, ApiFieldChange, ApiObject, ApiObjectKind, ApiOverrideChange, ApiValue,
};
use slb_config::diff::{self, Change, ChangeAction, Diff, FieldChange, Identity, ObjectKind, Value};

/// The documents of a diff.
pub fn documents(diff: Diff) -> Vec<ApiChange> {
    diff.changes.into_iter().map(document).collect()
}

/// Describes documents, one line per change: first those of the configuration, then those of overrides.
pub fn lines(changes: &[ApiChange], overrides: &[ApiOverrideChange]) -> Vec<String> {
    let diff = Diff { changes: changes.iter().cloned().map(change).collect() };
    let mut lines = diff::lines(&diff);
    lines.extend(overrides.iter().map(overrides::in_words));
    lines
}

/// Pairs each variant of the diff with that of the document, in both directions.
macro_rules! same_variants {
    ($to:ident, $from:ident: $ours:ident, $documents:ident { $($variant:ident),* $(,)? }) => {
        const fn $to(ours: $ours) -> $documents {
            match ours { $($ours::$variant => $documents::$variant),* }
        }

        const fn $from(document: $documents) -> $ours {
            match document { $($documents::$variant => $ours::$variant),* }
        }
    };
}

same_variants!(api_kind, kind: ObjectKind, ApiObjectKind {
    Configuration, Daemon, Interface, LoadBalancer, Listener, DefaultServer, ServerGroup, Server,
    PrimarySecondaryGroup,
    AccessList,
});
same_variants!(api_action, action: ChangeAction, ApiChangeAction { Added, Removed, Changed, Reordered });

fn document(change: Change) -> ApiChange {
    let Change { kind, owner, object, action, fields } = change;
    ApiChange {
        kind: api_kind(kind),
        object: api_object(object),
        owner: owner.map(api_object),
        action: api_action(action),
        fields: fields
            .into_iter()
            .map(|FieldChange { path, old, new }| {
                let [old, new] = [old, new].map(api_value);
                ApiFieldChange { path, old, new }
            })
            .collect(),
    }
}

fn change(document: ApiChange) -> Change {
    let ApiChange { kind, object, owner, action, fields } = document;
    Change {
        kind: self::kind(kind),
        owner: owner.map(identity),
        object: identity(object),
        action: self::action(action),
        fields: fields
            .into_iter()
            .map(|ApiFieldChange { path, old, new }| {
                let [old, new] = [old, new].map(value);
                FieldChange { path, old, new }
            })
            .collect(),
    }
}

fn api_object(identity: Identity) -> ApiObject {
    let old_name = identity.is_renamed().then_some(identity.before);
    ApiObject { id: identity.id, name: identity.after, old_name }
}

fn identity(object: ApiObject) -> Identity {
    let ApiObject { id, name, old_name } = object;
    Identity { id, before: old_name.unwrap_or_else(|| name.clone()), after: name }
}

fn api_value(value: Value) -> ApiValue {
    match value {
        Value::Absent => ApiValue::Absent,
        Value::Boolean(boolean) => ApiValue::Boolean(boolean),
        Value::Number(number) => ApiValue::Number(number),
        Value::Text(text) => ApiValue::Text(text),
        Value::List(items) => ApiValue::List(items.into_iter().map(api_value).collect()),
    }
}

fn value(document: ApiValue) -> Value {
    match document {
        ApiValue::Absent => Value::Absent,
        ApiValue::Boolean(boolean) => Value::Boolean(boolean),
        ApiValue::Number(number) => Value::Number(number),
        ApiValue::Text(text) => Value::Text(text),
        ApiValue::List(items) => Value::List(items.into_iter().map(value).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slb_config::{diff::diff, samples::shop};

    /// `slb` writes the same words as a reader of the diff itself.
    #[test]
    fn changes_keep_their_words_through_the_document() {
        let check = "server_group = \"web\"\nhealth_check = { kind = \"http\", path = \"/up\", expect = [200, \"3xx\"] }";
        for replaced in [
            &[][..],
            &[("name = \"shop\"", "id = \"shop\"\nname = \"store\""), ("port = 80\n", "port = 81\n")],
            &[("name = \"shop\"", "name = \"store\"")],
            &[("server_group = \"web\"", check)],
            &[("server_group = \"web\"", &check.replace("\"http\"", "\"https\", verify = true"))],
            &[("[\"eth0\"]", "[\"eth1\"]\nprobe_mark = 7\nread_only_socket = \"/run/slb/read-only\"")],
            &[("name = \"web\"\nservers", "name = \"web\"\nid = \"g1\"\nservers")],
        ] {
            for diff in [diff(&shop(&[]), &shop(replaced)), diff(&shop(replaced), &shop(&[]))] {
                let text = serde_json::to_string(&documents(diff.clone())).unwrap();
                let read: Vec<ApiChange> = serde_json::from_str(&text).unwrap();
                assert_eq!(lines(&read, &[]), diff::lines(&diff), "{text}");
                assert_eq!(read.into_iter().map(change).collect::<Vec<_>>(), diff.changes);
                assert_eq!(diff.is_empty(), replaced.is_empty());
            }
        }
    }
}
