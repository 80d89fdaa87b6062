//! Line server: answers each line with the backend's name, a space and the line.

use std::{io, sync::Arc};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream},
    net::TcpStream,
};

/// Maximum length of a line, in bytes.
const MAX_LINE: u64 = 1024;

/// Answers lines until the client closes. Errors are reported only for clients that sent a line, so not for health
/// checks.
pub(super) async fn serve(stream: TcpStream, name: Arc<str>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufStream::new(stream);
    let mut line = String::new();
    let mut lines = 0;
    while match (&mut stream).take(MAX_LINE).read_line(&mut line).await {
        Err(_) if lines == 0 => return Ok(()),
        read => read? > 0,
    } {
        lines += 1;
        stream.write_all(format!("{name} {line}").as_bytes()).await?;
        stream.flush().await?;
        line.clear();
    }
    Ok(())
}
