//! Serves the API on Unix sockets.

pub mod bases;
pub mod changes;
mod config_change;
mod configured_ids;
mod connection;
mod file;
pub mod flows;
pub mod interfaces;
pub mod loader;
mod metrics;
mod objects;
pub mod override_keys;
mod problem;
pub mod requests;
mod snapshot;
mod socket;
pub mod status;
mod status_cache;
mod status_source;

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use axum::{
    Extension, Json, Router,
    body::{Body, Bytes},
    extract::State as Shared,
    http::{StatusCode, header::CONTENT_TYPE},
    middleware::from_fn,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use tokio::{
    sync::{Mutex, mpsc, oneshot, watch},
    task::spawn_blocking,
    time::Instant,
};

use self::{
    bases::Bases,
    changes::documents,
    config_change::{ConfigChange, PreparedChange},
    flows::filter,
    loader::{LoadPermit, Loader},
    objects::edits::{EditOutcome, EditedConfig, Edits},
    override_keys::named_server,
    problem::Problem,
    requests::{ApiCommand, Request, RequestError, ValidationResult, all_warnings},
};
use self::{
    connection::{BodyLimit, named, serve},
    file::ConfigFile,
    metrics::{Metrics, count_request},
    status_cache::{StatusCache, StatusTexts},
    status_source::StatusSource,
};
pub use self::{
    snapshot::{ActiveConfig, PendingChange, Snapshot},
    socket::Sockets,
    status_source::StatusSources,
};
use crate::dataplane::bpf::maps::Maps;
use slb_api::{
    changes::{ChangeResult, DiffResult},
    flows::{Flush, Flushed},
    types::{self, ConfigText, OverrideRequest, Requester, Set},
};
use slb_config::{
    Config, LoadedConfig,
    diff::diff,
    model::{Document, Weight},
};

/// Most concurrent connections to the full socket. Further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// Most concurrent connections to the read-only socket.
const MAX_READ_ONLY_CONNECTIONS: usize = 64;

/// Longest `confirm_within_seconds`.
const MAX_CONFIRM_TIME: Duration = Duration::from_secs(24 * 60 * 60);

impl Sockets {
    /// Serves requests until the future is dropped: from published state, and through the event loop.
    pub async fn serve(
        self,
        maps: Maps,
        loader: Loader,
        shown: StatusSources,
        requests: mpsc::Sender<Request>,
    ) {
        let Self { full, read_only, metrics: metrics_address } = self;
        let file = ConfigFile::new(loader.path().to_owned(), loader.seed());
        let snapshots = shown.snapshots.clone();
        let source = Arc::new(StatusSource { maps, file, shown, started: Instant::now() });
        let metrics = Metrics::new(Arc::clone(&source));
        let documents = StatusCache::new(move || source.document());
        let api = Arc::new(Api { documents, loader, snapshots, requests, edit_turn: Mutex::default() });
        let asked = || Router::new().route("/v1/pending", get(serve_pending));
        let router = asked()
            .route("/v1/status", get(serve_status))
            .route("/v1/diff", post(serve_diff))
            .route("/v1/reload", post(serve_reload))
            .route("/v1/apply", post(serve_apply))
            .route("/v1/confirm", post(serve_confirm))
            .route("/v1/servers", post(serve_overrides))
            .route("/v1/flows/flush", post(serve_flush))
            .merge(objects::writable())
            .fallback(unknown_path)
            .method_not_allowed_fallback(wrong_method)
            .with_state(Arc::clone(&api))
            .layer(Extension(BodyLimit::default()))
            .merge(metrics.router("/v1/metrics"))
            .layer(from_fn(count_request));
        let watched = asked()
            .route("/v1/status", get(serve_read_only_status))
            .merge(objects::readable())
            .fallback(refuse_to_change)
            .with_state(api)
            .merge(metrics.router("/v1/metrics"))
            .layer(from_fn(count_request));
        let scraped = metrics.router("/metrics").layer(from_fn(count_request));
        let scrape = async {
            if let Some(address) = metrics_address {
                metrics::listen::serve(address, &scraped).await;
            }
        };
        let watch = async {
            if let Some(socket) = read_only {
                serve(socket, &watched, MAX_READ_ONLY_CONNECTIONS).await;
            }
        };
        tokio::join!(serve(full, &router, MAX_CONNECTIONS), watch, scrape);
    }
}

async fn unknown_path() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path: docs/api.md lists the paths")
}

