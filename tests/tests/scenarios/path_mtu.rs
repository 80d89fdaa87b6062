//! Path-MTU discovery end to end: TCP transfers through a router with a narrower link, before and behind SLB.

use anyhow::{Result, ensure};
use slb_tests::{
    World,
    client::Direction,
    net::{Family, Router},
    scenario,
    server::Service,
};

use super::modes::{DirectMode, prepare};

/// MTU of the narrow link. With the outer headers of tunnels, IPv6 packets of the smallest MTU still fit.
const NARROW: u16 = 1_340;
/// Not a multiple of any segment size.
const BYTES: u64 = 300_007;
const CONNECTIONS: usize = 4;

/// Links before SLB: servers send packets to clients that are too big for them.
mod before_slb {
    use super::*;

    #[test]
    fn nat() {
        scenario!(&[50], |world| transfers_pass(world, None));
    }

    #[test]
    fn dsr() {
        scenario!(&[50], |world| transfers_pass(world, Some(DirectMode::Dsr)));
    }

    #[test]
    fn ipip_over_ipv4() {
        scenario!(&[50], |world| transfers_pass(world, Some(DirectMode::Ipip(Family::V4))));
    }

    #[test]
    fn ipip_over_ipv6() {
        scenario!(&[50], |world| transfers_pass(world, Some(DirectMode::Ipip(Family::V6))));
    }

    #[test]
    fn gue_over_ipv4() {
        scenario!(&[50], |world| transfers_pass(world, Some(DirectMode::Gue(Family::V4))));
    }

    #[test]
    fn gue_over_ipv6() {
        scenario!(&[50], |world| transfers_pass(world, Some(DirectMode::Gue(Family::V6))));
    }

    fn transfers_pass(world: &mut World, mode: Option<DirectMode>) -> Result<()> {
        let router = world.net.insert_router(&world.id.prefix(), 0, NARROW)?;
        if let Some(mode) = mode {
            prepare(world, mode)?;
        }
        world.start()?;
        for family in Family::ALL {
            let refused = transfer(world, &router, (family, family), Direction::Download)?;
            ensure!(refused > 0, "no packet was too big for the router, {family}");
        }
        ensure!(world.packets("forward", Some("to_server"))? > 0, "{:?}", world.status()?.reasons);
        Ok(())
    }
}

/// Links behind SLB: clients send packets to servers that are too big for them.
mod behind_slb {
    use super::*;

    #[test]
    fn nat() {
        scenario!(&[50], |world| transfers_pass(world, None));
    }

    #[test]
    fn ipip_over_ipv4() {
        scenario!(&[50], |world| transfers_pass(world, Some(DirectMode::Ipip(Family::V4))));
    }

    #[test]
    fn ipip_over_ipv6() {
        scenario!(&[50], |world| transfers_pass(world, Some(DirectMode::Ipip(Family::V6))));
    }

    #[test]
    fn gue_over_ipv4() {
        scenario!(&[50], |world| transfers_pass(world, Some(DirectMode::Gue(Family::V4))));
    }

    #[test]
    fn gue_over_ipv6() {
        scenario!(&[50], |world| transfers_pass(world, Some(DirectMode::Gue(Family::V6))));
    }

    fn transfers_pass(world: &mut World, mode: Option<DirectMode>) -> Result<()> {
        let outer = mode.and_then(DirectMode::tunnel);
        let router = world.net.insert_router(&world.id.prefix(), 1, NARROW)?;
        if let Some(mode) = mode {
            prepare(world, mode)?;
        }
        world.start()?;
        let [v4, v6] = Family::ALL
            .map(|family| transfer(world, &router, (family, outer.unwrap_or(family)), Direction::Upload));
        let (v4, v6) = (v4?, v6?);
        ensure!(v4 > 0, "no packet was too big for the router");
        // SLB knows the path MTU of its tunnel by now, and tells the client itself.
        ensure!((v6 > 0) == outer.is_none(), "{v6} packets were too big for the router");
        let told = world.packets("answer", Some("too_big"))?;
        ensure!((told > 0) == outer.is_some(), "{told} ICMP errors by SLB");
        Ok(())
    }
}

/// Transfers arrive unchanged. Returns how many packets were too big for the router. `families` are those of the VIP
/// and of these packets.
fn transfer(world: &World, router: &Router, families: (Family, Family), direction: Direction) -> Result<u64> {
    let refused = || match families.1 {
        Family::V4 => router.namespace.counter("Ip:", "FragFails"),
        Family::V6 => router.namespace.counter6("Ip6FragFails"),
    };
    let before = refused()?;
    world.client().bulk(world.vip(families.0, Service::Bulk), direction, BYTES, CONNECTIONS)?;
    let refused = refused()? - before;
    println!("{direction:?}, VIP {}, packets {}: {refused} too big", families.0, families.1);
    Ok(refused)
}
