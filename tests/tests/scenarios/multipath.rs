//! Servers behind multipath routes.

use anyhow::{Context as _, Result, ensure};
use slb_tests::{World, net::run, scenario, traffic::Traffic};

const LONG_LIVED: usize = 8;
/// Exchanges of each kind required after each step.
const PROGRESS: u64 = 50;

/// Connections survive the loss of either path.
#[test]
fn loss_of_either_path_to_a_server_breaks_no_connection() {
    scenario!(&[1], |world| {
        let (addresses, _second) = world.net.multipath(0)?;
        world.plan.interfaces.push("second0".to_owned());
        world.plan.servers[0].addresses = addresses.to_vec();
        // Answers may arrive by the path that packets to the server do not take.
        for interface in ["b1", "second0"] {
            world.plan.roles.insert(interface.to_owned(), "server");
        }
        world.start()?;
        let traffic = Traffic::start(world, LONG_LIVED)?;
        traffic.progress(PROGRESS)?;
        for (down, other) in [("b1", "second0"), ("second0", "b1")] {
            world.net.slb.ip(&format!("link set {down} down"))?;
            let before = sent(world, other)?;
            traffic.progress(PROGRESS)?;
            traffic.expect_unbroken(None)?;
            ensure!(sent(world, other)? > before + PROGRESS, "nothing was sent by {other}");
            world.net.restore_paths(0)?;
            traffic.progress(PROGRESS)?;
        }
        traffic.expect_unbroken(None)
    });
}

/// Packets that `slb` has sent by an interface.
fn sent(world: &World, interface: &str) -> Result<u64> {
    let shown = run(world.net.slb.command("ip").args(["-s", "-j", "link", "show", "dev", interface]), "")?;
    let links: serde_json::Value = serde_json::from_str(&shown)?;
    links[0]["stats64"]["tx"]["packets"].as_u64().context(shown)
}