async fn wrong_method() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path does not take this method: docs/api.md lists both",
    )
}

async fn refuse_to_change() -> Failure {
    (StatusCode::FORBIDDEN, "this socket is read-only: `[daemon] socket` takes changes".to_owned())
}

struct Api {
    documents: StatusCache,
    loader: Loader,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    requests: mpsc::Sender<Request>,
    /// The right to change objects.
    edit_turn: Mutex<()>,
}

impl Api {
    /// Sends a request to the event loop and waits for the answer. Another configuration may be loaded once the
    /// request is in the queue.
    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
        permit: Option<LoadPermit>,
    ) -> Result<T, Failure> {
        let (answer, answered) = oneshot::channel();
        let ended =
            || (StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping: try again later".to_owned());
        self.requests.send(request(answer)).await.map_err(|_| ended())?;
        drop(permit);
        answered.await.map_err(|_| ended())
    }

    async fn order(&self, order: ApiCommand, by: Requester) -> Result<Json<ChangeResult>, Failure> {
        let changed = self.ask(|answer| Request::ApiCommand { order, by, answer }, None).await?;
        changed.map(Json).map_err(failure)
    }

    async fn status(&self, text: fn(StatusTexts) -> Bytes) -> Result<Response, Failure> {
        let document = self.documents.latest().await;
        let texts = document.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error))?;
        Ok(([(CONTENT_TYPE, "application/json")], text(texts)).into_response())
    }

    /// Loads the text, or without one the daemon's file, with the objects of the API.
    async fn load(
        &self,
        name: Option<&str>,
        text: Option<&str>,
        api: Option<Document>,
    ) -> Result<(LoadedConfig, LoadPermit), RequestError> {
        match text {
            Some(text) => self.loader.text(name, text, api).await,
            None => self.loader.file(api).await,
        }
    }

    /// The active configuration.
    fn config(&self) -> Arc<Config> {
        self.snapshots.borrow().running.config.clone()
    }

    /// What would change if this configuration became active.
    async fn compare(&self, loaded: LoadedConfig, permit: LoadPermit) -> Result<DiffResult, Failure> {
        let LoadedConfig { config, warnings } = loaded;
        let config = Arc::new(config);
        let request = |answer| Request::Validate { config: Arc::clone(&config), answer };
        let ValidationResult { running, outcome, without_effect } = self.ask(request, Some(permit)).await?;
        let compare = spawn_blocking(move || documents(diff(&running, &config))).await;
        let changes = compare.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        let (absent, refused) = match outcome {
            Ok(absent) => (absent, None),
            Err(refused) => (Vec::new(), Some(refused.to_string())),
        };
        let warnings = all_warnings(&warnings, absent);
        Ok(DiffResult { changes, overrides: without_effect, refused, warnings })
    }

    /// What these changes of objects would change.
    async fn dry_run(&self, edits: &Edits) -> Result<Response, Problem> {
        let base = self.config();
        let Some(EditedConfig { loaded, permit, .. }) = edits.load(&self.loader, &base).await? else {
            return Ok(Json(DiffResult::default()).into_response());
        };
        let difference = self.compare(loaded, permit).await?;
        match difference.refused {
            Some(why) => Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why)),
            None => Ok(Json(difference).into_response()),
        }
    }

    /// Makes a change of the configuration, again if another one came first.
    async fn change(
        &self,
        change: &ConfigChange,
        by: &Requester,
    ) -> Result<(ChangeResult, EditOutcome), Problem> {
        let mut bases = Bases::new(self.snapshots.clone());
        // Changes of objects follow one another: each begins from what the one before it has led to.
        let _turn = match change {
            ConfigChange::Edit(_) => {
                Some(bases.patient(self.edit_turn.lock()).await.ok_or(RequestError::Stale)?)
            }
            ConfigChange::Reload | ConfigChange::Apply { .. } => None,
        };
        while let Some(base) = bases.next().await {
            let prepared = change.prepare(&self.loader, &base).await;
            let prepared = prepared.inspect_err(|problem| problem.log(change.name(), by))?;
            let Some(PreparedChange { order, permit, outcome }) = prepared else {
                return Ok(Default::default());
            };
            let request = |answer| Request::ApiCommand { order, by: by.clone(), answer };
            match self.ask(request, Some(permit)).await? {
                Err(RequestError::Stale) => {}
                changed => return Ok((changed?, outcome)),
            }
        }
        Err(RequestError::Stale.into())
    }
}

