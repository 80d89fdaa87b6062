//! Changes of objects in the document of the API.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value as Json;
use toml::{Table, Value};

use super::api_document::ApiDocument;

/// Kinds of objects at the top of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopKind {
    /// A load balancer, with its listeners and the servers of its default server group.
    LoadBalancer,
    /// A server group, with its servers.
    ServerGroup,
    /// A primary/secondary server group.
    PrimarySecondaryGroup,
    /// An access list.
    AccessList,
}

/// Kinds of objects that are part of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildKind {
    /// A listener of a load balancer.
    Listener,
    /// A server of a load balancer's default server group.
    DefaultServer,
    /// A server of a server group.
    Server,
}

/// Names an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectPath {
    /// Kind of the object at the top.
    pub top: TopKind,
    /// Id of the object at the top.
    pub id: String,
    /// Kind and id of the part of it that is meant; `None` for the object itself.
    pub child: Option<(ChildKind, String)>,
}

/// What happens to an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// It is made. It must not exist.
    Create(Json),
    /// It is made, or replaced as a whole.
    Put(Json),
    /// Its keys are replaced by those of the value, `null` removes a key (RFC 7396).
    Patch(Json),
    /// It is removed.
    Delete,
}

/// Why an object cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The document has no such object.
    #[error("there is no {0}")]
    Missing(String),
    /// The object exists already.
    #[error("there is a {0} already: replace it with PUT, or change it with PATCH")]
    Exists(String),
    /// The value cannot be that of an object.
    #[error("{0}")]
    Invalid(String),
}

impl TopKind {
    /// All kinds.
    pub const ALL: [Self; 4] =
        [Self::LoadBalancer, Self::ServerGroup, Self::PrimarySecondaryGroup, Self::AccessList];

    /// Key of the list in the document.
    pub const fn key(self) -> &'static str {
        match self {
            Self::LoadBalancer => "load_balancer",
            Self::ServerGroup => "server_group",
            Self::PrimarySecondaryGroup => "primary_secondary_group",
            Self::AccessList => "access_list",
        }
    }

    /// The collection in a path of the API.
    pub const fn collection(self) -> &'static str {
        match self {
            Self::LoadBalancer => "load-balancers",
            Self::ServerGroup => "server-groups",
            Self::PrimarySecondaryGroup => "primary-secondary-groups",
            Self::AccessList => "access-lists",
        }
    }

    /// The kind of the parts with this collection in a path of the API.
    pub fn child(self, collection: &str) -> Option<ChildKind> {
        match (self, collection) {
            (Self::LoadBalancer, "listeners") => Some(ChildKind::Listener),
            (Self::LoadBalancer, "servers") => Some(ChildKind::DefaultServer),
            (Self::ServerGroup, "servers") => Some(ChildKind::Server),
            _ => None,
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::LoadBalancer => "load balancer",
            Self::ServerGroup => "server group",
            Self::PrimarySecondaryGroup => "primary/secondary server group",
            Self::AccessList => "access list",
        }
    }
}

impl ChildKind {
    /// Key of the list in the table of the object at the top.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::DefaultServer => "server",
            Self::Server => "servers",
        }
    }
}

impl ObjectPath {
    /// The object in words.
    pub fn words(&self) -> String {
        let top = format!("{} `{}`", self.top.words(), self.id);
        match &self.child {
            Some((ChildKind::Listener, id)) => format!("listener `{id}` of {top}"),
            Some((ChildKind::DefaultServer | ChildKind::Server, id)) => format!("server {id} of {top}"),
            None => top,
        }
    }

    /// The object at the top.
    #[must_use]
    pub fn owner(&self) -> Self {
        Self { child: None, ..self.clone() }
    }

