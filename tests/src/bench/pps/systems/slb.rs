//! SLB, run by its daemon.

use anyhow::Result;

use super::super::{
    contestant::{Contestant, Workload},
    lane::{Arms, Lane, SERVER_PORT, VIP, VIP_PORT},
    layout::Expected,
};
use crate::bench::slbd::{Listener, Mode, Slbd};

/// All modes, each with one arm and with two.
pub(super) fn all() -> impl Iterator<Item = (Mode, Arms)> {
    Mode::ALL.into_iter().flat_map(|mode| [(mode, Arms::Two), (mode, Arms::One)])
}

/// Name of the contestant.
pub(super) fn label(mode: Mode, arms: Arms) -> String {
    let way = match arms {
        Arms::One => "XDP_TX",
        Arms::Two => "redirect",
    };
    format!("SLB {}, {way}", mode.name())
}

/// Starts the daemon in a new lane.
pub(super) fn contestant(mode: Mode, arms: Arms) -> Result<Contestant> {
    let (server_port, expected) = match mode {
        Mode::Nat => (SERVER_PORT, Expected::tcp(arms.servers_prefix(), SERVER_PORT)),
        Mode::Dsr => (VIP_PORT, Expected::tcp((VIP, 32), VIP_PORT)),
        Mode::Ipip => (VIP_PORT, Expected::tunnel(arms.servers_prefix())),
    };
    let lane = Lane::build()?;
    let listener = Listener {
        interfaces: &["in0", "out0"],
        vip: VIP,
        port: VIP_PORT,
        mode,
        slb: arms.sut(),
        servers: &arms.servers().collect::<Vec<_>>(),
        server_port,
    };
    let slbd = Slbd::start(&lane.sut, lane.id, lane.directory.path(), &listener)?;
    Ok(Contestant {
        workloads: &Workload::ALL,
        shows_servers: true,
        _slbd: Some(slbd),
        ..Contestant::new(&label(mode, arms), arms, expected, lane)
    })
}
