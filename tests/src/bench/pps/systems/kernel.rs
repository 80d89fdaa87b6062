//! Forwarding in the kernel, and nftables with connection tracking.

use std::path::PathBuf;

use anyhow::Result;
use slb_bench_common::pps::ExpectedFrames;

use super::super::{
    contestant::{Contestant, PpsWorkload},
    lane::{Arms, PpsLane, SERVER_COUNT, SERVER_PORT, VIP, VIP_PORT},
};
use crate::net::{find_program, run};

/// Names of the contestants.
pub(super) const FORWARDING: &str = "kernel forwarding";
pub(super) const NFTABLES: &str = "nftables DNAT";

/// Path of `nft`; `None` if it is not installed.
pub(super) fn nft() -> Option<PathBuf> {
    find_program("nft")
}

/// Forwarding by the routing table only, to one server.
pub(super) fn forwarding() -> Result<Contestant> {
    let lane = PpsLane::build()?;
    lane.forward_by_kernel()?;
    let server = Arms::Two.servers().next();
    lane.sut.ip(&server.map(|server| format!("route add {VIP}/32 via {server}")).unwrap_or_default())?;
    Ok(Contestant::new(FORWARDING, Arms::Two, ExpectedFrames::tcp((VIP, 32), VIP_PORT), lane))
}

/// nftables chooses the server by a hash of the client endpoint; the conntrack entry decides for later packets.
pub(super) fn nftables(nft: &PathBuf) -> Result<Contestant> {
    let lane = PpsLane::build()?;
    lane.forward_by_kernel()?;
    let servers: Vec<String> =
        Arms::Two.servers().enumerate().map(|(n, server)| format!("{n} : {server}")).collect();
    let rules = format!(
        "table ip bench {{\n  chain prerouting {{\n    type nat hook prerouting priority dstnat;\n    \
         ip daddr {VIP} tcp dport {VIP_PORT} dnat to jhash ip saddr . tcp sport mod {SERVER_COUNT} \
         map {{ {} }} : {SERVER_PORT}\n  }}\n}}\n",
        servers.join(", ")
    );
    run(lane.sut.command(nft).args(["-f", "-"]), &rules)?;
    let expected = ExpectedFrames::tcp(Arms::Two.servers_prefix(), SERVER_PORT);
    Ok(Contestant {
        workloads: &PpsWorkload::ALL,
        shows_servers: true,
        conntrack: true,
        ..Contestant::new(NFTABLES, Arms::Two, expected, lane)
    })
}