    /// The id that an object has by its own keys; `None` if it has none.
    pub fn id_of(top: TopKind, child: Option<ChildKind>, table: &Table) -> Option<String> {
        let text = |key| table.get(key).and_then(Value::as_str).map(str::to_owned);
        match (top, child) {
            (_, Some(ChildKind::DefaultServer)) => {
                let address: IpAddr = text("address")?.parse().ok()?;
                Some(address.to_string())
            }
            (_, Some(ChildKind::Server)) => {
                let address: IpAddr = text("address")?.parse().ok()?;
                let port = table.get("port").map_or(Some(0), |port| port.as_integer()?.try_into().ok())?;
                Some(SocketAddr::new(address, port).to_string())
            }
            (TopKind::AccessList, None) => text("name"),
            _ => text("id").or_else(|| text("name")),
        }
    }
}

impl ApiDocument {
    /// Where an object is in the document: its place in the list of its kind, and that of the part.
    pub fn place(&self, path: &ObjectPath) -> Option<String> {
        let list = self.objects.get(path.top.key())?.as_array()?;
        let at = position(list, path.top, None, &path.id)?;
        let place = format!("{}[{at}]", path.top.key());
        let Some((kind, id)) = &path.child else { return Some(place) };
        let parts = list.get(at)?.get(kind.key())?.as_array()?;
        Some(format!("{place}.{}[{}]", kind.key(), position(parts, path.top, Some(*kind), id)?))
    }

    /// Changes an object.
    ///
    /// # Errors
    /// The document has no such object, or the value cannot be that of the object. Nothing has changed.
    pub fn edit(&mut self, path: &ObjectPath, operation: &Operation) -> Result<(), EditError> {
        let ObjectPath { top, id, child } = path;
        let Some((kind, child)) = child else {
            return edit_list(&mut self.objects, top.key(), (*top, None, id), operation, path);
        };
        let lists = self.objects.get_mut(top.key()).and_then(Value::as_array_mut);
        let owner = lists.and_then(|list| {
            let at = position(list, *top, None, id)?;
            list.get_mut(at)?.as_table_mut()
        });
        let owner = owner.ok_or_else(|| EditError::Missing(path.owner().words()))?;
        edit_list(owner, kind.key(), (*top, Some(*kind), child), operation, path)
    }
}

type Identity<'a> = (TopKind, Option<ChildKind>, &'a str);

fn edit_list(
    table: &mut Table,
    key: &str,
    identity: Identity<'_>,
    operation: &Operation,
    path: &ObjectPath,
) -> Result<(), EditError> {
    let (top, child, id) = identity;
    let mut list = match table.get(key) {
        None => Vec::new(),
        Some(Value::Array(list)) => list.clone(),
        Some(_) => return Err(EditError::Invalid(format!("`{key}` is not a list"))),
    };
    let at = position(&list, top, child, id);
    let missing = || EditError::Missing(path.words());
    match (operation, at) {
        (Operation::Create(_), Some(_)) => return Err(EditError::Exists(path.words())),
        (Operation::Create(value), None) | (Operation::Put(value), None) => {
            list.push(Value::Table(object(value, identity)?));
        }
        (Operation::Put(value), Some(at)) => list[at] = Value::Table(object(value, identity)?),
        (Operation::Patch(value), at) => {
            let at = at.ok_or_else(missing)?;
            let mut merged = list[at].clone();
            merge(&mut merged, value)?;
            let Value::Table(merged) = merged else {
                return Err(EditError::Invalid("the value must be an object".to_owned()));
            };
            list[at] = Value::Table(identified(merged, identity)?);
        }
        (Operation::Delete, at) => {
            list.remove(at.ok_or_else(missing)?);
        }
    }
    if list.is_empty() {
        table.remove(key);
    } else {
        table.insert(key.to_owned(), Value::Array(list));
    }
    Ok(())
}

fn position(list: &[Value], top: TopKind, child: Option<ChildKind>, id: &str) -> Option<usize> {
    let has_id = |value: &Value| {
        value.as_table().and_then(|table| ObjectPath::id_of(top, child, table)).as_deref() == Some(id)
    };
    list.iter().position(has_id)
}

/// The table of an object, with the id of its path.
fn object(value: &Json, identity: Identity<'_>) -> Result<Table, EditError> {
    identified(table(value)?, identity)
}

