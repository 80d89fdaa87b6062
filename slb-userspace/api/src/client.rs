//! Client of the API.

use std::{io, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, Method, Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

use super::types::{ApiPendingChange, Status};

/// Timeout of requests that change nothing.
const PATIENCE: Duration = Duration::from_secs(5);
/// Timeout of metrics, which the daemon sends for half a minute at most.
const PATIENCE_FOR_METRICS: Duration = Duration::from_secs(35);
/// Timeout of changes. A change may wait for the first result of a check, whose timeout is 300 s at most.
const PATIENCE_FOR_CHANGES: Duration = Duration::from_secs(330);

/// Characters that a segment of a path may have as they are (RFC 3986, 3.3).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b':');

/// A segment of a path, percent-encoded.
pub fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

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

/// The metrics of the daemon on `socket`, in Prometheus' text format; `None` if none listens. `query` names parts of
/// them, as `scope=listener`; all if it is empty.
///
/// # Errors
/// The daemon refuses the query, or does not answer in time.
pub async fn metrics(socket: &Path, query: &str) -> Result<Option<Bytes>> {
    let path = if query.is_empty() { "/v1/metrics".to_owned() } else { format!("/v1/metrics?{query}") };
    within(PATIENCE_FOR_METRICS, socket, exchange(socket, Method::GET, &path, Bytes::new())).await
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
    let Some(body) = within(patience, socket, exchange(socket, method, path, body)).await? else {
        return Ok(None);
    };
    serde_json::from_slice(&body).map(Some).context("the daemon's answer is not a document of this version")
}

async fn within<T>(patience: Duration, socket: &Path, answer: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(patience, answer).await.map_err(|_| {
        let (socket, seconds) = (socket.display(), patience.as_secs());
        NoDaemon(format!("the daemon behind {socket} does not answer within {seconds} s"))
    })?
}

/// Exchanges a request and the body of its answer; `None` if no daemon listens.
async fn exchange(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<Option<Bytes>> {
    let request = Request::builder().method(method).uri(path).header("host", "slb").body(Full::new(body))?;
    let Some(Answer { status, body, .. }) = exchange_any(socket, request).await? else { return Ok(None) };
    if status.is_success() {
        return Ok(Some(body));
    }
    let text = String::from_utf8_lossy(&body).into_owned();
    if text.is_empty() {
        bail!("the daemon answers {status} without a reason");
    }
    Err(RequestRefused(text).into())
}

/// Sends a request of any kind to the daemon on `socket`. Returns its answer, a refusal too.
///
/// # Errors
/// No daemon listens, or it does not answer within the time that a change may take.
pub async fn send(
    socket: &Path,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    document: Option<&impl Serialize>,
) -> Result<Answer> {
    let body = document.map(serde_json::to_vec).transpose()?.unwrap_or_default();
    let mut request = Request::builder().method(method).uri(path).header("host", "slb");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let exchange = exchange_any(socket, request.body(Full::new(body.into()))?);
    let answer = timeout(PATIENCE_FOR_CHANGES, exchange).await;
    answer.context("the daemon does not answer")??.ok_or_else(|| no_daemon(socket))
}

/// An answer of the daemon.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Exchanges a request and its answer; `None` if no daemon listens.
async fn exchange_any(socket: &Path, request: Request<Full<Bytes>>) -> Result<Option<Answer>> {
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
    let response = sender.send_request(request).await.context("the daemon did not answer")?;
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    serving.abort();
    Ok(Some(Answer { status: head.status, headers: head.headers, body }))
}
