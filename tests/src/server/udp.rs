//! UDP echo: answers each datagram with the backend's name, a space and the datagram.

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

/// Interval of repeated answers.
const BEAT: Duration = Duration::from_millis(50);

/// Answers datagrams until the servers are killed. The source of an answer is the datagram's destination, which may be
/// a VIP.
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
        // An error is an ICMP error about a client that has ended; there is nothing to answer.
        let Ok(Received { length, client: Some(client), to: Some(to) }) = received else { continue };
        let mut answer = name.as_bytes().to_vec();
        answer.push(b' ');
        answer.extend_from_slice(if behaviour.garbles() { b"?" } else { &buffer[..length] });
        // A client that has ended needs no answer.
        let _ = send(&socket, &answer, to, client).await;
        if behaviour.repeats() {
            repeated.push((answer, to, client));
        }
    }
}

/// Makes the kernel report the destination of each datagram.
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
            // Reported for both families; IPv4 addresses are mapped.
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
    // The datagram may have arrived at `lo` or at the link; the answer leaves by the route.
    let from = libc::in6_pktinfo { ipi6_ifindex: 0, ..from };
    let send = || {
        let control = [ControlMessage::Ipv6PacketInfo(&from)];
        sendmsg(socket.as_raw_fd(), &[IoSlice::new(answer)], &control, MsgFlags::empty(), Some(&client))?;
        Ok(())
    };
    socket.async_io(Interest::WRITABLE, send).await
}
