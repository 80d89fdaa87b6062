//! Metrics for Prometheus: made off the runtime's workers from one reading of the maps, and sent in chunks.
//!
//! Concurrent scrapes share a reading, as callers of the status share a document. The text of each is written while it
//! is sent: with 100,000 servers it has a hundred megabytes.

mod collected;
mod daemon;
mod families;
pub(super) mod listen;
mod listeners;
mod servers;
mod shared_labels;
mod writer;

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{MatchedPath, Request, State},
    http::{
        HeaderMap, StatusCode, Uri,
        header::{ACCEPT, CONTENT_TYPE},
    },
    middleware::Next,
    response::{IntoResponse as _, Response},
    routing::get,
};
use futures_util::stream;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
    task::spawn_blocking,
    time::{Instant, timeout, timeout_at},
};

use self::{
    collected::Collected,
    writer::{Format, ReaderGone, Writer},
};
use super::{status_cache::StatusCache, status_source::StatusSource};
use crate::instruments::INSTRUMENTS;

/// Most metrics that are written at the same time to the readers of one socket: those of another one do not wait for
/// readers that stall.
const MAX_WRITERS: usize = 4;
/// How long a scrape waits until it is written.
const TURN: Duration = Duration::from_secs(2);
/// Time in which a reader has to take a chunk.
const STALL: Duration = Duration::from_secs(2);
/// Time in which a reader has to take its metrics.
const WRITE: Duration = Duration::from_secs(30);
/// Chunks that wait for a reader.
const CHUNKS: usize = 2;

/// A part of the metrics: `scope` of a request names those that it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Daemon,
    Listener,
    Server,
}

impl Scope {
    const ALL: [(&'static str, Self); 3] =
        [("daemon", Self::Daemon), ("listener", Self::Listener), ("server", Self::Server)];

    /// The parts that a query names; all without one.
    fn of_query(query: &str) -> Result<Vec<Self>, String> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let named = pairs.map(|pair| {
            let word = pair.strip_prefix("scope=");
            let found = word.and_then(|word| Self::ALL.into_iter().find(|(name, _)| *name == word));
            found.map(|(_, scope)| scope).ok_or_else(|| {
                format!(
                    "`{pair}` is no part of the metrics: write scope=daemon, scope=listener or scope=server"
                )
            })
        });
        let named: Vec<_> = named.collect::<Result<_, _>>()?;
        Ok(if named.is_empty() { Self::ALL.map(|(_, scope)| scope).to_vec() } else { named })
    }
}

/// Makes metrics.
pub(super) struct Metrics {
    collected: StatusCache<Arc<Collected>>,
}

/// The metrics at a socket.
struct Endpoint {
    metrics: Arc<Metrics>,
    writers: Arc<Semaphore>,
}

impl Metrics {
    pub(super) fn new(source: Arc<StatusSource>) -> Arc<Self> {
        let started = SystemTime::now();
        let collected = StatusCache::new(move || Collected::of(&source, started).map(Arc::new));
        Arc::new(Self { collected })
    }

    /// Serves the metrics at `path` of a socket.
    pub(super) fn router(self: &Arc<Self>, path: &str) -> Router {
        let writers = Arc::new(Semaphore::new(MAX_WRITERS));
        let endpoint = Endpoint { metrics: Arc::clone(self), writers };
        Router::new().route(path, get(serve)).with_state(Arc::new(endpoint))
    }
}

/// Counts requests by route and status. Requests of no route have the route `other`.
pub(super) async fn count_request(route: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let route = route.map_or_else(|| "other".to_owned(), |route| route.as_str().to_owned());
    let response = next.run(request).await;
    INSTRUMENTS.requests.count((route, response.status().as_u16()));
    response
}

async fn serve(
    State(endpoint): State<Arc<Endpoint>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, (StatusCode, String)> {
    let scopes =
        Scope::of_query(uri.query().unwrap_or_default()).map_err(|text| (StatusCode::BAD_REQUEST, text))?;
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::negotiated(&accepted.collect::<Vec<_>>().join(","));
    let Ok(permit) = timeout(TURN, Arc::clone(&endpoint.writers).acquire_owned()).await else {
        let text = format!("{MAX_WRITERS} scrapes are being written: try again later");
        return Err((StatusCode::SERVICE_UNAVAILABLE, text));
    };
    let collected = endpoint.metrics.collected.latest().await;
    let collected = collected.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error))?;
    let (chunks, receiver) = mpsc::channel(CHUNKS);
    let (runtime, ends) = (Handle::current(), Instant::now() + WRITE);
    spawn_blocking(move || {
        let _place = permit;
        let send = |chunk: Option<Bytes>| {
            let ends = ends.min(Instant::now() + STALL);
            match runtime.block_on(timeout_at(ends, chunks.send(chunk))) {
                Ok(Ok(())) => Ok(()),
                _ => Err(ReaderGone),
            }
        };
        // If the reader has gone, nothing is left to do.
        if write(format, &scopes, &collected, &mut |chunk| send(Some(chunk))).is_ok() {
            let _ = send(None);
        }
    });
    Ok(([(CONTENT_TYPE, format.content_type())], body(receiver)).into_response())
}

/// The body of the chunks. It fails unless `None` ends them: a reader must not take a part for the whole.
fn body(receiver: mpsc::Receiver<Option<Bytes>>) -> Body {
    Body::from_stream(stream::unfold(Some(receiver), |receiver| async {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Some(chunk)) => Some((Ok(chunk), Some(receiver))),
            Some(None) => None,
            None => Some((Err(io::Error::other("the metrics were not taken in time")), None)),
        }
    }))
}

fn write(
    format: Format,
    scopes: &[Scope],
    collected: &Collected,
    send: &mut dyn FnMut(Bytes) -> Result<(), ReaderGone>,
) -> Result<(), ReaderGone> {
    let mut writer = Writer::new(format, send);
    for (_, scope) in Scope::ALL {
        if !scopes.contains(&scope) {
            continue;
        }
        match scope {
            Scope::Daemon => daemon::write(&mut writer, collected)?,
            Scope::Listener => listeners::write(&mut writer, collected)?,
            Scope::Server => servers::write(&mut writer, collected)?,
        }
    }
    writer.finish()
}

#[cfg(test)]
mod tests;
