//! One client with as many answered flows as it can have takes no more than its share of the flow table.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::ensure;
use slb_tests::{
    forge::{Peer, Tap, ports},
    net::Family,
    scenario,
    server::Service,
};

use super::{WEIGHTS, mac_text, on_clients_side, report, victims};

/// Entries of the flow table.
const ENTRIES: u32 = 4096;
/// Flows of the one address, and of the one network; a chunk of them is smaller than the table.
const FLOWS: u16 = 3_600;
const CHUNK: u16 = 900;
/// Connections of the one client.
const CONNECTIONS: u16 = 6_000;
/// Datagrams per second. The last two of a flow are more than 2 s apart, so that the flow becomes assured.
const RATE: u32 = 2_550;
/// New connections per client address, listener and family.
const NEWCOMERS: usize = 5;

/// One IPv4 address uses as many ports as it can, one IPv6 network as many addresses. Each flow sends two datagrams,
/// and a third while the next chunk begins. Servers answer all of them.
#[test]
fn one_clients_datagrams_leave_room_for_others() {
    scenario!(&WEIGHTS, |world| {
        world.plan.flow_table_entries = ENTRIES;
        world.start()?;
        let (forger, mac_pair) = on_clients_side(world)?;
        let [v4, v6] = Family::ALL.map(|family| world.vip(family, Service::Echo));
        let source = world.net.sources(Family::V4)[7];
        let both = |number: u16| {
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0x66, 1, 0, number.rotate_left(5), 7, number);
            let first = mac_pair.datagram((source, 20_000 + number).into(), v4, b"again");
            [first, mac_pair.datagram((address, 5_353).into(), v6, b"again")]
        };
        let datagrams = |place: u16| [place].into_iter().chain([place]).chain(place.checked_sub(CHUNK));
        let numbers = (0..FLOWS).flat_map(datagrams);
        let flooded = forger.flood(RATE, numbers.flat_map(both))?;
        let (succeed, tried) = victims::newcomers_everywhere(world, NEWCOMERS)?;
        let name = "UDP ports of one client, and addresses of one /64";
        report(name, flooded, format!("{succeed} of {tried} new connections of others succeed"));
        ensure!(succeed == tried, "{name}: {succeed} of {tried} new connections of others succeed");
        Ok(())
    });
}

/// Real connections: the client acknowledges the servers' answers.
#[test]
fn one_clients_connections_leave_room_for_others() {
    scenario!(&WEIGHTS, |world| {
        world.plan.flow_table_entries = ENTRIES;
        world.start()?;
        let (forger, mac_pair) = on_clients_side(world)?;
        let tap = Tap::at(&world.net.client, "eth0")?;
        let peer = Peer { forger: &forger, tap: &tap, mac_pair };
        let to = world.vip(Family::V4, Service::Lines);
        // The client's kernel does not own this address, so it does not answer for it.
        let address = Ipv4Addr::new(10, 90, 0, 200);
        let mac = mac_text(forger.mac);
        world.net.slb.ip(&format!("neigh replace {address} lladdr {mac} dev client0 nud permanent"))?;
        let (accepted, sent) = peer.connect(ports(address.into(), 20_000, CONNECTIONS), to)?;
        let (succeed, tried) = victims::newcomers_everywhere(world, NEWCOMERS)?;
        report(
            "one client's TCP connections",
            sent,
            format!("{accepted} accepted; {succeed} of {tried} new connections of others succeed"),
        );
        ensure!(accepted > usize::from(CONNECTIONS) / 16, "only {accepted} of its connections are accepted");
        ensure!(succeed == tried, "{succeed} of {tried} new connections of others succeed");
        Ok(())
    });
}
