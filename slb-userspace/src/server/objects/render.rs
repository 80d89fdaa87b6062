//! Objects of a configuration as JSON. Keys are those of the object's table in the configuration file.

use openssl::sha::sha256;
use serde_json::{Map, Value as Json, json};

use crate::sources::edit::{ChildKind, ObjectPath, TopKind};
use slb_config::{
    Config,
    diff::{ObjectKind, ObjectValues, Value, object_values},
    model::Source,
};

/// The objects of a configuration.
pub(super) struct Objects<'a> {
    config: &'a Config,
    /// By kind, owner and id.
    all: Vec<ObjectValues>,
}

impl<'a> Objects<'a> {
    pub(super) fn of(config: &'a Config) -> Self {
        Self { config, all: object_values(config) }
    }

    /// The objects of a kind, by id.
    pub(super) fn list(&self, top: TopKind) -> Vec<(&str, Json)> {
        let of_kind = self.all.iter().filter(|object| object.kind == top_kind(top));
        of_kind.map(|object| (object.id.as_str(), self.top(top, object))).collect()
    }

    /// The parts of an object, by id; `None` if there is no such object.
    pub(super) fn parts(&self, top: TopKind, id: &str, child: ChildKind) -> Option<Vec<(&str, Json)>> {
        let source = self.source_of(top, self.find(top, id)?);
        let parts = self.parts_of(id, child);
        Some(parts.map(|part| (part.id.as_str(), with_source(fields(part), source))).collect())
    }

    /// An object.
    pub(super) fn get(&self, path: &ObjectPath) -> Option<Json> {
        let object = self.find(path.top, &path.id)?;
        let Some((kind, id)) = &path.child else { return Some(self.top(path.top, object)) };
        let part = self.parts_of(&path.id, *kind).find(|part| part.id == *id)?;
        Some(with_source(fields(part), self.source_of(path.top, object)))
    }

    /// The owner of an object, or of the object that it is part of; `None` if there is none.
    pub(super) fn source(&self, path: &ObjectPath) -> Option<Source> {
        self.find(path.top, &path.id).map(|object| self.source_of(path.top, object))
    }

    fn find(&self, top: TopKind, id: &str) -> Option<&ObjectValues> {
        let key = (top_kind(top), None, id);
        let order =
            |object: &ObjectValues| (object.kind, object.owner.as_deref(), object.id.as_str()).cmp(&key);
        self.all.binary_search_by(order).ok().map(|at| &self.all[at])
    }

    fn parts_of(&self, owner: &str, child: ChildKind) -> impl Iterator<Item = &ObjectValues> {
        let kind = match child {
            ChildKind::Listener => ObjectKind::Listener,
            ChildKind::DefaultServer => ObjectKind::DefaultServer,
            ChildKind::Server => ObjectKind::Server,
        };
        let key = (kind, Some(owner));
        let key_of = |part: &ObjectValues| (part.kind, part.owner.as_deref()).cmp(&key);
        let first = self.all.partition_point(|part| key_of(part).is_lt());
        let after = self.all.partition_point(|part| key_of(part).is_le());
        self.all[first..after].iter()
    }

    fn source_of(&self, top: TopKind, object: &ObjectValues) -> Source {
        let owned = &self.config.api_objects;
        let id = object.id.parse();
        match (top, id) {
            (TopKind::LoadBalancer, Ok(id)) => owned.load_balancer(&id),
            (TopKind::ServerGroup | TopKind::PrimarySecondaryGroup, Ok(id)) => owned.group(&id),
            (TopKind::AccessList, _) => {
                let lists = &self.config.access_lists;
                let list = lists.iter().find(|list| list.name.as_str() == object.id);
                list.map_or(Source::File, |list| owned.access_list(&list.name))
            }
            (_, Err(_)) => Source::File,
        }
    }

    fn top(&self, top: TopKind, object: &ObjectValues) -> Json {
        let mut all = fields(object);
        let children: &[ChildKind] = match top {
            TopKind::LoadBalancer => &[ChildKind::Listener, ChildKind::DefaultServer],
            TopKind::ServerGroup => &[ChildKind::Server],
            TopKind::PrimarySecondaryGroup | TopKind::AccessList => &[],
        };
        for child in children {
            let parts = self.parts_of(&object.id, *child).map(|part| Json::Object(fields(part)));
            all.insert(child.key().to_owned(), parts.collect());
        }
        with_source(all, self.source_of(top, object))
    }
}

/// The entity tag of an object (RFC 9110, 8.8.3). It changes with each of its values.
pub(super) fn entity_tag(object: &Json) -> String {
    let digest = sha256(object.to_string().as_bytes());
    let hexadecimal: Vec<_> = digest[..12].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{}\"", hexadecimal.concat())
}

