//! UDP echo: each datagram comes back after the backend's name and a space.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::AsRawFd,
    sync::Arc,
    time::Duration,
};

use nix::{
    cmsg_space, libc,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt,
        sockopt::Ipv6RecvPacketInfo,
    },
};
use tokio::{io::Interest, net::UdpSocket, sync::watch};

use super::Behaviour;

/// Pause between two of repeated answers.
const BEAT: Duration = Duration::from_millis(50);

/// Answers datagrams until the kill, from the address they were sent to: a VIP, where they arrive unchanged.
pub(super) async fn serve(
    socket: UdpSocket,
    mut kill: watch::Receiver<bool>,
    name: Arc<str>,
    behaviour: Arc<Behaviour>,
) {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    let mut repeated: Vec<(Vec<u8>, libc::in6_pktinfo, SockaddrIn6)> = Vec::new();
    let mut beat = tokio::time::interval(BEAT);
    loop {
        let received = tokio::select! {
            received = receive(&socket, &mut buffer) => received,
            _ = beat.tick(), if !repeated.is_empty() => {
                for (answer, to, client) in &repeated {
                    let _ = send(&socket, answer, *to, *client).await;
                }
                if !behaviour.repeats() {
                    repeated.clear();
                }
                continue;
            }
            _ = kill.changed() => return,
        };
        // An error is the echo of a client that is gone; there is nothing to answer.
        let Ok(Received { length, client: Some(client), to: Some(to) }) = received else { continue };
        let mut answer = name.as_bytes().to_vec();
        answer.push(b' ');
        answer.extend_from_slice(if behaviour.garbles() { b"?" } else { &buffer[..length] });
        // A client that is gone needs no answer.
        let _ = send(&socket, &answer, to, client).await;
        if behaviour.repeats() {
            repeated.push((answer, to, client));
        }
    }
}

/// Has the kernel say where each datagram was sent to.
pub(super) fn prepare(socket: &impl std::os::fd::AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, Ipv6RecvPacketInfo, &true)?)
}

struct Received {
    length: usize,
    client: Option<SockaddrIn6>,
    to: Option<libc::in6_pktinfo>,
}

async fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Received> {
    let receive = || {
        let mut control = cmsg_space!(libc::in6_pktinfo);
        let mut parts = [IoSliceMut::new(buffer)];
        let message = recvmsg(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
        let to = message.cmsgs()?.find_map(|control| match control {
            // Of both families: IPv4 addresses are mapped.
            ControlMessageOwned::Ipv6PacketInfo(to) => Some(to),
            _ => None,
        });
        Ok(Received { length: message.bytes, client: message.address, to })
    };
    socket.async_io(Interest::READABLE, receive).await
}

async fn send(
    socket: &UdpSocket,
    answer: &[u8],
    from: libc::in6_pktinfo,
    client: SockaddrIn6,
) -> io::Result<()> {
    // It arrived at `lo` or at the link; it leaves where the route says.
    let from = libc::in6_pktinfo { ipi6_ifindex: 0, ..from };
    let send = || {
        let control = [ControlMessage::Ipv6PacketInfo(&from)];
        sendmsg(socket.as_raw_fd(), &[IoSlice::new(answer)], &control, MsgFlags::empty(), Some(&client))?;
        Ok(())
    };
    socket.async_io(Interest::WRITABLE, send).await
}
