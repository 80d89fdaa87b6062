//! A diff can be written into a configuration file as it is: its paths are keys, its values what they are set to.

use proptest::prelude::*;
use toml::{Table, Value as Written};

use super::{
    flip::flip,
    random::{choices, config, sorted},
};
use crate::{
    diff::{Change, ChangeAction, Diff, FieldChange, Identity, ObjectKind, Value, diff},
    parse,
    samples::{SHOP, parsed},
};

/// Where objects of a kind are in the file: the array below the owner's table, or below the whole file.
fn array(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::LoadBalancer => "load_balancer",
        ObjectKind::Listener => "listener",
        ObjectKind::DefaultServer => "server",
        ObjectKind::ServerGroup => "server_group",
        ObjectKind::Server => "servers",
        ObjectKind::PrimarySecondaryGroup => "primary_secondary_group",
        ObjectKind::AccessList => "access_list",
        ObjectKind::Interface => "interfaces",
        ObjectKind::Configuration | ObjectKind::Daemon => panic!("{kind:?} is in no array"),
    }
}

/// The keys that identify an object, with their values.
fn identity(kind: ObjectKind, object: &Identity) -> Table {
    let text = |text: &str| Written::String(text.to_owned());
    match kind {
        ObjectKind::Interface | ObjectKind::AccessList => {
            Table::from_iter([("name".to_owned(), text(&object.id))])
        }
        ObjectKind::DefaultServer => Table::from_iter([("address".to_owned(), text(&object.id))]),
        ObjectKind::Server => {
            let server: std::net::SocketAddr = object.id.parse().unwrap();
            let port = Written::Integer(server.port().into());
            let address = text(&server.ip().to_string());
            Table::from_iter([("address".to_owned(), address), ("port".to_owned(), port)])
        }
        _ => {
            Table::from_iter([("id".to_owned(), text(&object.id)), ("name".to_owned(), text(&object.after))])
        }
    }
}

fn is_object(entry: &Written, kind: ObjectKind, object: &Identity) -> bool {
    let wanted = identity(kind, object);
    // The name may be another one.
    wanted
        .iter()
        .all(|(key, value)| (key == "name" && wanted.contains_key("id")) || entry.get(key) == Some(value))
}

fn entries<'a>(table: &'a mut Table, array: &str) -> &'a mut Vec<Written> {
    table.entry(array).or_insert_with(|| Written::Array(Vec::new())).as_array_mut().unwrap()
}

fn daemon(file: &mut Table) -> &mut Table {
    file.get_mut("daemon").unwrap().as_table_mut().unwrap()
}

fn table_of<'a>(file: &'a mut Table, kind: ObjectKind, object: &Identity) -> &'a mut Table {
    let entry = entries(file, array(kind)).iter_mut().find(|entry| is_object(entry, kind, object));
    entry.unwrap_or_else(|| panic!("no {kind:?} {object:?}")).as_table_mut().unwrap()
}

/// Writes a diff into a file.
fn apply(file: &mut Table, diff: &Diff) {
    // What is added to an owner follows the owner.
    diff.changes.iter().for_each(|change| apply_change(file, change));
}

fn apply_change(file: &mut Table, Change { kind, owner, object, action, fields }: &Change) {
    let parent = match (kind, owner) {
        (ObjectKind::Configuration, _) => return,
        (ObjectKind::Daemon, _) => return fields.iter().for_each(|field| set(daemon(file), field)),
        (ObjectKind::Interface, _) => daemon(file),
        (_, None) => file,
        (_, Some(owner)) => {
            let kind = kind.owner().unwrap();
            let is_there = entries(file, array(kind)).iter().any(|entry| is_object(entry, kind, owner));
            if !is_there {
                // It went with its owner.
                assert_eq!(*action, ChangeAction::Removed);
                return;
            }
            table_of(file, kind, owner)
        }
    };
    match action {
        ChangeAction::Added => entries(parent, array(*kind)).push(Written::Table(identity(*kind, object))),
        ChangeAction::Removed => {
            entries(parent, array(*kind)).retain(|entry| !is_object(entry, *kind, object));
            return;
        }
        ChangeAction::Changed => table_of(parent, *kind, object).extend(identity(*kind, object)),
        ChangeAction::Reordered => panic!("{kind:?} has an order"),
    }
    let table = table_of(parent, *kind, object);
    fields.iter().for_each(|field| set(table, field));
}

