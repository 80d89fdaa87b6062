//! Distinguishes a server that does not answer from one that answers, but not over the traffic's path.

use super::{ProbeError, ProbePaths, Target, Via, probe::probe};
use slb_config::model::{CheckKind, UdpCheck};

/// Probes the server at its own address, and adds the result to the error of a probe of a VIP.
pub(super) async fn explain(target: &Target, error: ProbeError, paths: &ProbePaths) -> ProbeError {
    let Some(comparison) = compare(target, &error, paths).await else { return error };
    ProbeError::WithComparison { error: Box::new(error), comparison }
}

async fn compare(target: &Target, error: &ProbeError, paths: &ProbePaths) -> Option<String> {
    // Nothing was sent, so another path makes no difference.
    if !paths.differ(target) || matches!(error, ProbeError::Unreachable(_)) {
        return None;
    }
    let (way, silent) = match target.via {
        Via::Direct => return None,
        Via::Dsr { vip } => (format!("at {vip}"), format!("is {vip} on its loopback interface?")),
        Via::Ipip { vip } | Via::Gue { vip } => (
            format!("at {vip} through the tunnel"),
            format!(
                "does it take packets out of tunnels from this host, and is {vip} on its loopback interface?"
            ),
        ),
    };
    if let CheckKind::Udp(UdpCheck { expect: None, .. }) = target.check.kind {
        // Silence would prove nothing.
        return Some(way);
    }
    Some(match probe(&target.direct_target(), paths).await {
        Ok(()) => {
            let hint = match error {
                ProbeError::TimedOut(_) | ProbeError::NoAnswer => silent,
                ProbeError::Refused | ProbeError::PortUnreachable => {
                    "does its service listen on the VIP?".to_owned()
                }
                _ => return Some(format!("{way}; the server is healthy at its own address")),
            };
            format!("{way}; the server answers at its own address: {hint}")
        }
        Err(own) => format!("{way}; at its own address: {own}"),
    })
}
