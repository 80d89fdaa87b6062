//! The contestants of the TCP benchmark.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{
    TcpOptions,
    lane::{PORT, TcpLane},
    proxy::Proxy,
    server,
};
use crate::{
    bench::slbd::{BenchListener, BenchMode, Slbd},
    net::{Family, find_program, run},
};

/// Name of the contestant that the others are compared with.
pub(super) const DIRECT: &str = "direct veth";
const FORWARDING: &str = "kernel forwarding";

/// SLB's modes, and their names in the table.
const MODES: [(&str, BenchMode); 3] =
    [("SLB nat", BenchMode::Nat), ("SLB dsr", BenchMode::Dsr), ("SLB ipip", BenchMode::Ipip)];

/// Sets up a contestant in a lane, with this program.
type Start = fn(&Path, &mut TcpLane) -> Result<()>;

/// Other contestants, and the programs that they need.
const OTHERS: [(&str, &str, Start); 3] =
    [("nftables DNAT", "nft", nftables), ("HAProxy", "haproxy", haproxy), ("nginx stream", "nginx", nginx)];

/// Sets up the selected contestants. Also returns the names of those that cannot run.
pub(super) fn all(options: &TcpOptions) -> Result<(Vec<TcpLane>, Vec<String>)> {
    let mut lanes = vec![set_up(DIRECT, TcpLane::connect_directly)?];
    let mut missing = Vec::new();
    if options.wants(FORWARDING) {
        lanes.push(set_up(FORWARDING, forwarding)?);
    }
    for (name, mode) in MODES.into_iter().filter(|(name, _)| options.wants(name)) {
        lanes.push(set_up(name, |lane| slb(mode, lane))?);
    }
    for (name, program, start) in OTHERS.into_iter().filter(|(name, ..)| options.wants(name)) {
        let path: Option<PathBuf> = find_program(program);
        match path.map(|path| set_up(name, |lane| start(&path, lane))) {
            Some(Ok(lane)) => lanes.push(lane),
            Some(Err(error)) => missing.push(format!("{error:#}")),
            None => missing.push(format!("{name}: no program `{program}`")),
        }
    }
    Ok((lanes, missing))
}

fn set_up(name: &'static str, start: impl FnOnce(&mut TcpLane) -> Result<()>) -> Result<TcpLane> {
    let mut lane = TcpLane::build(name)?;
    start(&mut lane).context(name)?;
    lane.check()?;
    Ok(lane)
}

/// Forwarding in the kernel by the routing table only, to the server's own address.
fn forwarding(lane: &mut TcpLane) -> Result<()> {
    lane.path.target = (lane.server(), server::PORT).into();
    lane.net.kernel_forwarding(true)
}

fn slb(mode: BenchMode, lane: &mut TcpLane) -> Result<()> {
    let (IpAddr::V4(vip), IpAddr::V4(server), IpAddr::V4(slb)) =
        (Family::V4.vip(), lane.server(), lane.net.slb_address(Family::V4))
    else {
        bail!("not IPv4");
    };
    if mode != BenchMode::Nat {
        // These modes do not translate the port.
        lane.path.target.set_port(server::PORT);
        lane.net.backends[0].add_vips()?;
        lane.answer_directly()?;
    }
    if mode == BenchMode::Ipip {
        lane.net.backends[0].decapsulate(&[slb.into()])?;
    }
    let interfaces = lane.net.interfaces();
    let listener = BenchListener {
        interfaces: &interfaces.iter().map(String::as_str).collect::<Vec<_>>(),
        vip,
        port: lane.path.target.port(),
        mode,
        slb,
        servers: &[server],
        server_port: server::PORT,
    };
    lane.slbd = Some(Slbd::start(&lane.net.slb, lane.id, lane.directory.path(), &listener)?);
    Ok(())
}

fn nftables(nft: &Path, lane: &mut TcpLane) -> Result<()> {
    lane.net.kernel_forwarding(true)?;
    let rules = format!(
        "table ip bench {{\n  chain prerouting {{\n    type nat hook prerouting priority dstnat;\n    \
         ip daddr {} tcp dport {PORT} dnat to {}:{}\n  }}\n}}\n",
        Family::V4.vip(),
        lane.server(),
        server::PORT
    );
    run(lane.net.slb.command(nft).args(["-f", "-"]), &rules).map(drop)
}

fn haproxy(program: &Path, lane: &mut TcpLane) -> Result<()> {
    lane.proxy = Some(Proxy::haproxy(program, lane)?);
    Ok(())
}

fn nginx(program: &Path, lane: &mut TcpLane) -> Result<()> {
    lane.proxy = Some(Proxy::nginx(program, lane)?);
    Ok(())
}