/// Sets a key to the new value of a field, whose old value it has.
fn set(table: &mut Table, FieldChange { path, old, new }: &FieldChange) {
    match (path.split_once('.'), written(new)) {
        (Some((outer, rest)), _) => {
            let inner =
                table.entry(outer).or_insert_with(|| Written::Table(Table::new())).as_table_mut().unwrap();
            set(inner, &FieldChange { path: rest.to_owned(), old: old.clone(), new: new.clone() });
            if inner.is_empty() {
                table.remove(outer);
            }
        }
        (None, None) => assert_eq!(table.remove(path), written(old), "{path}"),
        (None, Some(value)) => assert_eq!(table.insert(path.clone(), value), written(old), "{path}"),
    }
}

/// `None` for no key.
fn written(value: &Value) -> Option<Written> {
    Some(match value {
        Value::Absent => return None,
        Value::Boolean(boolean) => Written::Boolean(*boolean),
        Value::Number(number) => Written::Integer((*number).try_into().unwrap()),
        Value::Text(text) => Written::String(text.clone()),
        Value::List(items) => Written::Array(items.iter().filter_map(written).collect()),
    })
}

/// The file of a configuration, with all its settings: that of another one, changed by the diff between both.
fn file(config: &crate::Config) -> Table {
    let first = "[daemon]\ninterfaces = []\n";
    let mut base = parsed(SHOP);
    let mut file: Table = first.parse().unwrap();
    // Of the base only the daemon's settings are in the file, so the diff must have all others.
    base.load_balancers.clear();
    base.server_groups.clear();
    let settings = [
        ("xdp_mode", Written::from("auto")),
        ("pin_dir", Written::from("/sys/fs/bpf/slb")),
        ("socket", Written::from("/run/slb/slbd.sock")),
        ("read_only_socket", Written::from("off")),
        ("metrics_address", Written::from("off")),
        ("state_dir", Written::from("/var/lib/slb")),
        ("flow_table_entries", Written::from(262_144)),
        ("max_servers", Written::from(16_384)),
        ("tunnel_addresses", Written::Array(Vec::new())),
        ("gue_port", Written::from(6_080)),
        ("local_addresses", Written::Array(Vec::new())),
        ("probe_source", Written::Array(Vec::new())),
    ];
    let table = daemon(&mut file);
    table.extend(settings.map(|(key, value)| (key.to_owned(), value)));
    let interface = [("name", "eth0"), ("role", "both")].map(|(key, value)| (key.to_owned(), value.into()));
    entries(table, "interfaces").push(Written::Table(Table::from_iter(interface)));
    apply(&mut file, &diff(&base, config));
    file
}

/// The configuration that a file means.
fn read(file: &Table) -> Result<crate::Config, TestCaseError> {
    let text = toml::to_string(file).unwrap();
    let read = parse("written.toml", &text);
    Ok(read.map_err(|rejected| TestCaseError::fail(format!("{rejected}\n{text}")))?.config)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn diff_written_into_the_old_file_is_the_new_configuration((old, new) in (choices(), choices())) {
        let (old, new) = (config(&old), config(&new));
        let mut written = file(&old);
        prop_assert_eq!(sorted(read(&written)?), sorted(old.clone()));
        let there = diff(&old, &new);
        apply(&mut written, &there);
        prop_assert_eq!(sorted(read(&written)?), sorted(new), "{:?}", there);
        apply(&mut written, &flip(there));
        prop_assert_eq!(sorted(read(&written)?), sorted(old));
    }
}
