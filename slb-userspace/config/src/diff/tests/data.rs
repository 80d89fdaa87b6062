//! Tests the data of a diff.

use super::flip::flip;
use crate::{
    diff::{ChangeAction, Diff, FieldChange, Identity, ObjectKind, Value, diff},
    samples::shop,
};

fn changed(replaced: &[(&str, &str)]) -> Diff {
    diff(&shop(&[]), &shop(replaced))
}

fn identity(id: &str, before: &str, after: &str) -> Identity {
    Identity { id: id.to_owned(), before: before.to_owned(), after: after.to_owned() }
}

fn field(path: &str, old: Value, new: Value) -> FieldChange {
    FieldChange { path: path.to_owned(), old, new }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

#[test]
fn changed_listener_has_its_owner_and_the_values_of_the_fields_that_differ() {
    let diff = changed(&[
        ("port = 80\n", "port = 81\nestablished_timeout = \"60s\"\n"),
        ("name = \"shop\"", "id = \"shop\"\nname = \"store\""),
        (
            "server_group = \"web\"",
            "server_group = \"web\"\nhealth_check = { kind = \"tcp\", interval = \"3s\", port = 9 }",
        ),
    ]);
    let [balancer, listener] = &diff.changes[..] else { panic!("{diff:?}") };
    assert_eq!((balancer.kind, balancer.action), (ObjectKind::LoadBalancer, ChangeAction::Changed));
    assert_eq!(balancer.object, identity("shop", "shop", "store"));
    assert_eq!((&balancer.owner, &balancer.fields[..]), (&None, &[][..]));
    assert_eq!((listener.kind, listener.action), (ObjectKind::Listener, ChangeAction::Changed));
    assert_eq!(listener.object, identity("web", "web", "web"));
    assert_eq!(listener.owner, Some(identity("shop", "shop", "store")));
    assert_eq!(
        listener.fields,
        [
            field("port", Value::Number(80), Value::Number(81)),
            field("established_timeout", text("900s"), text("60s")),
            field("health_check.port", Value::Absent, Value::Number(9)),
            field("health_check.interval", text("2s"), text("3s")),
        ]
    );
}

/// Also what the text counts only: the servers of a group that is added.
#[test]
fn added_group_is_in_the_diff_with_its_servers_and_all_fields_that_are_set() {
    let group = "[[server_group]]\nname = \"new\"\nservers = [{ address = \"10.0.0.9\", port = 80 }]\n";
    let diff = changed(&[("[[server_group]]", &format!("{group}[[server_group]]"))]);
    let [group, server] = &diff.changes[..] else { panic!("{diff:?}") };
    assert_eq!((group.kind, group.action), (ObjectKind::ServerGroup, ChangeAction::Added));
    assert_eq!(
        group.fields,
        [
            field("table_size", Value::Absent, Value::Number(65_537)),
            field("slow_start", Value::Absent, text("off"))
        ]
    );
    assert_eq!((server.kind, server.action), (ObjectKind::Server, ChangeAction::Added));
    assert_eq!(server.object, identity("10.0.0.9:80", "10.0.0.9:80", "10.0.0.9:80"));
    assert_eq!(server.owner, Some(identity("new", "new", "new")));
    assert_eq!(server.fields, [field("weight", Value::Absent, Value::Number(100))]);
    let removed = flip(diff);
    assert!(removed.changes.iter().all(|change| change.action == ChangeAction::Removed));
    assert_eq!(removed.changes[1].fields, [field("weight", Value::Number(100), Value::Absent)]);
}
