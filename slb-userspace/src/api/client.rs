//! Asks the daemon.

use std::{io, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};

use super::types::Status;

/// How long the daemon may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The status of the daemon behind `socket`; `None` where none listens.
pub async fn status(socket: &Path) -> Result<Option<Status>> {
    timeout(PATIENCE, ask(socket))
        .await
        .with_context(|| format!("the daemon behind {} does not answer", socket.display()))?
}

async fn ask(socket: &Path) -> Result<Option<Status>> {
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| format!("cannot connect to {}", socket.display())),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let serving = tokio::spawn(connection);
    let request = Request::get("/v1/status").header("host", "slb").body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.context("the daemon did not answer")?;
    let code = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    serving.abort();
    if !code.is_success() {
        bail!("the daemon answers {code}: {}", String::from_utf8_lossy(&body));
    }
    Ok(Some(serde_json::from_slice(&body).context("the daemon's answer is not a status of this version")?))
}
