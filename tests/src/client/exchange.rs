//! A short exchange with a server: HTTP over its own TCP connection, or UDP datagrams from their own client port.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};

/// Maximum length of an HTTP response, in bytes.
const MAX_RESPONSE: u64 = 8 * 1024;

/// First port of UDP exchanges.
const FIRST_PORT: u16 = 1024;

/// Datagrams of one UDP exchange; the same server must answer all of them.
const DATAGRAMS: u8 = 2;

/// Number of retransmissions of a datagram, and the time before each. A late answer on a machine that stalls does not
/// count as lost.
const RETRIES: u32 = 2;
const RETRY_AFTER: Duration = Duration::from_secs(3);

/// Result of an exchange.
#[derive(Debug)]
pub(super) struct Answer {
    /// Name of the server.
    pub(super) server: String,
    /// Number of datagrams that were retransmitted.
    pub(super) retries: u32,
}

/// Opens a TCP connection from a client address.
pub(super) async fn connect(source: IpAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind((source, 0).into())?;
    socket.connect(target).await
}

/// Requests the server's name by HTTP. The server closes first, so that no client port stays in TIME_WAIT.
pub(super) async fn http(source: IpAddr, target: SocketAddr) -> Result<Answer> {
    let stream = connect(source, target).await.with_context(|| format!("connect from {source}"))?;
    http_over(stream).await
}

/// Requests the server's name over an existing connection.
pub(super) async fn http_over(mut stream: TcpStream) -> Result<Answer> {
    let (local, target) = (stream.local_addr()?, stream.peer_addr()?);
    let request = format!("GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.with_context(|| format!("send from {local}"))?;
    let mut response = String::new();
    let read = (&mut stream).take(MAX_RESPONSE).read_to_string(&mut response).await;
    read.with_context(|| format!("receive at {local}"))?;
    let (head, body) = response.split_once("\r\n\r\n").with_context(|| format!("cut short: {response:?}"))?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "not a success: {head:?}");
    let server = head.lines().find_map(|line| line.strip_prefix("X-Server: ")).context("no server name")?;
    ensure!(body.trim_end() == server, "header and body name different servers: {response:?}");
    Ok(Answer { server: server.to_owned(), retries: 0 })
}

/// Sends datagrams to the UDP echo server, and checks the answers.
pub(super) async fn udp(sources: &[IpAddr], target: SocketAddr, ticket: u64) -> Result<Answer> {
    let local = next_flow(sources);
    let socket = UdpSocket::bind(local).await.with_context(|| format!("bind to {local}"))?;
    socket.connect(target).await?;
    let mut answer: Option<Answer> = None;
    for datagram in 0..DATAGRAMS {
        let message = format!("{ticket}.{datagram}");
        let (server, retries) = ask(&socket, &message).await.with_context(|| format!("from {local}"))?;
        match &mut answer {
            None => answer = Some(Answer { server, retries }),
            Some(first) if first.server == server => first.retries += retries,
            Some(first) => bail!("the flow from {local} was answered by {} and by {server}", first.server),
        }
    }
    answer.context("no datagram was sent")
}

/// A client endpoint that was not used before in this process; they repeat after half a million. A reused endpoint
/// would continue its earlier flow, and so go to that flow's server.
fn next_flow(sources: &[IpAddr]) -> SocketAddr {
    static FLOWS: AtomicUsize = AtomicUsize::new(0);
    let flow = FLOWS.fetch_add(1, Ordering::Relaxed);
    let ports = (FIRST_PORT..=u16::MAX).len();
    let port = u16::try_from(flow / sources.len() % ports).map_or(FIRST_PORT, |nth| FIRST_PORT + nth);
    (sources[flow % sources.len()], port).into()
}

async fn ask(socket: &UdpSocket, message: &str) -> Result<(String, u32)> {
    for retry in 0..=RETRIES {
        if let Ok(answered) = timeout(RETRY_AFTER, datagram(socket, message)).await {
            return Ok((answered?, retry));
        }
    }
    bail!("no answer to {message}")
}

/// Sends one datagram and waits for its answer; returns the name of the server.
pub(super) async fn datagram(socket: &UdpSocket, message: &str) -> Result<String> {
    let mut buffer = [0; 256];
    socket.send(message.as_bytes()).await.context("send")?;
    // Other datagrams are late answers to earlier ones.
    loop {
        let length = socket.recv(&mut buffer).await.context("receive")?;
        let text = str::from_utf8(&buffer[..length])?;
        let (server, echoed) = text.split_once(' ').with_context(|| format!("no server name in {text:?}"))?;
        if echoed == message {
            return Ok(server.to_owned());
        }
    }
}
