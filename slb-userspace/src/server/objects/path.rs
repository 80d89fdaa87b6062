//! Paths of the API that name objects.

use axum::http::StatusCode;

use crate::{
    server::problem::Problem,
    sources::edit::{ChildKind, ObjectPath, TopKind},
};

/// The kind of the objects of a collection at the top.
///
/// # Errors
/// There is no such collection.
pub(super) fn top(collection: &str) -> Result<TopKind, Problem> {
    let named = |kind: &TopKind| kind.collection() == collection;
    TopKind::ALL.into_iter().find(named).ok_or_else(|| {
        let all = TopKind::ALL.map(|kind| format!("/v1/{}", kind.collection()));
        let text = format!("there is no /v1/{collection}; there are {}", all.join(", "));
        Problem::new(StatusCode::NOT_FOUND, text)
    })
}

/// The kind of the parts of an object.
///
/// # Errors
/// Such objects have no such parts.
pub(super) fn child(top: TopKind, collection: &str) -> Result<ChildKind, Problem> {
    top.child(collection).ok_or_else(|| {
        let text = format!("the objects of /v1/{} have no `{collection}`", top.collection());
        Problem::new(StatusCode::NOT_FOUND, text)
    })
}

/// The object with this path, as in `/v1/load-balancers/shop/listeners/web`.
///
/// # Errors
/// It is no such path.
pub(super) fn object(path: &str) -> Result<ObjectPath, Problem> {
    let parts: Vec<_> = path.strip_prefix("/v1/").unwrap_or(path).split('/').collect();
    match parts[..] {
        [collection, id] => Ok(ObjectPath { top: top(collection)?, id: id.to_owned(), child: None }),
        [collection, id, parts, part] => {
            let top = top(collection)?;
            let child = Some((child(top, parts)?, part.to_owned()));
            Ok(ObjectPath { top, id: id.to_owned(), child })
        }
        _ => {
            let text = format!("`{path}` names no object: write it as `/v1/server-groups/web`");
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text))
        }
    }
}

/// The id of a new object, by its own keys.
///
/// # Errors
/// It has none.
pub(super) fn id_of(
    top: TopKind,
    child: Option<ChildKind>,
    value: &serde_json::Value,
) -> Result<String, Problem> {
    let table = toml::Table::try_from(value).ok();
    let id = table.and_then(|table| ObjectPath::id_of(top, child, &table));
    id.ok_or_else(|| {
        let needed = match child {
            Some(ChildKind::DefaultServer) => "an `address`",
            Some(ChildKind::Server) => "an `address` and a `port`",
            Some(ChildKind::Listener) | None => "a `name`",
        };
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("the value must be an object with {needed}"))
    })
}