fn with_source(mut object: Map<String, Json>, source: Source) -> Json {
    object.insert("source".to_owned(), source.name().into());
    Json::Object(object)
}

const fn top_kind(top: TopKind) -> ObjectKind {
    match top {
        TopKind::LoadBalancer => ObjectKind::LoadBalancer,
        TopKind::ServerGroup => ObjectKind::ServerGroup,
        TopKind::PrimarySecondaryGroup => ObjectKind::PrimarySecondaryGroup,
        TopKind::AccessList => ObjectKind::AccessList,
    }
}

/// The keys of an object's own table.
fn fields(object: &ObjectValues) -> Map<String, Json> {
    let mut table = Map::new();
    match object.kind {
        ObjectKind::DefaultServer => {
            table.insert("address".to_owned(), json!(object.id));
        }
        ObjectKind::Server => {
            if let Ok(endpoint) = object.id.parse::<std::net::SocketAddr>() {
                table.insert("address".to_owned(), json!(endpoint.ip()));
                // Behind a port range, servers have no port.
                if endpoint.port() != 0 {
                    table.insert("port".to_owned(), json!(endpoint.port()));
                }
            }
        }
        ObjectKind::AccessList => {
            table.insert("name".to_owned(), json!(object.name));
        }
        _ => {
            table.insert("id".to_owned(), json!(object.id));
            table.insert("name".to_owned(), json!(object.name));
        }
    }
    for (path, value) in &object.fields {
        insert(&mut table, path, json_of(value));
    }
    table
}

/// Inserts a value at a path such as `health_check.passive.within`.
fn insert(table: &mut Map<String, Json>, path: &str, value: Json) {
    let Some((first, rest)) = path.split_once('.') else {
        table.insert(path.to_owned(), value);
        return;
    };
    let inner = table.entry(first).or_insert_with(|| Json::Object(Map::new()));
    if let Json::Object(inner) = inner {
        insert(inner, rest, value);
    }
}

fn json_of(value: &Value) -> Json {
    match value {
        Value::Absent => Json::Null,
        Value::Boolean(boolean) => json!(boolean),
        Value::Number(number) => json!(number),
        Value::Text(text) => json!(text),
        Value::List(items) => items.iter().map(json_of).collect(),
    }
}

#[cfg(test)]
mod tests {
    use slb_config::{
        diff::diff,
        model::{Document, Documents},
        parse, parse_documents,
    };

    use super::*;
    use crate::sources::{api_document::ApiDocument, edit::Operation};

    /// Every setting of the example occurs.
    const EXAMPLE: &str = include_str!("../../../../config/slb.toml");

    /// The configuration whose objects were read from another one and made again.
    fn made_again(config: &Config) -> Config {
        let objects = Objects::of(config);
        let mut document = ApiDocument::default();
        for top in TopKind::ALL {
            for (id, object) in objects.list(top) {
                let path = ObjectPath { top, id: id.to_owned(), child: None };
                let Json::Object(mut fields) = object else { panic!("{id}") };
                assert_eq!(fields.insert("source".to_owned(), json!("api")), Some(json!("file")));
                document.edit(&path, &Operation::Put(Json::Object(fields))).unwrap();
            }
        }
        let api = Some(document.render("api.toml").unwrap());
        let daemon = EXAMPLE.split("[[").next().unwrap();
        let documents = Documents { file: Document::new("slb.toml", daemon), api };
        parse_documents(documents).unwrap_or_else(|rejected| panic!("{rejected}")).config
    }

    #[test]
    fn object_that_was_read_can_be_written() {
        let config = parse("slb.toml", EXAMPLE).unwrap().config;
        let again = made_again(&config);
        let changes = diff(&config, &again).changes;
        assert!(changes.iter().all(|change| change.kind == ObjectKind::Configuration), "{changes:?}");
        let objects = Objects::of(&again);
        for top in TopKind::ALL {
            assert!(objects.list(top).iter().all(|(_, object)| object["source"] == "api"), "{top:?}");
        }
        assert!(objects.list(TopKind::LoadBalancer).len() + objects.list(TopKind::ServerGroup).len() > 2);
    }

    #[test]
    fn entity_tag_changes_with_a_value() {
        let (one, other) = (json!({ "name": "a", "port": 1 }), json!({ "name": "a", "port": 2 }));
        assert_eq!(entity_tag(&one), entity_tag(&one.clone()));
        assert_ne!(entity_tag(&one), entity_tag(&other));
    }
}
