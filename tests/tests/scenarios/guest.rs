//! Devices on top of interfaces, and the kernel's own tunnel devices. `cargo xtask vm` runs these scenarios in a guest
//! whose kernel supports them. Each setup works, or is refused with the reason and the way that works.

mod vlans;

use std::{fs, os::fd::OwnedFd, time::Duration};

use anyhow::{Context as _, Result, ensure};
use slb_api::types::{ApiHealth, AttachMode, Status};
use slb_tests::{
    World,
    config::Mode,
    function_name,
    net::{Family, TEAM, run},
    scenario,
    server::Service,
    traffic::spreads,
    wait::wait_for,
};

use super::modes::beside::{self, prepare, tunnel_vip};

const WEIGHTS: [u8; 2] = [50, 50];
/// Exchanges of each kind; few, since the guest's processor is emulated.
const EXCHANGES: u64 = 60;
/// Longest time until the daemon has read a new member of a bond, on an emulated CPU.
const MEMBER_LIMIT: Duration = Duration::from_secs(20);
/// Default of `gue_port`.
const GUE_PORT: u16 = 6080;
/// Long-lived connections per listener of modes `dsr` and `ipip`.
const CONNECTIONS: usize = 16;

/// As [`scenario`], but skipped if the kernel lacks one of these device types.
fn with_devices(name: &str, kinds: &[&'static str], body: impl FnOnce(&mut World) -> Result<()>) {
    scenario(name, &WEIGHTS, |world| match world.net.lacks(kinds)? {
        None => body(world),
        Some(kind) => {
            println!("skipped: this kernel has no {kind} devices: cargo xtask vm has");
            Ok(())
        }
    });
}

#[test]
fn unusable_bond_vlan_and_vrf_interfaces_are_refused_with_advice() {
    with_devices(function_name!(), &["bond", "vlan", "vrf"], |world| {
        let _program = world.net.bond_backend(0, "bond1", "balance-xor")?;
        let upper = world.net.vlan(1)?;
        use_generic(world);
        let member = "b1 belongs to the bond bond1: name bond1 in [daemon] interfaces in place of b1";
        refused(world, &["client0", "b1", &upper], member)?;
        refused(world, &["client0", "b2", &upper], "leave b2 out")?;
        world.net.slb.ip("link add red type vrf table 10\nlink set red up\nlink set client0 master red")?;
        refused(world, &["client0", "bond1"], "client0 belongs to the VRF red")?;
        refused(world, &["client0", "bond1"], "`ip link set dev client0 netns NAMESPACE`")?;
        refused(world, &["red", "bond1"], "red is a VRF")
    });
}

/// A start with these interfaces fails, gives the reason, and leaves nothing behind.
fn refused(world: &mut World, interfaces: &[&str], why: &str) -> Result<()> {
    world.plan.interfaces = interfaces.iter().map(|name| (*name).to_owned()).collect();
    let output = world.slbd("run", &world.plan.toml())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains(why), "{interfaces:?}: {said}");
    ensure!(!world.plan.pin_dir.exists(), "a refused start left pins");
    Ok(())
}

/// The bonding driver runs the program on its members: answers leave by the member on which the request arrived.
#[test]
fn all_modes_work_through_bonds_with_native_xdp() {
    let kinds = ["bond", "ipip", "sit", "ip6tnl"];
    with_devices(function_name!(), &kinds, |world| {
        let _programs = bonded(world, ["balance-xor", "balance-rr", "active-backup"])?;
        expect_native(&world.start()?)?;
        all_modes_work(world)?;
        // A member that is added later can send too.
        let _program = world.net.renew_bond_of_client("bond0")?;
        // Until the daemon has read the new member, the kernel refuses what arrives by it.
        wait_for("a member that is added later to be taken", MEMBER_LIMIT, || {
            Ok(spreads(world, &world.plan.weights(), EXCHANGES).ok())
        })
    });
}

