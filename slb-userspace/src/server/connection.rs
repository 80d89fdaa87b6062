//! Connections to the API. Their number, time and size are limited, so that no caller can exhaust the daemon's memory
//! or time.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{Extension, Router, body::Body, http::StatusCode};
use http_body_util::BodyExt as _;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nix::unistd::{Uid, User};
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinSet, spawn_blocking},
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::socket::Socket;
use crate::supervised;
use slb_api::types::Requester;

/// Time limit for the head of a request.
const HEAD: Duration = Duration::from_secs(2);
/// Time limit for the body of a request.
const BODY: Duration = Duration::from_secs(5);
/// Time limit for a connection. It exceeds the longest wait of a change for a first check result, whose timeout is 300
/// s at most.
const CONNECTION: Duration = Duration::from_secs(330);
/// Maximum bytes of bodies in memory, over all connections.
const BODIES: usize = 32 << 20;
/// Maximum bytes of a body.
const MAX_BODY: usize = 1 << 20;
/// Polling interval of the socket's file.
const WATCH: Duration = Duration::from_secs(1);
/// Pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves a socket until dropped: one request per connection, at most `most` concurrent connections.
pub(super) async fn serve(mut socket: Socket, router: &Router, most: usize) {
    while supervised::attempt("API", answer(&mut socket, router, most)).await.is_none() {
        sleep(supervised::RESTART_PAUSE).await;
    }
}

async fn answer(socket: &mut Socket, router: &Router, most: usize) -> Infallible {
    let permits = Arc::new(Semaphore::new(most));
    // Dropping this ends the connections.
    let mut connections = JoinSet::new();
    let mut watch = interval(WATCH);
    watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let accept = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, socket.listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            accepted = accept => accepted,
            _ = watch.tick() => {
                while connections.try_join_next().is_some() {}
                socket.restore();
                continue;
            }
        };
        match accepted {
            Ok((stream, _)) => {
                let router = router.clone().layer(Extension(by(&stream)));
                connections.spawn(async move {
                    let _place = permit;
                    // A caller that takes longer has gone or needs no answer.
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

/// Answers the request of a connection.
pub(super) async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router) {
    let service = TowerToHyperService::new(router);
    let talking = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .keep_alive(false)
        // A caller that has shut down its sending side still waits for the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = talking.await {
        tracing::debug!(%error, "a connection has ended early");
    }
}

/// The peer process.
fn by(stream: &UnixStream) -> Requester {
    let Ok(peer) = stream.peer_cred() else { return Requester::default() };
    Requester { uid: Some(peer.uid()), user: None, pid: peer.pid() }
}

/// Adds the user's name. The look-up may block, for instance on a name service.
pub(super) async fn named(by: Requester) -> Requester {
    let Some(uid) = by.uid else { return by };
    let found = spawn_blocking(move || User::from_uid(Uid::from_raw(uid))).await;
    let user = found.ok().and_then(Result::ok).flatten().map(|user| user.name);
    Requester { user, ..by }
}

/// Reads bodies within a common memory limit. A slow body delays no other, because only received bytes count.
#[derive(Clone)]
pub(super) struct BodyLimit(Arc<Semaphore>);

impl Default for BodyLimit {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BODIES)))
    }
}

impl BodyLimit {
    /// Reads a body and parses its document.
    pub(super) async fn read<T: DeserializeOwned>(&self, body: Body) -> Result<T, (StatusCode, String)> {
        let read = timeout(BODY, self.collect(body)).await.map_err(|_| {
            (StatusCode::REQUEST_TIMEOUT, format!("the body of the request has not come within {BODY:?}"))
        })?;
        let (bytes, _room) = read?;
        serde_json::from_slice(&bytes).map_err(|error| {
            (StatusCode::BAD_REQUEST, format!("the body is not the document that is expected here: {error}"))
        })
    }

    /// Reads a body, and reserves memory for each received part.
    async fn collect(
        &self,
        mut body: Body,
    ) -> Result<(Vec<u8>, Vec<OwnedSemaphorePermit>), (StatusCode, String)> {
        let (mut bytes, mut room) = (Vec::new(), Vec::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                (StatusCode::BAD_REQUEST, format!("the body of the request cannot be read: {error}"))
            })?;
            // Trailers are ignored.
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > MAX_BODY {
                let text = "the request is larger than 1 MiB: put a larger configuration into the daemon's file and run \
                            `slb reload`";
                return Err((StatusCode::PAYLOAD_TOO_LARGE, text.to_owned()));
            }
            let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
            // The semaphore is never closed.
            room.extend(Arc::clone(&self.0).acquire_many_owned(length).await.ok());
            bytes.extend_from_slice(&data);
        }
        Ok((bytes, room))
    }
}
