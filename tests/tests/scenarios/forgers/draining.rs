//! Forged segments for connections of a server without new flows: it is disabled, draining, removed, or has weight 0.

use anyhow::{Result, ensure};
use slb_tests::{
    World,
    forge::{MacPair, NUMBERS},
    packets::frames::{Frame, flag},
    scenario,
};

use super::{
    WEIGHTS, on_clients_side,
    victims::{self, Victim, attack},
};

/// Index of that server.
const DRAINED: usize = 0;

#[test]
fn forged_syn_moves_no_connection_of_server_without_new_flows() {
    scenario!(&WEIGHTS, |world| {
        spared(world, "one blind SYN", |mac_pair, victim| {
            vec![mac_pair.segment(victim.local, victim.target, flag::SYN, [NUMBERS[0], 0])]
        })
    });
}

#[test]
fn blind_segments_end_no_connection_of_server_without_new_flows() {
    scenario!(&WEIGHTS, |world| {
        spared(world, "blind segments", |mac_pair, victim| mac_pair.attacks(victim.local, victim.target))
    });
}

/// Attacks the connections of a server in each state in which it takes no new flows.
fn spared(
    world: &mut World,
    name: &str,
    forge: impl Fn(MacPair, &Victim) -> Vec<Frame> + Copy,
) -> Result<()> {
    victims::with_all_schedulers(world)?;
    world.start()?;
    let (forger, mac_pair) = on_clients_side(world)?;
    let server = world.plan.servers[DRAINED].clone();
    let addresses: Vec<_> = server.addresses.iter().map(ToString::to_string).collect();
    let order = |word: &str| -> Result<()> {
        let words = [&["server", word, "--default-group", "shop"][..]].concat();
        let addresses = addresses.iter().map(String::as_str);
        world.slb(&words.into_iter().chain(addresses).collect::<Vec<_>>()).map(drop)
    };
    let mut all_lost = Vec::new();
    for state in ["disable", "drain"] {
        let mut connections = victims::open_everywhere(world)?;
        order(state)?;
        all_lost.extend(attack(&format!("{name}, {state}"), &forger, mac_pair, &mut connections, forge)?);
        order("enable")?;
    }
    let mut connections = victims::open_everywhere(world)?;
    world.plan.servers[DRAINED].weight = 0;
    world.reload()?;
    all_lost.extend(attack(&format!("{name}, weight 0"), &forger, mac_pair, &mut connections, forge)?);
    // Connections that an attack has moved to the other server are left out from here on.
    connections.retain(|victim| !all_lost.iter().any(|lost| lost.contains(&victim.local.to_string())));
    world.plan.servers.remove(DRAINED);
    world.reload()?;
    all_lost.extend(attack(&format!("{name}, removed"), &forger, mac_pair, &mut connections, forge)?);
    ensure!(all_lost.is_empty(), "{all_lost:#?}");
    Ok(())
}