/// Both ends of each link speak LACP, whose frames the program passes to the kernel.
#[test]
fn all_modes_work_through_lacp_bonds_with_native_xdp() {
    let kinds = ["bond", "ipip", "sit", "ip6tnl"];
    with_devices(function_name!(), &kinds, |world| {
        let _programs = bonded(world, ["802.3ad"; 3])?;
        expect_native(&world.start()?)?;
        all_modes_work(world)?;
        for bond in ["bond0", "bond1", "bond2"] {
            let file = format!("/proc/thread-self/net/bonding/{bond}");
            let shown = world.net.slb.on_thread(|| Ok(fs::read_to_string(&file)?))?;
            let unanswered = "Partner Mac Address: 00:00:00:00:00:00";
            ensure!(shown.contains("802.3ad") && !shown.contains(unanswered), "{shown}");
        }
        Ok(())
    });
}

/// The team driver does not support native XDP: `auto` uses the generic hook and reports it. A start takes the guest
/// half a minute.
#[test]
fn all_modes_work_through_teams_with_generic_xdp() {
    let kinds = ["team", "ipip", "sit", "ip6tnl"];
    with_devices(function_name!(), &kinds, |world| {
        let _programs = bonded(world, [TEAM; 3])?;
        let interfaces = world.plan.interfaces.clone();
        refused(world, &["bond0", "b1", "bond2"], "b1 belongs to the team bond1: name bond1")?;
        world.plan.interfaces = interfaces;
        world.plan.xdp_mode = "auto";
        let status = world.start()?;
        let mut interfaces = status.interfaces.iter();
        ensure!(interfaces.all(|interface| interface.mode == AttachMode::Generic), "{:?}", status.interfaces);
        world.wait_for_log("no native XDP between these interfaces: all take the generic hook", 0)?;
        all_modes_work(world)
    });
}

/// Replaces each link by a bond, and prepares servers for packets of all modes.
fn bonded(world: &mut World, [client, first, second]: [&str; 3]) -> Result<[OwnedFd; 3]> {
    prepare(world)?;
    let programs = [
        world.net.bond_client("bond0", client)?,
        world.net.bond_backend(0, "bond1", first)?,
        world.net.bond_backend(1, "bond2", second)?,
    ];
    for backend in &world.net.backends {
        Family::ALL.into_iter().try_for_each(|outer| backend.end_tunnels(outer))?;
    }
    world.plan.interfaces = ["bond0", "bond1", "bond2"].map(str::to_owned).into();
    beside::plan(&mut world.plan);
    Ok(programs)
}

/// Exchanges of all kinds in mode `nat`, and connections and datagrams in the other modes, in both families.
fn all_modes_work(world: &World) -> Result<()> {
    spreads(world, &world.plan.weights(), EXCHANGES)?;
    let [lines, echo] = [Service::Lines, Service::Echo].map(Service::backend_port);
    for family in Family::ALL {
        for vip in [family.vip(), tunnel_vip(family)] {
            let connections = world.client().long_lived((vip, lines).into(), CONNECTIONS)?;
            connections.progress(3)?;
            connections.expect_unbroken(None)?;
            ensure!(connections.alive().len() == WEIGHTS.len(), "{vip}: {:?}", connections.alive());
            let batch = world.client().exchanges(Service::Echo, (vip, echo).into(), EXCHANGES, 4);
            batch.expect_no_failure().with_context(|| format!("datagrams to {vip}"))?;
            ensure!(batch.tally.len() == WEIGHTS.len(), "{vip}: {:?}", batch.tally);
        }
    }
    ensure!(world.packets("drop", None)? == 0, "{:?}", world.status()?.reasons);
    Ok(())
}

