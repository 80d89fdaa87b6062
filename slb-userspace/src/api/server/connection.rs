//! Connections to the API: bounded in number, time and size, so that no caller can take the daemon's memory or time.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use axum::{Extension, Router, body::Body, http::StatusCode};
use http_body_util::LengthLimitError;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nix::unistd::{Uid, User};
use serde::de::DeserializeOwned;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};

use crate::api::types::By;

/// Connections at the same time; more wait to be accepted.
const CONNECTIONS: usize = 1024;
/// Time a caller has for the head of its request.
const HEAD: Duration = Duration::from_secs(2);
/// Time a caller has for the body.
const BODY: Duration = Duration::from_secs(5);
/// Time a connection may take altogether: longer than a change waits for the first result of a check (a timeout is 300 s at most).
const CONNECTION: Duration = Duration::from_secs(330);
/// Bodies that are read at the same time.
const BODIES: usize = 32;
/// The largest body.
const LARGEST_BODY: usize = 1 << 20;
/// Pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers on a socket, one request for each connection.
pub(super) async fn serve(listener: &UnixListener, router: &Router) -> Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    // Ends them with the server.
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await?;
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                connections.spawn(async move {
                    let _place = place;
                    // Whoever takes longer has gone, or has no need to know.
                    let _ = timeout(CONNECTION, talk(stream, router)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the API");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn talk(stream: UnixStream, router: Router) {
    let service = TowerToHyperService::new(router.layer(Extension(by(&stream))));
    let talking = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = talking.await {
        tracing::debug!(%error, "a connection to the API has ended early");
    }
}

/// Who is at the other end.
fn by(stream: &UnixStream) -> By {
    let Ok(peer) = stream.peer_cred() else { return By::default() };
    By { uid: Some(peer.uid()), user: None, pid: peer.pid() }
}

/// The same with the name of the user, which may have to be asked for elsewhere.
pub(super) async fn named(by: By) -> By {
    let Some(uid) = by.uid else { return by };
    let found = spawn_blocking(move || User::from_uid(Uid::from_raw(uid))).await;
    let user = found.ok().and_then(Result::ok).flatten().map(|user| user.name);
    By { user, ..by }
}

/// Reads bodies, a few at a time.
#[derive(Clone)]
pub(super) struct Bodies(Arc<Semaphore>);

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BODIES)))
    }
}

impl Bodies {
    /// Reads the document in a body.
    pub(super) async fn read<T: DeserializeOwned>(&self, body: Body) -> Result<T, (StatusCode, String)> {
        let _place = self.0.acquire().await;
        let read = timeout(BODY, axum::body::to_bytes(body, LARGEST_BODY)).await.map_err(|_| {
            (StatusCode::REQUEST_TIMEOUT, format!("the body of the request has not come within {BODY:?}"))
        })?;
        let bytes = read.map_err(|error| {
            let cause = std::error::Error::source(&error);
            if cause.and_then(|cause| cause.downcast_ref::<LengthLimitError>()).is_some() {
                let text = "the request is larger than 1 MiB: put a larger configuration into the daemon's file and run \
                            `slb reload`";
                (StatusCode::PAYLOAD_TOO_LARGE, text.to_owned())
            } else {
                (StatusCode::BAD_REQUEST, format!("the body of the request cannot be read: {error}"))
            }
        })?;
        serde_json::from_slice(&bytes).map_err(|error| {
            (StatusCode::BAD_REQUEST, format!("the body is not the document that is expected here: {error}"))
        })
    }
}
