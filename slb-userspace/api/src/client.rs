//! Client of the API.

use std::{io, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

use super::types::{ApiPendingChange, Status};

/// Timeout of requests that change nothing.
const PATIENCE: Duration = Duration::from_secs(5);
/// Timeout of changes. A change may wait for the first result of a check, whose timeout is 300 s at most.
const PATIENCE_FOR_CHANGES: Duration = Duration::from_secs(330);

/// The daemon has refused the request. The text says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RequestRefused(pub String);

/// No daemon answers on the socket.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoDaemon(pub String);

/// The status of the daemon on `socket`; `None` if none listens.
pub async fn status(socket: &Path) -> Result<Option<Status>> {
    ask(socket, PATIENCE, Method::GET, "/v1/status", Bytes::new()).await
}

/// The change that waits for its servers; `None` without one, or if no daemon listens.
pub async fn pending(socket: &Path) -> Result<Option<ApiPendingChange>> {
    Ok(ask(socket, PATIENCE, Method::GET, "/v1/pending", Bytes::new()).await?.flatten())
}

/// Sends a command or a query with a document to the daemon on `socket`.
///
/// # Errors
/// No daemon listens, or the daemon refuses ([`RequestRefused`]).
pub async fn post<T: DeserializeOwned>(socket: &Path, path: &str, document: &impl Serialize) -> Result<T> {
    let body = serde_json::to_vec(document)?.into();
    let answer = ask(socket, PATIENCE_FOR_CHANGES, Method::POST, path, body).await?;
    answer.ok_or_else(|| no_daemon(socket))
}

/// The error for a socket without a daemon.
pub fn no_daemon(socket: &Path) -> anyhow::Error {
    let socket = socket.display();
    NoDaemon(format!("no daemon listens on {socket}: start slbd, or name its socket: --socket PATH")).into()
}

async fn ask<T: DeserializeOwned>(
    socket: &Path,
    patience: Duration,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Option<T>> {
    timeout(patience, exchange(socket, method, path, body)).await.map_err(|_| {
        let (socket, seconds) = (socket.display(), patience.as_secs());
        NoDaemon(format!("the daemon behind {socket} does not answer within {seconds} s"))
    })?
}

async fn exchange<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Option<T>> {
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(error).with_context(|| {
                format!(
                    "cannot connect to {}: run this as root, or as a member of the socket's group",
                    socket.display()
                )
            });
        }
        Err(error) => return Err(error).with_context(|| format!("cannot connect to {}", socket.display())),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let serving = tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "slb").body(Full::new(body))?;
    let response = sender.send_request(request).await.context("the daemon did not answer")?;
    let code = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    serving.abort();
    if code.is_success() {
        let document = serde_json::from_slice(&body);
        return document.map(Some).context("the daemon's answer is not a document of this version");
    }
    let text = String::from_utf8_lossy(&body).into_owned();
    if text.is_empty() {
        bail!("the daemon answers {code} without a reason");
    }
    Err(RequestRefused(text).into())
}
