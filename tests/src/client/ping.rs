//! ICMP and ICMPv6 echo by the kernel's ping sockets, which check identifier and checksum of replies.

use std::{
    io::{ErrorKind, Read},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

/// Length of the header of an echo message (RFC 792, RFC 4443): type, code, checksum, identifier, sequence.
const HEADER: usize = 8;
const PAYLOAD: &[u8] = b"the reply has these bytes";

/// Sends an echo request and waits for the reply; `Ok(None)` if none arrives within `limit`.
pub(super) fn ping(source: IpAddr, target: IpAddr, limit: Duration) -> Result<Option<Duration>> {
    let (domain, protocol, request, reply) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let mut socket = Socket::new(domain, Type::DGRAM, Some(protocol))?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect(&SocketAddr::new(target, 0).into())?;
    socket.set_read_timeout(Some(limit))?;

    // The kernel sets checksum and identifier.
    let mut message = vec![request, 0, 0, 0, 0, 0, 0, 1];
    message.extend_from_slice(PAYLOAD);
    let start = Instant::now();
    socket.send(&message)?;
    let mut answer = [0; 256];
    match socket.read(&mut answer) {
        Ok(length) => {
            let answer = &answer[..length];
            ensure!(length == HEADER + PAYLOAD.len(), "{length} bytes in the reply");
            ensure!(answer[..2] == [reply, 0] && answer[6..8] == [0, 1], "not the reply: {answer:02x?}");
            ensure!(&answer[HEADER..] == PAYLOAD, "another payload: {answer:02x?}");
            Ok(Some(start.elapsed()))
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
