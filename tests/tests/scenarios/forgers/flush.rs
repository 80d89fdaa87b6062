//! `slb flows flush` erases what a blind fill has put into the flow table.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use slb_tests::{World, net::Family, packets::frames::flag, scenario, server::Service};

use super::{
    WEIGHTS, on_clients_side, report,
    victims::{self, LISTENERS, Victim},
};

/// Forged clients, whose SYNs servers answer.
const FORGED: u32 = 1_000;

#[test]
fn flush_erases_only_entries_that_match_its_filters() {
    scenario!(&WEIGHTS, |world| {
        victims::with_all_schedulers(world)?;
        world.start()?;
        let mut connections = victims::open_everywhere(world)?;
        let before = world.status()?.flow_table.used;
        let (forger, mac_pair) = on_clients_side(world)?;
        let opening = |number: u32| {
            let [.., c, d] = number.to_be_bytes();
            Family::ALL.map(|family| {
                let from: IpAddr = match family {
                    Family::V4 => [10, 66, c, d].into(),
                    Family::V6 => [0x2001, 0xdb8, 0x66, number as u16, 0, 0, 0, 1].into(),
                };
                let to = world.vip(family, Service::Lines);
                mac_pair.segment(SocketAddr::new(from, 40_000), to, flag::SYN, [number, 0])
            })
        };
        let flooded = forger.flood(17_500, (0..FORGED).flat_map(opening))?;
        let filled = world.status()?.flow_table.used;
        ensure!(filled >= before + u64::from(2 * FORGED), "{before} entries, then {filled}");
        refusals(world)?;
        ensure!(world.status()?.flow_table.used >= filled, "something was erased");

        ensure!(erased(world, &["--not-assured", "--dry-run"])? >= u64::from(2 * FORGED));
        let forged = erased(world, &["--not-assured"])?;
        let left = world.status()?.flow_table;
        let lost = victims::lost(&mut connections);
        report(
            "blind SYNs, then a flush of what is not assured",
            flooded,
            format!(
                "{forged} erased, {} left; {} of {} connections lost",
                left.used,
                lost.len(),
                connections.len()
            ),
        );
        ensure!(lost.is_empty(), "{lost:#?}");
        ensure!(forged >= u64::from(2 * FORGED) && left.used < before + 100, "{forged} erased; {left:?}");
        ensure!(erased(world, &["--client", "10.66.0.0/16"])? == 0, "forged clients have entries");
        world.wait_for_log("flow-table entries erased what=\"flows flush\" uid=0", 0)?;

        let clients = Family::ALL.map(|family| world.net.sources(family)[0]);
        clients.iter().try_for_each(|client| of_one_client(world, *client, &connections))?;
        let lost = victims::lost(&mut connections);
        let is_theirs = |lost: &&String| {
            clients
                .iter()
                .any(|client| lost.starts_with(SocketAddr::new(*client, 0).to_string().trim_end_matches('0')))
        };
        let theirs = lost.iter().filter(is_theirs).count();
        println!(
            "flush of one client of each family: {theirs} of their connections lost, {} of others",
            lost.len() - theirs
        );
        ensure!(lost.len() == theirs, "{lost:#?}");
        // The hash leads the other connections back to their servers.
        ensure!(!lost.iter().any(|lost| lost.contains(":7 with ")), "{lost:#?}");
        Ok(())
    });
}

/// Erases the entries of one client only.
fn of_one_client(world: &World, client: IpAddr, connections: &[Victim]) -> Result<()> {
    let theirs = connections.iter().filter(|victim| victim.local.ip() == client).count() as u64;
    ensure!(theirs == LISTENERS.len() as u64, "{theirs} connections");
    let client = client.to_string();
    let [counts, erases] = [&["--client", &client, "--dry-run"][..], &["--client", &client]];
    let all = || world.status().map(|status| status.flow_table.used);
    let before = all()?;
    ensure!(erased(world, counts)? == theirs && all()? == before, "a dry run");
    ensure!(erased(world, erases)? == theirs, "the first time");
    ensure!(erased(world, counts)? == 0, "the second time");
    let left = all()?;
    ensure!(left + theirs == before, "{before} entries, then {left}");
    Ok(())
}

/// Number of entries that `slb flows flush` reports as erased.
fn erased(world: &World, filters: &[&str]) -> Result<u64> {
    let said = world.slb(&[&["flows", "flush"][..], filters].concat())?;
    let count = said.split_whitespace().next().and_then(|count| count.parse().ok());
    count.with_context(|| format!("{filters:?}: {said}"))
}

fn refusals(world: &World) -> Result<()> {
    for (filters, said) in [
        (&[][..], "or write --all"),
        (&["--dry-run"], "or write --all"),
        (&["--all", "--not-assured"], "write one of them"),
        (&["--vip", "192.0.2.99"], "there are: shop/"),
        (&["--client", "10.0.0.0/33"], "an address or a prefix is expected"),
    ] {
        let refused = world.slb_refused(&[&["flows", "flush"][..], filters].concat())?;
        ensure!(refused.contains(said), "{filters:?}: {refused}");
    }
    Ok(())
}
