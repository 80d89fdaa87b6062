//! SLB, by its daemon.

use anyhow::Result;

use super::super::{
    contestant::{Contestant, Workload},
    lane::{Arms, Lane, SERVER_PORT, VIP, VIP_PORT},
    layout::Expected,
};
use crate::bench::slbd::{Listener, Slbd};

/// A way of forwarding.
pub(super) struct Mode {
    /// Its name in the configuration.
    name: &'static str,
    arms: Arms,
    /// What frames to the servers look like: for `dsr` they would be `Expected::tcp(VIP, 32, VIP_PORT)`, for `ipip`
    /// `Expected { protocol: 4, port: 0, ..arms.to_servers() }`.
    expected: fn(Arms) -> Expected,
    /// Whether they bear the server's address.
    shows_servers: bool,
}

/// What is measured.
pub(super) const MODES: [Mode; 2] = [
    Mode { name: "nat", arms: Arms::Two, expected: Arms::to_servers, shows_servers: true },
    Mode { name: "nat", arms: Arms::One, expected: Arms::to_servers, shows_servers: true },
];

impl Mode {
    /// Name of the contestant.
    pub(super) fn label(&self) -> String {
        let arms = match self.arms {
            Arms::One => "XDP_TX",
            Arms::Two => "redirect",
        };
        format!("SLB {}, {arms}", self.name)
    }
}

/// Starts the daemon in a lane of its own.
pub(super) fn contestant(mode: &Mode) -> Result<Contestant> {
    let lane = Lane::build()?;
    let listener = Listener {
        interfaces: &["in0", "out0"],
        vip: VIP,
        port: VIP_PORT,
        mode: mode.name,
        servers: &mode.arms.servers().collect::<Vec<_>>(),
        server_port: SERVER_PORT,
    };
    let slbd = Slbd::start(&lane.sut, lane.id, lane.directory.path(), &listener)?;
    Ok(Contestant {
        workloads: &Workload::ALL,
        shows_servers: mode.shows_servers,
        _slbd: Some(slbd),
        ..Contestant::new(&mode.label(), mode.arms, (mode.expected)(mode.arms), lane)
    })
}
