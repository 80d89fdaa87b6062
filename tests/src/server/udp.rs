//! UDP echo: each datagram comes back after the backend's name and a space.

use std::sync::Arc;

use tokio::{net::UdpSocket, sync::watch};

/// Answers datagrams until the kill.
pub(super) async fn serve(socket: UdpSocket, mut kill: watch::Receiver<bool>, name: Arc<str>) {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            _ = kill.changed() => return,
        };
        // An error is the echo of a client that is gone; there is nothing to answer.
        let Ok((length, client)) = received else { continue };
        let mut answer = name.as_bytes().to_vec();
        answer.push(b' ');
        answer.extend_from_slice(&buffer[..length]);
        // A client that is gone needs no answer.
        let _ = socket.send_to(&answer, client).await;
    }
}
