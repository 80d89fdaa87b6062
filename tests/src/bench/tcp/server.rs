//! The benchmark's server: answers messages, or sends a stream of bytes.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::net::Namespace;

/// Port of the server.
pub(super) const PORT: u16 = 9100;
/// Length of a message and of its answer, in bytes.
pub(super) const MESSAGE: usize = 64;
/// Number of bytes after which the stream repeats.
pub(super) const PERIOD: usize = 65_536;
/// Length of the accept queue.
const BACKLOG: u32 = 4096;

/// First byte of a message: what it asks for.
pub(super) mod ask {
    /// The message with all bits inverted.
    pub(in super::super) const REVERSED: u8 = 1;
    /// The stream, until the connection closes.
    pub(in super::super) const STREAM: u8 = 2;
    /// The peer's address, followed by zeros.
    pub(in super::super) const PEER: u8 = 3;
}

/// Starts the server in a namespace; it ends with the namespace's thread.
pub(super) fn start(namespace: &Namespace) -> Result<()> {
    namespace.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind((Ipv4Addr::UNSPECIFIED, PORT).into()).context("the server's port")?;
        let listener = socket.listen(BACKLOG)?;
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    // The client judges how a connection ends.
                    Ok((stream, _)) => drop(tokio::spawn(serve(stream))),
                    Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        });
        Ok(())
    })
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut message = [0; MESSAGE];
    loop {
        stream.read_exact(&mut message).await?;
        match message[0] {
            ask::REVERSED => stream.write_all(&reversed(message)).await?,
            ask::STREAM => {
                let period = period();
                loop {
                    stream.write_all(&period).await?;
                }
            }
            ask::PEER => {
                let mut answer = [0; MESSAGE];
                if let IpAddr::V4(address) = stream.peer_addr()?.ip() {
                    answer[..4].copy_from_slice(&address.octets());
                }
                stream.write_all(&answer).await?;
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// The expected answer to a message.
pub(super) fn reversed(message: [u8; MESSAGE]) -> [u8; MESSAGE] {
    message.map(|byte| !byte)
}

/// One period of the stream. No two of its aligned words are equal.
pub(super) fn period() -> Vec<u8> {
    (0..PERIOD as u32 / 4).flat_map(|n| n.wrapping_mul(0x9e37_79b1).to_le_bytes()).collect()
}