/// A server behind a VLAN device of an attached interface is served. A reload that adds the VLAN device is refused; one
/// that replaces the interface by it works.
#[test]
fn vlan_device_and_bond_forward_with_generic_xdp() {
    with_devices(function_name!(), &["bond", "vlan"], |world| {
        let _program = world.net.bond_client("bond0", "balance-xor")?;
        let upper = world.net.vlan(0)?;
        use_generic(world);
        world.plan.interfaces = ["bond0", "b1", "b2"].map(str::to_owned).into();
        world.start()?;
        works(world)?;

        let good = world.plan.interfaces.clone();
        world.plan.interfaces.push(upper.clone());
        world.write(&world.plan.toml())?;
        let said = world.slb_refused(&["reload"])?;
        ensure!(said.contains("leave b1 out"), "{said}");
        ensure!(world.status()?.interfaces.len() == good.len(), "{:?}", world.status()?.interfaces);

        world.plan.interfaces = ["bond0".to_owned(), upper, "b2".to_owned()].into();
        world.reload()?;
        world.wait_for_health(0, ApiHealth::Healthy)?;
        works(world)
    });
}

/// The kernel's devices `ipip` and `sit` decapsulate tunnel packets over IPv4, `ip6tnl` those over IPv6.
#[test]
fn tunnels_are_decapsulated_by_kernel_devices() {
    with_devices(function_name!(), &["ipip", "sit", "ip6tnl"], |world| {
        decapsulated_by_kernel(world, Mode::Ipip)
    });
}

/// The kernel's `fou` takes packets out of UDP for the same devices.
#[test]
fn gue_packets_are_decapsulated_by_kernel() {
    with_devices(function_name!(), &["ipip", "sit", "ip6tnl", "fou"], |world| {
        decapsulated_by_kernel(world, Mode::Gue)
    });
}

fn decapsulated_by_kernel(world: &mut World, mode: Mode) -> Result<()> {
    world.net.route_answers()?;
    world.plan.mode = mode;
    world.plan.unknown_datagrams = Some("follow");
    world.plan.tunnel_addresses = Family::ALL.map(|family| world.net.slb_address(family)).into();
    for (index, outer) in Family::ALL.into_iter().enumerate() {
        let backend = &world.net.backends[index];
        backend.add_vips()?;
        backend.end_tunnels(outer)?;
        if mode == Mode::Gue {
            backend.receive_gue(outer, GUE_PORT)?;
        }
        let addresses = &mut world.plan.servers[index].addresses;
        addresses.retain(|address| address.is_ipv4() == (outer == Family::V4));
    }
    world.start()?;
    works(world)?;
    for (index, device) in [(0, "t4"), (0, "t6"), (1, "t0")] {
        let received = received(world, index, device)?;
        ensure!(received > EXCHANGES / 4, "{device}: {received} packets");
    }
    Ok(())
}

/// Clients are behind the network card of a virtual machine.
#[test]
fn nat_works_with_native_xdp_of_virtio_net() {
    scenario!(&WEIGHTS, |world| {
        if !world.net.cable_client()? {
            println!("skipped: this machine has not the guest's network cards: cargo xtask vm has");
            return Ok(());
        }
        expect_native(&world.start()?)?;
        works(world)
    });
}

/// Packets that a backend has received on a device.
fn received(world: &World, index: usize, device: &str) -> Result<u64> {
    let namespace = &world.net.backends[index].namespace;
    let arguments = ["-json", "-statistics", "link", "show", "dev", device];
    let shown: serde_json::Value = serde_json::from_str(&run(namespace.command("ip").args(arguments), "")?)?;
    shown.pointer("/0/stats64/rx/packets").and_then(serde_json::Value::as_u64).context("no counter")
}

fn expect_native(status: &Status) -> Result<()> {
    let interfaces = &status.interfaces;
    ensure!(interfaces.iter().all(|interface| interface.mode == AttachMode::Native), "{interfaces:?}");
    Ok(())
}

fn use_generic(world: &mut World) {
    world.plan.xdp_mode = "generic";
}

fn works(world: &World) -> Result<()> {
    spreads(world, &world.plan.weights(), EXCHANGES)?;
    ensure!(world.packets("drop", None)? == 0, "{:?}", world.status()?.reasons);
    Ok(())
}
