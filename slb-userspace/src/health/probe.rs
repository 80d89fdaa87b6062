//! One probe, of any kind.

use tokio::time::timeout_at;

use super::{ProbeError, ProbePaths, Target, http, icmp, tcp, tls, udp};
use slb_config::model::CheckKind;

/// Probes a target once, over its path and within its timeout.
///
/// # Errors
/// The reason for the failure. Not every error is about the server: see [`ProbeError::blames_server`].
pub async fn probe(target: &Target, paths: &ProbePaths) -> Result<(), ProbeError> {
    let timeout = target.check.timeout;
    let (route, deadline) = paths.route(target, timeout).await?;
    let outcome = match &target.check.kind {
        CheckKind::Tcp => timeout_at(deadline, tcp::probe(&route)).await,
        CheckKind::Http(check) => timeout_at(deadline, http::probe(&route, check)).await,
        CheckKind::Tls(check) => timeout_at(deadline, tls::probe(&route, check)).await,
        CheckKind::Icmp => timeout_at(deadline, icmp::probe(&route)).await,
        // The meaning of silence depends on whether a datagram was sent.
        CheckKind::Udp(check) => udp::probe(&route, check, deadline).await,
    };
    let is_udp = matches!(target.check.kind, CheckKind::Udp(_));
    match outcome.unwrap_or(Err(ProbeError::TimedOut(timeout))) {
        // A server that was sent nothing is not silent.
        outcome
            if (outcome.is_err() || is_udp)
                && let Some(error) = route.send_error() =>
        {
            Err(error)
        }
        Err(error) if error.blames_server() && route.is_broken() => Err(ProbeError::NoProbePath(format!(
            "health checks on the path of the traffic cannot be sent at present (the log says why): {error}"
        ))),
        outcome => outcome,
    }
}
