//! Servers and clients behind VLAN devices. The program runs on the interface below.

use super::{super::full_nat, *};

/// Clients are in no VLAN, and each server is behind a VLAN device.
#[test]
fn all_modes_work_with_servers_behind_vlan_devices() {
    let kinds = ["vlan", "ipip", "sit", "ip6tnl"];
    with_devices(function_name!(), &kinds, |world| {
        prepare_all(world)?;
        (0..WEIGHTS.len()).try_for_each(|index| world.net.vlan(index).map(drop))?;
        expect_native(&world.start()?)?;
        all_modes_work(world)
    });
}

/// One link carries everything: the client and each server are in VLANs of their own.
#[test]
fn all_modes_work_with_clients_and_servers_in_vlans_of_one_trunk() {
    let kinds = ["vlan", "ipip", "sit", "ip6tnl"];
    with_devices(function_name!(), &kinds, |world| {
        world.net.trunk()?;
        prepare_all(world)?;
        world.plan.interfaces = vec!["client0".to_owned()];
        expect_native(&world.start()?)?;
        all_modes_work(world)
    });
}

/// As above. The servers have routes to SLB's local addresses alone.
#[test]
fn full_nat_works_with_clients_and_servers_in_vlans_of_one_trunk() {
    with_devices(function_name!(), &["vlan"], |world| {
        world.net.trunk()?;
        full_nat::prepare(world)?;
        world.plan.interfaces = vec!["client0".to_owned()];
        expect_native(&world.start()?)?;
        spreads(world, &world.plan.weights(), EXCHANGES)?;
        ensure!(world.packets("drop", None)? == 0, "{:?}", world.status()?.reasons);
        Ok(())
    });
}

/// Servers take packets of all modes, and listeners have all modes.
fn prepare_all(world: &mut World) -> Result<()> {
    prepare(world)?;
    for backend in &world.net.backends {
        Family::ALL.into_iter().try_for_each(|outer| backend.end_tunnels(outer))?;
    }
    beside::plan(&mut world.plan);
    Ok(())
}
