//! Two nodes in front of the same servers. Connections move to the node that has no entries for them, while segments
//! are forged for these connections.

use anyhow::{Result, ensure};
use slb_tests::{
    World,
    config::{Listener, Mode, Target},
    forge::{Forger, MacPair},
    net::{Backend, Family},
    scenario,
    server::Service,
};

use super::{
    WEIGHTS, at, report,
    victims::{self, Victim},
};

/// Connections per listener and family.
const CONNECTIONS: usize = 4;
/// Port of the listener in mode `ipip`.
const TUNNELS: u16 = 7307;

#[test]
fn connections_survive_node_change_under_forged_segments() {
    scenario!(&WEIGHTS, |world| {
        prepare(world)?;
        world.start()?;
        let node = world.second_node()?;
        let ports = [Service::Lines.vip_port(), Service::Lines.backend_port(), TUNNELS];
        let open = |port| victims::open(world, port, CONNECTIONS);
        let connections: Vec<_> = ports.into_iter().map(open).collect::<Result<_>>()?;
        let mut connections: Vec<Victim> = connections.into_iter().flatten().collect();
        victims::expect_all(&mut connections, "at the first node")?;

        let first = at(world, &world.net.client, "client0")?;
        let forger = Forger::at(&world.net.client, "eth1")?;
        let second = MacPair { sender: forger.mac, receiver: node.net.slb.mac("client0")? };
        // The node without the traffic forwards them to the servers; the answers return through the other node.
        forger.send_all(connections.iter().flat_map(|victim| second.attacks(victim.local, victim.target)))?;
        victims::expect_all(&mut connections, "at the first node, after blind segments at the second one")?;
        for (place, is_second, forger, mac_pair) in [
            ("second", true, &forger, second),
            ("first", false, &first.0, first.1),
            ("second", true, &forger, second),
        ] {
            world.net.route_through_second(is_second)?;
            let forwarded = || {
                let status = if is_second { node.status() } else { world.status() };
                let counted = status?.reasons.into_iter().filter(|counted| counted.reason == "to_server");
                anyhow::Ok(counted.map(|counted| counted.packets).sum::<u64>())
            };
            let before = forwarded()?;
            ensure!(victims::lost(&mut connections).is_empty(), "without an attack at the {place} node");
            let packets = forwarded()? - before;
            ensure!(packets >= connections.len() as u64, "{packets} packets take the {place} node");
            // Before the first packets of the clients, and once more after them.
            for when in ["first", "then"] {
                let frames =
                    connections.iter().flat_map(|victim| mac_pair.attacks(victim.local, victim.target));
                let sent = forger.send_all(frames)?;
                let lost = victims::lost(&mut connections);
                let name = format!("blind segments at the {place} node, {when}");
                report(&name, sent, format!("{} of {} connections lost", lost.len(), connections.len()));
                ensure!(lost.is_empty(), "{name}: {lost:#?}");
            }
        }
        ensure!(world.status()?.digest == node.status()?.digest, "the nodes differ");
        Ok(())
    });
}

/// Maglev in every mode: with other schedulers, two nodes would not choose equal servers.
fn prepare(world: &mut World) -> Result<()> {
    world.net.route_answers()?;
    world.net.backends.iter().try_for_each(Backend::add_vips)?;
    let own = Family::ALL.map(|family| world.net.slb_address(family));
    for (backend, index) in world.net.backends.iter().zip(0..) {
        backend.decapsulate(&own)?;
        world.serve_lines_also(index, TUNNELS)?;
    }
    world.plan.tunnel_addresses = own.into();
    world.plan.direct = true;
    world.plan.additional_listeners.push(Listener {
        mode: Mode::Ipip,
        ..Listener::new("tunnels", "tcp", TUNNELS, Target::DefaultGroup(TUNNELS))
    });
    Ok(())
}
