//! Routes of the objects.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, State as Shared},
    http::{
        HeaderMap, StatusCode,
        header::{ETAG, IF_MATCH, LOCATION},
    },
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::Value as Json_;

use super::{
    edits::{Edit, Edits},
    path,
    render::{Objects, entity_tag},
};
use crate::{
    server::{
        Api,
        config_change::ConfigChange,
        connection::{BodyLimit, named},
        problem::Problem,
        refuse_to_change,
    },
    sources::edit::{ObjectPath, Operation},
};
use slb_api::{
    objects::{Batch, BatchOperation, ObjectPage},
    types::Requester,
};

const COLLECTION: &str = "/v1/{collection}";
const OBJECT: &str = "/v1/{collection}/{id}";
const PARTS: &str = "/v1/{collection}/{id}/{parts}";
const PART: &str = "/v1/{collection}/{id}/{parts}/{part}";

/// Objects of a page, unless the caller asks for fewer.
const PAGE: usize = 1000;

/// Routes that read.
pub(in crate::server) fn readable() -> Router<Arc<Api>> {
    Router::new()
        .route(COLLECTION, get(list).fallback(refuse_to_change))
        .route(OBJECT, get(read).fallback(refuse_to_change))
        .route(PARTS, get(list_parts).fallback(refuse_to_change))
        .route(PART, get(read_part).fallback(refuse_to_change))
}

/// Routes that read and change.
pub(in crate::server) fn writable() -> Router<Arc<Api>> {
    let object = get(read).put(put).patch(patch).delete(delete);
    let part = get(read_part).put(put_part).patch(patch_part).delete(delete_part);
    Router::new()
        .route("/v1/batch", post(batch))
        .route(COLLECTION, get(list).post(create))
        .route(OBJECT, object)
        .route(PARTS, get(list_parts).post(create_part))
        .route(PART, part)
}

type Answer = Result<Response, Problem>;

/// Which page of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    /// Most objects.
    limit: Option<usize>,
    /// Id of the last object of the page before.
    after: Option<String>,
}

/// How a change is made.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeQuery {
    /// Whether the change is only shown.
    #[serde(default)]
    dry_run: bool,
}

fn query<T: for<'de> Deserialize<'de>>(uri: &axum::http::Uri) -> Result<T, Problem> {
    let parsed = Query::try_from_uri(uri);
    let refused = |error: axum::extract::rejection::QueryRejection| {
        Problem::new(StatusCode::BAD_REQUEST, error.body_text())
    };
    parsed.map(|Query(query)| query).map_err(refused)
}

fn page(objects: Vec<(&str, Json_)>, uri: &axum::http::Uri) -> Answer {
    let PageQuery { limit, after } = query(uri)?;
    let limit = limit.unwrap_or(PAGE);
    if !(1..=PAGE).contains(&limit) {
        let text = format!("`limit` is {limit}: 1 to {PAGE} objects are on a page");
        return Err(Problem::new(StatusCode::BAD_REQUEST, text));
    }
    let mut rest = objects.into_iter().skip_while(|(id, _)| {
        // Ids are in no order that a comparison could use: addresses are sorted as numbers.
        after.as_deref().is_some_and(|after| *id != after)
    });
    if after.is_some() {
        rest.next();
    }
    let mut rest = rest.peekable();
    let (mut items, mut last) = (Vec::new(), None);
    while items.len() < limit
        && let Some((id, object)) = rest.next()
    {
        items.push(object);
        last = Some(id.to_owned());
    }
    let next = rest.peek().and(last);
    Ok(Json(ObjectPage { items, next }).into_response())
}

fn with_tag(object: Json_) -> Response {
    ([(ETAG, entity_tag(&object))], Json(object)).into_response()
}

fn missing(path: &ObjectPath) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("there is no {}", path.words()))
}

async fn list(Shared(api): Shared<Arc<Api>>, Path(collection): Path<String>, uri: axum::http::Uri) -> Answer {
    let top = path::top(&collection)?;
    let config = api.config();
    page(Objects::of(&config).list(top), &uri)
}

async fn list_parts(
    Shared(api): Shared<Arc<Api>>,
    Path((collection, id, parts)): Path<(String, String, String)>,
    uri: axum::http::Uri,
) -> Answer {
    let top = path::top(&collection)?;
    let child = path::child(top, &parts)?;
    let config = api.config();
    let objects = Objects::of(&config);
    let parts = objects.parts(top, &id, child);
    page(parts.ok_or_else(|| missing(&ObjectPath { top, id, child: None }))?, &uri)
}

async fn read(Shared(api): Shared<Arc<Api>>, Path(ids): Path<(String, String)>) -> Answer {
    api.object(&top_path(ids)?)
}

async fn read_part(Shared(api): Shared<Arc<Api>>, Path(ids): Path<PartIds>) -> Answer {
    api.object(&part_path(ids)?)
}

type PartIds = (String, String, String, String);

fn top_path((collection, id): (String, String)) -> Result<ObjectPath, Problem> {
    Ok(ObjectPath { top: path::top(&collection)?, id, child: None })
}

fn part_path((collection, id, parts, part): PartIds) -> Result<ObjectPath, Problem> {
    let top = path::top(&collection)?;
    Ok(ObjectPath { top, id, child: Some((path::child(top, &parts)?, part)) })
}

/// What all changes are given.
struct ChangeRequest {
    api: Arc<Api>,
    by: Requester,
    bodies: BodyLimit,
    headers: HeaderMap,
    uri: axum::http::Uri,
    body: Body,
}

