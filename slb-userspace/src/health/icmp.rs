//! Probes a host with an echo request (RFC 792, RFC 4443 section 4).
//!
//! The socket is raw, because ping sockets require a group in `net.ipv4.ping_group_range`. It is connected, so that the
//! kernel delivers packets from the probed address only.

use std::{io, mem::MaybeUninit};

use nix::sys::socket::{setsockopt, sockopt};
use slb_common::net::checksum::Delta;
use socket2::Socket;
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    ProbeError,
    path::{ProbeRoute, Transport},
};

/// Bytes: type, code, checksum, identifier, sequence number, and a mark that identifies probes in captures.
const REQUEST: usize = 16;
const MARK: &[u8; 8] = b"slbprobe";
/// Bytes: an IPv4 header with all options and an echo reply.
const ANSWER: usize = 128;

/// ICMP message types of an address family.
struct Types {
    request: u8,
    reply: u8,
}

const V4: Types = Types { request: 8, reply: 0 };
const V6: Types = Types { request: 128, reply: 129 };

/// Sends an echo request and waits for its reply.
pub(super) async fn probe(route: &ProbeRoute<'_>) -> Result<(), ProbeError> {
    let opened = route.open(Transport::Icmp).await?;
    let (id, is_v4) = (opened.id, opened.remote.is_ipv4());
    // Without this, an unreachable host looks like a silent one.
    let heard = match is_v4 {
        true => setsockopt(&opened.socket, sockopt::Ipv4RecvErr, &true),
        false => setsockopt(&opened.socket, sockopt::Ipv6RecvErr, &true),
    };
    heard.map_err(io::Error::from)?;
    opened.socket.connect(&opened.remote.into())?;
    let sequence = fastrand::u16(..);
    let request = request(is_v4, id, sequence);
    let _lease = opened.lease;
    // SAFETY: a `Socket` owns its descriptor and returns the same one for as long as it lives.
    let socket = unsafe { AsyncFd::register(opened.socket) }.map_err(io::Error::from)?;
    socket.async_io(Interest::WRITABLE, |socket| socket.send(&request)).await?;
    socket.async_io(Interest::READABLE, |socket| receive(socket, is_v4, id, sequence)).await?;
    Ok(())
}

/// An echo request. For IPv6 the kernel fills in the checksum, which covers the addresses.
fn request(is_v4: bool, id: u16, sequence: u16) -> [u8; REQUEST] {
    let types = if is_v4 { V4 } else { V6 };
    let mut request = [0; REQUEST];
    request[0] = types.request;
    request[4..6].copy_from_slice(&id.to_be_bytes());
    request[6..8].copy_from_slice(&sequence.to_be_bytes());
    request[8..].copy_from_slice(MARK);
    if is_v4 {
        let words = request.chunks_exact(2).map(|word| u16::from_ne_bytes([word[0], word[1]]));
        let checksum = words.fold(Delta::default(), Delta::plus).checksum();
        request[2..4].copy_from_slice(&checksum);
    }
    request
}

/// Receives until the reply has arrived.
fn receive(socket: &Socket, is_v4: bool, id: u16, sequence: u16) -> io::Result<()> {
    loop {
        let mut answer = [MaybeUninit::uninit(); ANSWER];
        let length = socket.recv(&mut answer)?;
        let bytes = answer[..length].iter();
        // SAFETY: the kernel has written the first `length` bytes.
        let bytes: Vec<u8> = bytes.map(|byte| unsafe { byte.assume_init() }).collect();
        if is_reply(&bytes, is_v4, id, sequence) {
            return Ok(());
        }
    }
}

/// Whether this is the reply to this probe. Raw IPv4 sockets deliver the IP header too.
fn is_reply(packet: &[u8], is_v4: bool, id: u16, sequence: u16) -> bool {
    let header = match packet.first() {
        Some(first) if is_v4 => usize::from(first & 15) * 4,
        _ => 0,
    };
    let reply = if is_v4 { V4.reply } else { V6.reply };
    let Some([kind, 0, _, _, i0, i1, s0, s1, ..]) = packet.get(header..) else { return false };
    (*kind, u16::from_be_bytes([*i0, *i1]), u16::from_be_bytes([*s0, *s1])) == (reply, id, sequence)
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, Ipv4Addr, Ipv6Addr},
        time::Duration,
    };

    use super::*;
    use crate::health::{ProbePaths, probe::probe, testing::target};
    use slb_config::model::CheckKind;

    #[test]
    fn echo_reply_must_match_own_identifier_and_sequence() {
        let packet = |kind, id, sequence| {
            let mut packet = vec![0x45; 20];
            let mut message = request(true, id, sequence);
            message[0] = kind;
            packet.extend_from_slice(&message);
            packet
        };
        assert!(is_reply(&packet(0, 7, 9), true, 7, 9));
        assert!(!is_reply(&packet(8, 7, 9), true, 7, 9), "the request itself");
        assert!(!is_reply(&packet(0, 8, 9), true, 7, 9));
        assert!(!is_reply(&packet(0, 7, 8), true, 7, 9));
        assert!(is_reply(&packet(129, 7, 9)[20..], false, 7, 9));
        for cut in 0..28 {
            assert!(!is_reply(&packet(0, 7, 9)[..cut], true, 7, 9), "{cut}");
        }
    }

    #[test]
    fn echo_request_has_a_valid_checksum() {
        let sum: u32 = request(true, 0xabcd, 0x1234)
            .chunks_exact(2)
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }

    #[tokio::test]
    async fn loopback_addresses_answer_an_icmp_probe() {
        for host in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            let target = target((host, 0).into(), CheckKind::Icmp, Duration::from_secs(30));
            match probe(&target, &ProbePaths::default()).await {
                Ok(()) => {}
                Err(error @ ProbeError::Local(_)) => eprintln!("skipped for {host}: {error}"),
                Err(error) => panic!("{host}: {error}"),
            }
        }
    }
}
