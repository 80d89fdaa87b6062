//! HTTP/1.1 server. `GET /` returns the backend's name as body and in `X-Server`; `/healthz` has a configurable status.

use std::{io, sync::Arc};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream},
    net::TcpStream,
    time::sleep,
};

use super::Behaviour;

/// Maximum length of a request header, in bytes.
const MAX_HEAD: u64 = 8 * 1024;

/// Serves requests until the client closes the connection.
pub(super) async fn serve(stream: TcpStream, name: Arc<str>, behaviour: Arc<Behaviour>) -> io::Result<()> {
    let mut stream = BufStream::new(stream);
    while let Some(request) = read_head(&mut stream).await? {
        let (status, body) = match request.line.as_str() {
            "GET / HTTP/1.1" => ("200 OK".to_owned(), format!("{name}\n")),
            "GET /healthz HTTP/1.1" | "HEAD /healthz HTTP/1.1" => {
                sleep(behaviour.delay()).await;
                (format!("{} Health", behaviour.status()), String::new())
            }
            line if line.starts_with("GET ") => ("404 Not Found".to_owned(), String::new()),
            _ => ("405 Method Not Allowed".to_owned(), String::new()),
        };
        let connection = if request.close { "close" } else { "keep-alive" };
        let response = format!(
            "HTTP/1.1 {status}\r\nX-Server: {name}\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(response.as_bytes()).await?;
        stream.flush().await?;
        if request.close {
            break;
        }
    }
    Ok(())
}

struct Request {
    line: String,
    close: bool,
}

/// Reads a request up to its empty line; `None` if the client has closed.
async fn read_head(stream: &mut BufStream<TcpStream>) -> io::Result<Option<Request>> {
    let mut head = stream.take(MAX_HEAD);
    let mut request = None;
    let mut line = String::new();
    while head.read_line(&mut line).await? > 0 {
        match (&mut request, line.trim_end()) {
            (Some(_), "") => return Ok(request),
            (None, first) => request = Some(Request { line: first.to_owned(), close: false }),
            (Some(request), header) => request.close |= header.eq_ignore_ascii_case("connection: close"),
        }
        line.clear();
    }
    if request.is_none() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
