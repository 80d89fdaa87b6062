//! SLB, run by its daemon.

use anyhow::Result;
use slb_bench_common::pps::ExpectedFrames;

use super::super::{
    contestant::{Contestant, PpsWorkload},
    lane::{Arms, PpsLane, SERVER_PORT, VIP, VIP_PORT},
};
use crate::bench::slbd::{BenchListener, BenchMode, Slbd};

/// All modes, each with one arm and with two.
pub(super) fn all() -> impl Iterator<Item = (BenchMode, Arms)> {
    BenchMode::ALL.into_iter().flat_map(|mode| [(mode, Arms::Two), (mode, Arms::One)])
}

/// Name of the contestant.
pub(super) fn label(mode: BenchMode, arms: Arms) -> String {
    let way = match arms {
        Arms::One => "XDP_TX",
        Arms::Two => "redirect",
    };
    format!("SLB {}, {way}", mode.name())
}

/// Starts the daemon in a new lane.
pub(super) fn contestant(mode: BenchMode, arms: Arms) -> Result<Contestant> {
    let (server_port, expected) = match mode {
        BenchMode::Nat => (SERVER_PORT, ExpectedFrames::tcp(arms.servers_prefix(), SERVER_PORT)),
        BenchMode::Dsr => (VIP_PORT, ExpectedFrames::tcp((VIP, 32), VIP_PORT)),
        BenchMode::Ipip => (VIP_PORT, ExpectedFrames::tunnel(arms.servers_prefix())),
    };
    let lane = PpsLane::build()?;
    let listener = BenchListener {
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
        workloads: &PpsWorkload::ALL,
        shows_servers: true,
        _slbd: Some(slbd),
        ..Contestant::new(&label(mode, arms), arms, expected, lane)
    })
}
