//! Routes of the objects.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, State as Shared},
    http::{
        HeaderMap, HeaderName, StatusCode, Uri,
        header::{ETAG, IF_MATCH, IF_NONE_MATCH, LOCATION},
    },
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::Value;
use tokio::task::spawn_blocking;

use super::{
    edits::{Edit, EditOutcome, Edits},
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
    sources::edit::{ChildKind, ObjectPath, Operation},
};
use slb_api::{
    client::segment,
    objects::{Batch, BatchOperation, ObjectPage},
    types::Requester,
};

const COLLECTION: &str = "/v1/{collection}";
const OBJECT: &str = "/v1/{collection}/{id}";
const PARTS: &str = "/v1/{collection}/{id}/{parts}";
const PART: &str = "/v1/{collection}/{id}/{parts}/{part}";

/// Most changes of a batch.
const MAX_OPERATIONS: usize = 1000;
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

fn query<T: for<'de> Deserialize<'de>>(uri: &Uri) -> Result<T, Problem> {
    let parsed = Query::try_from_uri(uri);
    let refused = |error: axum::extract::rejection::QueryRejection| {
        Problem::new(StatusCode::BAD_REQUEST, error.body_text())
    };
    parsed.map(|Query(query)| query).map_err(refused)
}

/// The page that the query names, of objects in the order of their ids.
fn page(objects: Vec<(&str, Value)>, are_addresses: bool, uri: &Uri) -> Answer {
    let PageQuery { limit, after } = query(uri)?;
    let limit = limit.unwrap_or(PAGE);
    if !(1..=PAGE).contains(&limit) {
        let text = format!("`limit` is {limit}: 1 to {PAGE} objects are on a page");
        return Err(Problem::new(StatusCode::BAD_REQUEST, text));
    }
    let is_after = |id: &str| match &after {
        None => true,
        Some(after) if are_addresses => address(id) > address(after),
        Some(after) => id > after.as_str(),
    };
    let mut rest = objects.into_iter().filter(|(id, _)| is_after(id)).peekable();
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

/// The id of a server, as it is ordered: an address, or an endpoint.
fn address(id: &str) -> (Option<IpAddr>, Option<SocketAddr>) {
    (id.parse().ok(), id.parse().ok())
}

/// Answers off the runtime's workers.
async fn blocking(answer: impl FnOnce() -> Answer + Send + 'static) -> Answer {
    spawn_blocking(answer).await.unwrap_or_else(|error| {
        Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("no answer could be made: {error}")))
    })
}

fn with_tag(object: Value) -> Response {
    ([(ETAG, entity_tag(&object))], Json(object)).into_response()
}

fn missing(path: &ObjectPath) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("there is no {}", path.words()))
}

async fn list(Shared(api): Shared<Arc<Api>>, Path(collection): Path<String>, uri: Uri) -> Answer {
    let top = path::top(&collection)?;
    let config = api.config();
    // Thousands of objects take long.
    blocking(move || page(Objects::of(&config).list(top), false, &uri)).await
}

async fn list_parts(
    Shared(api): Shared<Arc<Api>>,
    Path((collection, id, parts)): Path<(String, String, String)>,
    uri: Uri,
) -> Answer {
    let top = path::top(&collection)?;
    let child = path::child(top, &parts)?;
    let config = api.config();
    blocking(move || {
        let objects = Objects::of(&config);
        let parts = objects.parts(top, &id, child);
        let parts = parts.ok_or_else(|| missing(&ObjectPath { top, id: id.clone(), child: None }))?;
        page(parts, child != ChildKind::Listener, &uri)
    })
    .await
}

async fn read(Shared(api): Shared<Arc<Api>>, Path(ids): Path<(String, String)>) -> Answer {
    api.object(top_path(ids)?).await
}

async fn read_part(Shared(api): Shared<Arc<Api>>, Path(ids): Path<PartIds>) -> Answer {
    api.object(part_path(ids)?).await
}

type PartIds = (String, String, String, String);

fn top_path((collection, id): (String, String)) -> Result<ObjectPath, Problem> {
    Ok(ObjectPath { top: path::top(&collection)?, id, child: None })
}

