//! Line server: each line comes back after the backend's name and a space.

use std::{io, sync::Arc};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream},
    net::TcpStream,
};

/// Longest line, in bytes.
const MAX_LINE: u64 = 1024;

/// Answers lines until the client closes.
pub(super) async fn serve(stream: TcpStream, name: Arc<str>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufStream::new(stream);
    let mut line = String::new();
    while (&mut stream).take(MAX_LINE).read_line(&mut line).await? > 0 {
        stream.write_all(format!("{name} {line}").as_bytes()).await?;
        stream.flush().await?;
        line.clear();
    }
    Ok(())
}
