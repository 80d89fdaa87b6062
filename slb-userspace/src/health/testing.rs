//! Shared by the tests of probes.

use std::{net::SocketAddr, time::Duration};

use super::{Target, Via};
use slb_config::model::{CheckKind, HealthCheck};

/// A target that is probed at its own address.
pub(super) fn target(address: SocketAddr, kind: CheckKind, timeout: Duration) -> Target {
    let check = HealthCheck {
        kind,
        port: None,
        interval: Duration::from_secs(1),
        timeout,
        healthy_threshold: 1,
        unhealthy_threshold: 1,
        passive: None,
    };
    Target::new(address, Via::Direct, &check)
}