fn part_path((collection, id, parts, part): PartIds) -> Result<ObjectPath, Problem> {
    let top = path::top(&collection)?;
    let kind = path::child(top, &parts)?;
    Ok(ObjectPath { top, id, child: Some((kind, path::part_id(kind, &part))) })
}

/// What all changes are given.
struct ChangeRequest {
    api: Arc<Api>,
    by: Requester,
    bodies: BodyLimit,
    headers: HeaderMap,
    uri: Uri,
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
    async fn value(&mut self) -> Result<Value, Problem> {
        Ok(self.bodies.read(std::mem::take(&mut self.body)).await?)
    }

    /// Changes one object.
    async fn change(self, path: ObjectPath, operation: Operation) -> Answer {
        let is_put = matches!(operation, Operation::Put(_));
        let if_match = self.tags(&IF_MATCH)?;
        let must_be_new = match self.tags(&IF_NONE_MATCH)?.as_deref() {
            None => false,
            Some("*") => true,
            Some(_) => {
                let text = "a change takes `If-None-Match: *` alone: the object must not exist";
                return Err(Problem::new(StatusCode::BAD_REQUEST, text));
            }
        };
        let edit = Edit { path: path.clone(), operation, if_match, must_be_new };
        let (mut response, EditOutcome { is_new, tag }) = self.edit(vec![edit]).await?;
        // What PUT was given lacks the defaults, so the answer has no tag (RFC 9110, 9.3.4).
        if let Some(tag) = tag.filter(|_| !is_put).and_then(|tag| tag.parse().ok()) {
            response.headers_mut().insert(ETAG, tag);
        }
        if is_new {
            *response.status_mut() = StatusCode::CREATED;
            if let Ok(location) = location(&path).parse() {
                response.headers_mut().insert(LOCATION, location);
            }
        }
        Ok(response)
    }

    /// The value of a header with entity tags, all its lines joined.
    fn tags(&self, name: &HeaderName) -> Result<Option<String>, Problem> {
        let lines: Result<Vec<_>, _> = self.headers.get_all(name).iter().map(|line| line.to_str()).collect();
        let lines = lines
            .map_err(|_| Problem::new(StatusCode::BAD_REQUEST, format!("`{name}` has no entity tags")))?;
        Ok((!lines.is_empty()).then(|| lines.join(",")))
    }

    async fn edit(self, edits: Vec<Edit>) -> Result<(Response, EditOutcome), Problem> {
        let ChangeQuery { dry_run } = query(&self.uri)?;
        let edits = Edits(edits);
        if dry_run {
            return Ok((self.api.dry_run(&edits).await?, EditOutcome::default()));
        }
        let by = named(self.by).await;
        let (changed, outcome) = self.api.change(&ConfigChange::Edit(edits), &by).await?;
        Ok((Json(changed).into_response(), outcome))
    }
}

fn location(ObjectPath { top, id, child }: &ObjectPath) -> String {
    let top = format!("/v1/{}/{}", top.collection(), segment(id));
    match child {
        Some((ChildKind::Listener, part)) => format!("{top}/listeners/{}", segment(part)),
        Some((ChildKind::DefaultServer | ChildKind::Server, part)) => {
            format!("{top}/servers/{}", segment(part))
        }
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
    if !(1..=MAX_OPERATIONS).contains(&operations.len()) {
        let text = format!("`operations` has {}: a batch has 1 to {MAX_OPERATIONS}", operations.len());
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text));
    }
    let mut edits = Vec::new();
    for operation in operations {
        let (path, operation, if_match) = match operation {
            BatchOperation::Create { path, value } => (path, Operation::Create(value), None),
            BatchOperation::Put { path, value, if_match } => (path, Operation::Put(value), if_match),
            BatchOperation::Patch { path, value, if_match } => (path, Operation::Patch(value), if_match),
            BatchOperation::Delete { path, if_match } => (path, Operation::Delete, if_match),
        };
        edits.push(Edit { path: path::object(&path)?, operation, if_match, must_be_new: false });
    }
    request.edit(edits).await.map(|(response, _)| response)
}

impl Api {
    /// An object of the active configuration.
    async fn object(&self, path: ObjectPath) -> Answer {
        let config = self.config();
        blocking(move || Objects::of(&config).get(&path).map(with_tag).ok_or_else(|| missing(&path))).await
    }
}
