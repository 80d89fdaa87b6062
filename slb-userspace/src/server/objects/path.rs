//! Paths of the API that name objects.

use std::net::{IpAddr, SocketAddr};

use axum::http::StatusCode;
use percent_encoding::percent_decode_str;

use crate::{
    server::problem::Problem,
    sources::edit::{ChildKind, ObjectPath, TopKind, table},
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

/// The id of a part, as it is compared: addresses have several spellings.
pub(super) fn part_id(kind: ChildKind, id: &str) -> String {
    let canonical = match kind {
        ChildKind::Listener => None,
        ChildKind::DefaultServer => id.parse().map(|address: IpAddr| address.to_string()).ok(),
        ChildKind::Server => id.parse().map(|endpoint: SocketAddr| endpoint.to_string()).ok(),
    };
    canonical.unwrap_or_else(|| id.to_owned())
}

/// The object with this path, as in `/v1/load-balancers/shop/listeners/web`.
///
/// # Errors
/// It is no such path.
pub(super) fn object(path: &str) -> Result<ObjectPath, Problem> {
    let parts = path.strip_prefix("/v1/").unwrap_or(path).split('/');
    let parts: Vec<_> = parts.map(|part| percent_decode_str(part).decode_utf8_lossy()).collect();
    match &parts[..] {
        [collection, id] => Ok(ObjectPath { top: top(collection)?, id: id.to_string(), child: None }),
        [collection, id, parts, part] => {
            let top = top(collection)?;
            let kind = child(top, parts)?;
            let child = Some((kind, part_id(kind, part)));
            Ok(ObjectPath { top, id: id.to_string(), child })
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
    let id = table(value).ok().and_then(|table| ObjectPath::id_of(top, child, &table));
    id.ok_or_else(|| {
        let needed = match child {
            Some(ChildKind::DefaultServer) => "an `address`",
            Some(ChildKind::Server) => "an `address` and a `port`",
            Some(ChildKind::Listener) | None => "a `name`",
        };
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("the value must be an object with {needed}"))
    })
}
