//! Probes a server with an HTTP request (RFC 9112) and checks the status code.
//!
//! Only the head of the answer is read. Then the connection is reset, as in a `tcp` check.

mod head;

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use self::head::Head;
use super::{ProbeError, path::ProbeRoute, tcp, tls};
use slb_config::model::HttpCheck;

const USER_AGENT: &str = concat!("slb-health/", env!("CARGO_PKG_VERSION"));
/// Bytes per read: thousands of probes run at once.
const READ_BYTES: usize = 1_024;

/// Sends the request and checks the status code.
pub(super) async fn probe(route: &ProbeRoute<'_>, check: &HttpCheck) -> Result<(), ProbeError> {
    let mut connection = tcp::connect(route).await?;
    let remote = connection.remote;
    let host = match &check.host {
        Some(host) => host.clone(),
        None => authority(remote, check.tls.is_some()),
    };
    let status = match check.tls {
        None => ask(&mut connection.stream, check, &host).await?,
        Some(tls) => {
            let mut stream = tls::connect(&mut connection.stream, &host, remote.ip(), tls).await?;
            ask(&mut stream, check, &host).await?
        }
    };
    if check.expect.iter().any(|expected| expected.matches(status)) {
        return Ok(());
    }
    let expected: Vec<_> = check.expect.iter().map(ToString::to_string).collect();
    Err(ProbeError::Status { status, expected: expected.join(", ") })
}

/// The host, with the port unless it is the scheme's default (RFC 9110, section 7.2).
fn authority(remote: SocketAddr, tls: bool) -> String {
    let default = if tls { 443 } else { 80 };
    match (remote, remote.port() == default) {
        (SocketAddr::V4(v4), true) => v4.ip().to_string(),
        (SocketAddr::V6(v6), true) => format!("[{}]", v6.ip()),
        (other, false) => other.to_string(),
    }
}

/// Sends the request and returns the status code.
async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    check: &HttpCheck,
    host: &str,
) -> Result<u16, ProbeError> {
    let request = format!(
        "{} {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {USER_AGENT}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        check.method.as_str(),
        check.path
    );
    stream.write_all(request.as_bytes()).await.map_err(tls::of_established)?;
    stream.flush().await.map_err(tls::of_established)?;
    let mut head = Head::default();
    let mut bytes = [0; READ_BYTES];
    loop {
        let length = match stream.read(&mut bytes).await {
            Ok(0) => return head.at_eof().ok_or(ProbeError::Closed),
            Ok(length) => length,
            Err(error) => return Err(tls::of_established(error)),
        };
        if let Some(status) = head.push(&bytes[..length])? {
            return Ok(status);
        }
    }
}

#[cfg(test)]
mod tests;
