//! Probes a server with a UDP datagram.
//!
//! A connected socket receives the ICMP errors that its datagrams cause (RFC 1122, section 4.1.3.3). Port unreachable
//! means that no socket receives them.

use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    net::UdpSocket,
    time::{Instant, error::Elapsed, timeout_at},
};

use super::{
    ProbeError,
    path::{Lease, ProbeRoute, Transport},
};
use slb_config::model::UdpCheck;

/// Maximum length of an answer in bytes; the rest is cut off.
const MAX_ANSWER: usize = 2_048;
/// Maximum number of characters of an answer in an error.
const SHOWN: usize = 60;

/// Sends the request and checks the first answer. If any answer is accepted, silence until the deadline is accepted
/// too, provided that the datagram can have reached the server: the service need not answer.
pub(super) async fn probe(
    route: &ProbeRoute<'_>,
    check: &UdpCheck,
    deadline: Instant,
) -> Result<Result<(), ProbeError>, Elapsed> {
    let (socket, _lease) = match timeout_at(deadline, open(route)).await? {
        Ok(opened) => opened,
        Err(error) => return Ok(Err(error)),
    };
    match timeout_at(deadline, exchange(&socket, check)).await {
        Err(_elapsed) if check.expect.is_none() => Ok(route.silence()),
        Ok(Err(ProbeError::Refused)) => Ok(Err(ProbeError::PortUnreachable)),
        other => other,
    }
}

async fn open(route: &ProbeRoute<'_>) -> Result<(UdpSocket, Option<Lease>), ProbeError> {
    let opened = route.open(Transport::Udp).await?;
    // Without this, an unreachable host looks like a silent one.
    let heard = match opened.remote.is_ipv4() {
        true => setsockopt(&opened.socket, sockopt::Ipv4RecvErr, &true),
        false => setsockopt(&opened.socket, sockopt::Ipv6RecvErr, &true),
    };
    heard.map_err(std::io::Error::from)?;
    opened.socket.connect(&opened.remote.into())?;
    Ok((UdpSocket::from_std(opened.socket.into())?, opened.lease))
}

async fn exchange(socket: &UdpSocket, check: &UdpCheck) -> Result<(), ProbeError> {
    socket.send(&check.request).await?;
    let mut answer = [0; MAX_ANSWER];
    let length = socket.recv(&mut answer).await?;
    let answer = &answer[..length];
    match &check.expect {
        Some(expected) if !contains(answer, expected) => Err(ProbeError::Answer(shown(answer))),
        _ => Ok(()),
    }
}

fn contains(answer: &[u8], expected: &[u8]) -> bool {
    answer.windows(expected.len()).any(|part| part == expected)
}

/// The beginning of an answer, escaped for display.
fn shown(answer: &[u8]) -> String {
    let text = answer.escape_ascii().to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("\"{}\"...", &text[..end]),
        None => format!("\"{text}\""),
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, sync::Arc, time::Duration};

    use tokio::sync::{mpsc, watch};

    use super::*;
    use crate::{
        health::{ProbePaths, path::ProbeSettings, probe::probe, testing::target},
        neigh::{Resolution, Unresolved},
    };
    use slb_config::model::CheckKind;

    const GENEROUS: Duration = Duration::from_secs(30);

    fn check(request: &str, expect: Option<&str>) -> UdpCheck {
        UdpCheck { request: request.into(), expect: expect.map(Into::into) }
    }

    async fn probed(server: &UdpSocket, check: UdpCheck, timeout: Duration) -> Result<(), ProbeError> {
        let address = server.local_addr().unwrap();
        probe(&target(address, CheckKind::Udp(check), timeout), &ProbePaths::default()).await
    }

    async fn server() -> UdpSocket {
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
    }

    /// Answers one datagram, which must be `request`.
    async fn answer(server: &UdpSocket, request: &str, answer: &[u8]) {
        let mut buffer = [0; 100];
        let (length, client) = server.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], request.as_bytes());
        server.send_to(answer, client).await.unwrap();
    }

    #[tokio::test]
    async fn udp_answer_must_contain_the_expected_text() {
        let server = server().await;
        for (reply, good) in
            [(&b"pong"[..], true), (b"b1 pong!", true), (b"PONG", false), (b"", false), (&[0xff; 200], false)]
        {
            let (probed, ()) = tokio::join!(
                probed(&server, check("ping", Some("pong")), GENEROUS),
                answer(&server, "ping", reply)
            );
            assert_eq!(probed.is_ok(), good, "{probed:?}");
            if let Err(error) = probed {
                let text = error.to_string();
                assert!(text.starts_with("the answer is not the expected one: \""), "{text}");
                assert!(text.len() < 120, "{text}");
            }
        }
    }

    #[tokio::test]
    async fn udp_silence_is_healthy_unless_an_answer_is_expected() {
        let server = server().await;
        let short = Duration::from_millis(50);
        probed(&server, check("", None), short).await.unwrap();
        let error = probed(&server, check("ping", Some("pong")), short).await.unwrap_err();
        assert!(matches!(error, ProbeError::TimedOut(_)), "{error}");
        // Any answer is accepted, at once.
        let fresh = self::server().await;
        let (probed, ()) =
            tokio::join!(probed(&fresh, check("x", None), GENEROUS), answer(&fresh, "x", b"?"));
        probed.unwrap();
    }

    #[tokio::test]
    async fn closed_port_is_unreachable() {
        let address = server().await.local_addr().unwrap();
        let target = target(address, CheckKind::Udp(check("", None)), GENEROUS);
        let error = probe(&target, &ProbePaths::default()).await.unwrap_err();
        assert_eq!(error.to_string(), "port unreachable");
        assert!(error.blames_server());
    }

    #[tokio::test]
    async fn udp_silence_of_an_unreachable_server_is_not_healthy() {
        let server = server().await;
        let address = server.local_addr().unwrap();
        let why = Unresolved::NoNeighbour {
            next_hop: address.ip(),
            interface: "eth0".to_owned(),
            has_failed: true,
        };
        let (resolutions, neighbours) = watch::channel(Arc::default());
        let (doubts, mut doubted) = mpsc::channel(1);
        let paths = ProbePaths::new(ProbeSettings::default(), neighbours, doubts);
        let target = target(address, CheckKind::Udp(check("", None)), Duration::from_millis(50));
        probe(&target, &paths).await.unwrap();
        assert_eq!(doubted.try_recv(), Ok(address.ip()), "silence has its next hop verified");
        resolutions.send_replace(Arc::new([(address.ip(), Resolution::Unresolved(why))].into()));
        let error = probe(&target, &paths).await.unwrap_err();
        assert_eq!(error.to_string(), "cannot be reached: 127.0.0.1 does not answer on eth0");
        assert!(error.blames_server());
    }
}