impl<S> axum::extract::FromRequest<S> for ChangeRequest
where
    S: Send + Sync,
    Arc<Api>: axum::extract::FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request(request: axum::extract::Request, state: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let extensions = &parts.extensions;
        let (Some(by), Some(bodies)) = (extensions.get::<Requester>(), extensions.get::<BodyLimit>()) else {
            return Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "a layer of the routes is missing"));
        };
        let api = axum::extract::FromRef::from_ref(state);
        let (by, bodies) = (by.clone(), bodies.clone());
        Ok(Self { api, by, bodies, headers: parts.headers, uri: parts.uri, body })
    }
}

impl ChangeRequest {
    /// Reads the value in the body.
    async fn value(&mut self) -> Result<Json_, Problem> {
        Ok(self.bodies.read(std::mem::take(&mut self.body)).await?)
    }

    /// Changes one object.
    async fn change(self, path: ObjectPath, operation: Operation) -> Answer {
        let if_match = match self.headers.get(IF_MATCH).map(|value| value.to_str()) {
            Some(Ok(tag)) => Some(tag.to_owned()),
            Some(Err(_)) => return Err(Problem::new(StatusCode::BAD_REQUEST, "`If-Match` is no entity tag")),
            None => None,
        };
        let existed = self.api.object(&path).is_ok();
        let is_delete = operation == Operation::Delete;
        let api = self.api.clone();
        let dry_run = query::<ChangeQuery>(&self.uri)?.dry_run;
        let mut response = self.edit(vec![Edit { path: path.clone(), operation, if_match }]).await?;
        if dry_run || is_delete {
            return Ok(response);
        }
        if let Some(tag) = api.object(&path).ok().and_then(|object| object.headers().get(ETAG).cloned()) {
            response.headers_mut().insert(ETAG, tag);
        }
        if !existed {
            *response.status_mut() = StatusCode::CREATED;
            if let Ok(location) = location(&path).parse() {
                response.headers_mut().insert(LOCATION, location);
            }
        }
        Ok(response)
    }

    async fn edit(self, edits: Vec<Edit>) -> Answer {
        let ChangeQuery { dry_run } = query(&self.uri)?;
        let edits = Edits(edits);
        if dry_run {
            return self.api.dry_run(&edits).await;
        }
        let by = named(self.by).await;
        let changed = self.api.change(&ConfigChange::Edit(edits), &by).await?;
        Ok(Json(changed).into_response())
    }
}

fn location(ObjectPath { top, id, child }: &ObjectPath) -> String {
    let top = format!("/v1/{}/{id}", top.collection());
    match child {
        Some((crate::sources::edit::ChildKind::Listener, part)) => format!("{top}/listeners/{part}"),
        Some((_, part)) => format!("{top}/servers/{part}"),
        None => top,
    }
}

async fn put(Path(ids): Path<(String, String)>, mut request: ChangeRequest) -> Answer {
    let value = request.value().await?;
    request.change(top_path(ids)?, Operation::Put(value)).await
}

async fn patch(Path(ids): Path<(String, String)>, mut request: ChangeRequest) -> Answer {
    let value = request.value().await?;
    request.change(top_path(ids)?, Operation::Patch(value)).await
}

async fn delete(Path(ids): Path<(String, String)>, request: ChangeRequest) -> Answer {
    request.change(top_path(ids)?, Operation::Delete).await
}

async fn put_part(Path(ids): Path<PartIds>, mut request: ChangeRequest) -> Answer {
    let value = request.value().await?;
    request.change(part_path(ids)?, Operation::Put(value)).await
}

async fn patch_part(Path(ids): Path<PartIds>, mut request: ChangeRequest) -> Answer {
    let value = request.value().await?;
    request.change(part_path(ids)?, Operation::Patch(value)).await
}

async fn delete_part(Path(ids): Path<PartIds>, request: ChangeRequest) -> Answer {
    request.change(part_path(ids)?, Operation::Delete).await
}

async fn create(Path(collection): Path<String>, mut request: ChangeRequest) -> Answer {
    let top = path::top(&collection)?;
    let value = request.value().await?;
    let id = path::id_of(top, None, &value)?;
    request.change(ObjectPath { top, id, child: None }, Operation::Create(value)).await
}

async fn create_part(
    Path((collection, id, parts)): Path<(String, String, String)>,
    mut request: ChangeRequest,
) -> Answer {
    let top = path::top(&collection)?;
    let kind = path::child(top, &parts)?;
    let value = request.value().await?;
    let part = path::id_of(top, Some(kind), &value)?;
    request.change(ObjectPath { top, id, child: Some((kind, part)) }, Operation::Create(value)).await
}

/// Makes several changes, all or none.
async fn batch(mut request: ChangeRequest) -> Answer {
    let Batch { operations } = request.bodies.read(std::mem::take(&mut request.body)).await?;
    if operations.is_empty() {
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "`operations` is empty: nothing to change",
        ));
    }
    let mut edits = Vec::new();
    for operation in operations {
        let (path, operation, if_match) = match operation {
            BatchOperation::Create { path, value } => (path, Operation::Create(value), None),
            BatchOperation::Put { path, value, if_match } => (path, Operation::Put(value), if_match),
            BatchOperation::Patch { path, value, if_match } => (path, Operation::Patch(value), if_match),
            BatchOperation::Delete { path, if_match } => (path, Operation::Delete, if_match),
        };
        edits.push(Edit { path: path::object(&path)?, operation, if_match });
    }
    request.edit(edits).await
}

impl Api {
    /// An object of the active configuration.
    fn object(&self, path: &ObjectPath) -> Answer {
        let config = self.config();
        Objects::of(&config).get(path).map(with_tag).ok_or_else(|| missing(path))
    }
}