/// The table of an object.
///
/// # Errors
/// The value is none.
pub fn table(value: &Json) -> Result<Table, EditError> {
    match to_toml(value)? {
        Some(Value::Table(table)) => Ok(table),
        _ => Err(EditError::Invalid("the value must be an object".to_owned())),
    }
}

/// Makes the id of an object that of its path. A name that differs from it needs an `id`.
fn identified(mut table: Table, (top, child, id): Identity<'_>) -> Result<Table, EditError> {
    // Answers have it, and it may be sent again.
    if let Some(source) = table.remove("source")
        && source.as_str() != Some("api")
    {
        return Err(EditError::Invalid(
            "`source` cannot be set: what is made here is of source `api`".to_owned(),
        ));
    }
    let has_id = child != Some(ChildKind::Server)
        && child != Some(ChildKind::DefaultServer)
        && top != TopKind::AccessList
        || child == Some(ChildKind::Listener);
    if has_id && !table.contains_key("id") && table.get("name").and_then(Value::as_str) != Some(id) {
        table.insert("id".to_owned(), Value::String(id.to_owned()));
        if !table.contains_key("name") {
            table.insert("name".to_owned(), Value::String(id.to_owned()));
        }
    }
    match ObjectPath::id_of(top, child, &table) {
        Some(found) if found == id => Ok(table),
        Some(found) => {
            Err(EditError::Invalid(format!("the value is that of `{found}`, and the path names `{id}`")))
        }
        None => Err(EditError::Invalid(format!("the value does not say that it is `{id}`"))),
    }
}

/// Merges a patch into a value (RFC 7396).
fn merge(value: &mut Value, patch: &Json) -> Result<(), EditError> {
    let Json::Object(patch) = patch else {
        return Err(EditError::Invalid("the value must be an object".to_owned()));
    };
    if !value.is_table() {
        *value = Value::Table(Table::new());
    }
    let Value::Table(table) = value else { return Ok(()) };
    for (key, new) in patch {
        match (new, table.get_mut(key)) {
            (Json::Object(_), Some(old)) => merge(old, new)?,
            (new, _) => match to_toml(new)? {
                Some(new) => drop(table.insert(key.clone(), new)),
                None => drop(table.remove(key)),
            },
        }
    }
    Ok(())
}

