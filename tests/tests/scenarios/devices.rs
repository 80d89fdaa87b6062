//! Interfaces that do not support native XDP: the daemon uses the generic hook and reports it, or refuses and names the
//! way that works.

mod merging;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use slb_api::types::{ApiHealth, AttachMode, Status};
use slb_tests::{
    World, client::PATIENCE, daemon::servers, net::Family, scenario, server::Service, wait::wait_for,
};

const WEIGHTS: [u8; 2] = [50, 50];
const EXCHANGES: u64 = 50;
/// The backend behind the unusual interface.
const GUEST: usize = 1;
/// Time within which an interface that stops delivering gets no more packets.
const DETECTION_LIMIT: Duration = Duration::from_secs(5);

/// A native program cannot redirect to a bridge: the kernel drops the frames.
#[test]
fn servers_behind_bridge_are_served_by_generic_xdp() {
    scenario!(&WEIGHTS, |world| {
        automatic(world);
        behind_a_bridge(world)?;
        let status = world.start()?;
        expect_modes(&status, AttachMode::Generic)?;
        let said = world.slb(&["status"])?;
        ensure!(
            said.contains("interface client0: XDP generic (br0 is a bridge, which has no native XDP)"),
            "{said}"
        );
        works(world)?;
        // A restart keeps the generic hook, and an interface that appears later gets it too.
        world.restart()?;
        world.net.unplug(0)?;
        world.net.plug(0)?;
        world.wait_for_health(0, ApiHealth::Healthy)?;
        let back = wait_for("the program on the interface", PATIENCE, || {
            let status = world.status()?;
            Ok((status.interfaces.len() == 3).then_some(status))
        })?;
        expect_modes(&back, AttachMode::Generic)?;
        works(world)
    });
}

/// A veth delivers frames of native XDP only if its peer runs a program.
#[test]
fn veth_with_plain_peer_is_served_by_generic_xdp() {
    scenario!(&WEIGHTS, |world| {
        automatic(world);
        world.net.backends[GUEST].release()?;
        expect_modes(&world.start()?, AttachMode::Generic)?;
        let said = world.slb(&["status"])?;
        ensure!(said.contains("b2 is a veth whose peer runs no native XDP program"), "{said}");
        works(world)
    });
}

#[test]
fn native_xdp_is_refused_where_packets_would_be_lost() {
    scenario!(&WEIGHTS, |world| {
        world.net.backends[GUEST].release()?;
        let refused = |world: &World, words: &[&str]| -> Result<()> {
            let output = world.slbd("run", &world.plan.toml())?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(!output.status.success() && words.iter().all(|word| said.contains(word)), "{said}");
            ensure!(
                !world.plan.pin_dir.exists(),
                "a failed first start left {}",
                world.plan.pin_dir.display()
            );
            Ok(())
        };
        let instead = "set [daemon] xdp_mode = \"auto\" or \"generic\"";
        refused(world, &["b2 is a veth whose peer runs no native XDP program", instead])?;
        world.net.backends[GUEST].recover()?;
        let good = world.plan.clone();
        behind_a_bridge(world)?;
        refused(world, &["br0 is a bridge, which has no native XDP", instead])?;

        // The same by a reload, while the other interfaces run natively.
        let with_bridge = std::mem::replace(&mut world.plan, good);
        world.plan.interfaces.retain(|name| name != "b2");
        world.plan.servers.truncate(GUEST);
        world.start()?;
        let programs = world.programs()?;
        world.write(&with_bridge.toml())?;
        let said = world.slb_refused(&["reload"])?;
        ensure!(
            said.contains("br0 is a bridge, which has no native XDP") && said.contains("`slbd detach`"),
            "{said}"
        );
        ensure!(world.programs()? == programs, "{:?} after {programs:?}", world.programs()?);
        works(world)
    });
}

/// Frames that the kernel loses are counted and reported, and an unreachable server gets no more traffic.
#[test]
fn interface_losing_frames_gets_no_more_packets() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        works(world)?;
        world.net.backends[GUEST].release()?;
        // Connections of this time may be lost; the loss is counted.
        world.client().exchanges(Service::Http, world.vip(Family::V4, Service::Http), EXCHANGES, 8);
        wait_for("a server without a next hop", DETECTION_LIMIT, || Ok((!reached(world)?).then_some(())))?;
        let said = world.slb(&["status"])?;
        let why = "does not forward: b2 is a veth whose peer runs no native XDP program";
        ensure!(said.contains(&format!("interface b2: {why}")), "{said}");
        ensure!(said.contains("lost") && world.log().contains("packets are lost"), "{said}");
        works(world)?;
        world.net.backends[GUEST].recover()?;
        wait_for("a server with a next hop", DETECTION_LIMIT, || {
            reached(world).map(|reached| reached.then_some(()))
        })?;
        let said = world.slb(&["status"])?;
        ensure!(!said.contains("does not forward"), "{said}");
        works(world)
    });
}

/// Lets the daemon choose between native and generic XDP.
fn automatic(world: &mut World) {
    world.plan.xdp_mode = "auto";
}

/// Makes the guest's interface a port of a bridge, and configures the bridge in its place.
fn behind_a_bridge(world: &mut World) -> Result<()> {
    world.net.bridge(GUEST, "br0")?;
    let interface = world.plan.interfaces.iter_mut().find(|name| *name == "b2").context("no interface b2")?;
    *interface = "br0".to_owned();
    Ok(())
}

fn expect_modes(status: &Status, mode: AttachMode) -> Result<()> {
    let all =
        status.interfaces.len() == 3 && status.interfaces.iter().all(|interface| interface.mode == mode);
    ensure!(all, "{:?}", status.interfaces);
    Ok(())
}

fn reached(world: &World) -> Result<bool> {
    let status = world.status()?;
    let guest = &world.plan.servers[GUEST];
    let mut of_it = servers(&status).filter(|server| guest.addresses.contains(&server.address.ip()));
    Ok(of_it.all(|server| server.next_hop.is_some() && server.slots > 0))
}

fn works(world: &World) -> Result<()> {
    for family in Family::ALL {
        let target = world.vip(family, Service::Http);
        world.client().exchanges(Service::Http, target, EXCHANGES, 4).expect_no_failure()?;
    }
    Ok(())
}
