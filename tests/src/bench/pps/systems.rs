//! The contestants of the pps benchmark.

mod kernel;
mod slb;

use anyhow::{Context as _, Result};
use slb_bench_common::pps::ExpectedFrames;

use super::{
    contestant::Contestant,
    lane::{Arms, PpsLane, VIP, VIP_PORT},
    programs::BenchProgram,
};

/// Sets up every contestant whose name contains `only`, and the floors. Also returns the names of those that cannot
/// run.
pub(super) fn all(only: Option<&str>) -> Result<(Vec<Contestant>, Vec<String>)> {
    let mut contestants = vec![floor(Arms::One)?, floor(Arms::Two)?];
    let mut missing = Vec::new();
    let wanted = |name: &str| only.is_none_or(|only| name.contains(only));
    for (mode, arms) in slb::all() {
        let label = slb::label(mode, arms);
        if wanted(&label) {
            contestants.push(slb::contestant(mode, arms).context(label)?);
        }
    }
    if wanted(kernel::FORWARDING) {
        contestants.push(kernel::forwarding().context(kernel::FORWARDING)?);
    }
    if wanted(kernel::NFTABLES) {
        match kernel::nft() {
            Some(nft) => contestants.push(kernel::nftables(&nft).context(kernel::NFTABLES)?),
            None => missing.push(format!("{}: no program `nft`", kernel::NFTABLES)),
        }
    }
    Ok((contestants, missing))
}

/// The minimal forwarder: swaps MACs.
fn floor(arms: Arms) -> Result<Contestant> {
    let mut lane = PpsLane::build()?;
    let (name, program) = match arms {
        Arms::One => ("MAC swap, XDP_TX", BenchProgram::SwapBack),
        Arms::Two => ("MAC swap, redirect", BenchProgram::SwapRedirect),
    };
    lane.attach(program)?;
    Ok(Contestant {
        floor: true,
        ..Contestant::new(name, arms, ExpectedFrames::tcp((VIP, 32), VIP_PORT), lane)
    })
}