/// The value in TOML; `null` is no value.
fn to_toml(value: &Json) -> Result<Option<Value>, EditError> {
    Ok(Some(match value {
        Json::Null => return Ok(None),
        Json::Bool(boolean) => Value::Boolean(*boolean),
        Json::Number(number) => match (number.as_i64(), number.is_u64()) {
            (Some(number), _) => Value::Integer(number),
            // Beyond every range. The rules say so.
            (None, true) => Value::Integer(i64::MAX),
            (None, false) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::String(text.clone()),
        Json::Array(items) => {
            let items = items.iter().map(|item| {
                to_toml(item)?.ok_or_else(|| EditError::Invalid("a list cannot hold `null`".to_owned()))
            });
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        Json::Object(fields) => {
            let mut table = Table::new();
            for (key, value) in fields {
                if let Some(value) = to_toml(value)? {
                    table.insert(key.clone(), value);
                }
            }
            Value::Table(table)
        }
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn group(id: &str) -> ObjectPath {
        ObjectPath { top: TopKind::ServerGroup, id: id.to_owned(), child: None }
    }

    fn part(top: TopKind, id: &str, kind: ChildKind, part: &str) -> ObjectPath {
        ObjectPath { top, id: id.to_owned(), child: Some((kind, part.to_owned())) }
    }

    fn edited(edits: &[(ObjectPath, Operation)]) -> (ApiDocument, Result<(), EditError>) {
        let mut document = ApiDocument::default();
        for (path, operation) in edits {
            let before = document.clone();
            if let Err(error) = document.edit(path, operation) {
                assert_eq!(document, before, "a refused change");
                return (before, Err(error));
            }
        }
        (document, Ok(()))
    }

    fn objects(edits: &[(ObjectPath, Operation)]) -> serde_json::Value {
        let (document, result) = edited(edits);
        result.unwrap();
        serde_json::to_value(document.objects).unwrap()
    }

    #[test]
    fn objects_are_made_replaced_patched_and_removed() {
        let made = (group("web"), Operation::Create(json!({ "name": "web", "table_size": 251 })));
        assert_eq!(
            objects(std::slice::from_ref(&made)),
            json!({ "server_group": [{ "name": "web", "table_size": 251 }] })
        );
        let replaced = (group("web"), Operation::Put(json!({ "name": "web", "slow_start": "5s" })));
        assert_eq!(
            objects(&[made.clone(), replaced.clone()]),
            json!({ "server_group": [{ "name": "web", "slow_start": "5s" }] })
        );
        let patched = (group("web"), Operation::Patch(json!({ "slow_start": null, "table_size": 509 })));
        assert_eq!(
            objects(&[replaced, patched]),
            json!({ "server_group": [{ "name": "web", "table_size": 509 }] })
        );
        assert_eq!(objects(&[made, (group("web"), Operation::Delete)]), json!({}));
    }

    #[test]
    fn renamed_object_keeps_its_id() {
        let made = (group("web"), Operation::Put(json!({ "name": "web" })));
        let renamed = (group("web"), Operation::Put(json!({ "name": "shop" })));
        let list = objects(&[made, renamed]);
        assert_eq!(list, json!({ "server_group": [{ "id": "web", "name": "shop" }] }));
    }

    #[test]
    fn parts_are_found_by_their_values() {
        let made = (group("web"), Operation::Put(json!({ "name": "web" })));
        let server = part(TopKind::ServerGroup, "web", ChildKind::Server, "[fd00::1]:80");
        let value = json!({ "address": "fd00:0::1", "port": 80 });
        let created = (server.clone(), Operation::Create(value.clone()));
        let weighted = (server.clone(), Operation::Patch(json!({ "weight": 5 })));
        let list = objects(&[made.clone(), created.clone(), weighted]);
        assert_eq!(list["server_group"][0]["servers"][0]["weight"], json!(5));
        let (document, result) = edited(&[made.clone(), created, (server.clone(), Operation::Create(value))]);
        assert_eq!(document.place(&server).as_deref(), Some("server_group[0].servers[0]"));
        assert!(matches!(result, Err(EditError::Exists(_))), "{result:?}");
        let other = (server, Operation::Put(json!({ "address": "fd00::2", "port": 80 })));
        let (_, result) = edited(&[made, other]);
        assert!(result.unwrap_err().to_string().contains("`[fd00::2]:80`"));
    }

    #[test]
    fn missing_objects_and_values_that_are_none_are_refused() {
        let listener = part(TopKind::LoadBalancer, "shop", ChildKind::Listener, "web");
        for (path, operation, words) in [
            (group("web"), Operation::Delete, "there is no server group `web`"),
            (group("web"), Operation::Patch(json!({})), "there is no server group `web`"),
            (listener, Operation::Put(json!({ "name": "web" })), "there is no load balancer `shop`"),
            (group("web"), Operation::Put(json!([1])), "must be an object"),
            (group("web"), Operation::Put(json!({ "name": "web", "servers": [null] })), "cannot hold `null`"),
            (group("web"), Operation::Put(json!({ "name": "web", "source": "file" })), "cannot be set"),
            (group("web"), Operation::Put(json!({ "id": "x", "name": "web" })), "is that of `x`"),
        ] {
            let said = edited(&[(path, operation)]).1.unwrap_err().to_string();
            assert!(said.contains(words), "{words}: {said}");
        }
    }

    #[test]
    fn patch_merges_tables_and_replaces_lists() {
        let made = json!({
            "name": "web", "health_check": { "kind": "http", "path": "/a" }, "servers": [{ "address": "10.0.0.1" }],
        });
        let patch = json!({ "health_check": { "path": "/b", "kind": null }, "servers": [] });
        let list = objects(&[(group("web"), Operation::Put(made)), (group("web"), Operation::Patch(patch))]);
        let expected = json!({ "name": "web", "health_check": { "path": "/b" }, "servers": [] });
        assert_eq!(list["server_group"][0], expected);
    }
}
