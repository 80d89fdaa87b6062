//! One probe, of any kind.

use tokio::time;

use super::{Paths, ProbeError, Target, http, icmp, tcp, udp};
use crate::config::model::{CheckKind, UdpCheck};

/// Probes a target once, on its way and within its timeout.
///
/// # Errors
///
/// Says what was wrong. Not every error is a statement about the server: see [`ProbeError::blames_server`].
pub async fn probe(target: &Target, paths: &Paths) -> Result<(), ProbeError> {
    let timeout = target.check.timeout;
    let probing = async {
        match &target.check.kind {
            CheckKind::Tcp => tcp::probe(target, paths).await,
            CheckKind::Http(check) => http::probe(target, check, paths).await,
            CheckKind::Udp(check) => udp::probe(target, check, paths).await,
            CheckKind::Icmp => icmp::probe(target, paths).await,
        }
    };
    match (time::timeout(timeout, probing).await, &target.check.kind) {
        (Ok(result), _) => result,
        // Whoever took the datagram was free not to answer it.
        (Err(_elapsed), CheckKind::Udp(UdpCheck { expect: None, .. })) => Ok(()),
        (Err(_elapsed), _) => Err(ProbeError::TimedOut(timeout)),
    }
}