fn failure(refused: RequestError) -> Failure {
    Problem::from(refused).into_text()
}

type Failure = (StatusCode, String);

async fn serve_status(Shared(api): Shared<Arc<Api>>) -> Result<Response, Failure> {
    api.status(StatusTexts::full).await
}

async fn serve_read_only_status(Shared(api): Shared<Arc<Api>>) -> Result<Response, Failure> {
    api.status(StatusTexts::read_only).await
}

async fn serve_pending(Shared(api): Shared<Arc<Api>>) -> Json<Option<types::ApiPendingChange>> {
    Json(api.snapshots.borrow().running.pending.as_ref().map(PendingChange::document))
}

async fn serve_diff(
    Shared(api): Shared<Arc<Api>>,
    Extension(bodies): Extension<BodyLimit>,
    body: Body,
) -> Result<Json<DiffResult>, Failure> {
    let ConfigText { name, text, .. } = bodies.read(body).await?;
    let objects = api.config().documents.api.clone();
    let loaded = api.load(name.as_deref(), text.as_deref(), objects).await;
    let (loaded, permit) = loaded.map_err(failure)?;
    Ok(Json(api.compare(loaded, permit).await?))
}

async fn serve_reload(
    Shared(api): Shared<Arc<Api>>,
    Extension(by): Extension<Requester>,
) -> Result<Json<ChangeResult>, Failure> {
    let changed = api.change(&ConfigChange::Reload, &named(by).await).await;
    changed.map(|(changed, _)| Json(changed)).map_err(Problem::into_text)
}

async fn serve_apply(
    Shared(api): Shared<Arc<Api>>,
    Extension(by): Extension<Requester>,
    Extension(bodies): Extension<BodyLimit>,
    body: Body,
) -> Result<Json<ChangeResult>, Failure> {
    let ConfigText { name, text, confirm_within_seconds } = bodies.read(body).await?;
    let Some(text) = text else {
        return Err((StatusCode::BAD_REQUEST, "`text` is missing: the configuration to apply".to_owned()));
    };
    let confirm_within = confirm_within_seconds.map(Duration::from_secs);
    if confirm_within.is_some_and(|limit| limit.is_zero() || limit > MAX_CONFIRM_TIME) {
        let text = "a configuration can wait for its confirmation from 1 s to 24 h: `--confirm-within 60s`";
        return Err((StatusCode::BAD_REQUEST, text.to_owned()));
    }
    let changed = api.change(&ConfigChange::Apply { name, text, confirm_within }, &named(by).await).await;
    changed.map(|(changed, _)| Json(changed)).map_err(Problem::into_text)
}

async fn serve_confirm(
    Shared(api): Shared<Arc<Api>>,
    Extension(by): Extension<Requester>,
) -> Result<Json<ChangeResult>, Failure> {
    api.order(ApiCommand::Confirm, named(by).await).await
}

async fn serve_overrides(
    Shared(api): Shared<Arc<Api>>,
    Extension(by): Extension<Requester>,
    Extension(bodies): Extension<BodyLimit>,
    body: Body,
) -> Result<Json<ChangeResult>, Failure> {
    let OverrideRequest { server_group, load_balancer, servers, set, force } = bodies.read(body).await?;
    if let Set::Weight(weight) = set
        && weight > Weight::MAX
    {
        return Err((
            StatusCode::BAD_REQUEST,
            format!("weight {weight} is out of range: 0 to {}", Weight::MAX),
        ));
    }
    let servers =
        servers.iter().map(|server| named_server(server_group.as_deref(), load_balancer.as_deref(), server));
    let servers = servers
        .collect::<Result<Vec<_>>>()
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("{error:#}: nothing was changed")))?;
    api.order(ApiCommand::Set { servers, set, force }, named(by).await).await
}

async fn serve_flush(
    Shared(api): Shared<Arc<Api>>,
    Extension(by): Extension<Requester>,
    Extension(bodies): Extension<BodyLimit>,
    body: Body,
) -> Result<Json<Flushed>, Failure> {
    let flush: Flush = bodies.read(body).await?;
    let filter = filter(&flush).map_err(|error| (StatusCode::BAD_REQUEST, format!("{error:#}")))?;
    let by = named(by).await;
    let request = |answer| Request::Flush { filter, erases: !flush.dry_run, by, answer };
    api.ask(request, None).await?.map(Json).map_err(failure)
}
