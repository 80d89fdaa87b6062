//! A restart with another flow-table size, under traffic in all modes.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use aya::maps::{Array, Map, MapData, MapInfo};
use slb_tests::{
    World,
    config::{Group, Listener, Target},
    scenario,
    traffic::Traffic,
    wait::wait_for,
};

use super::modes::{
    beside::{self, prepare},
    flows::Flows,
};

const WEIGHTS: [u8; 3] = [50, 30, 20];
/// Long-lived connections per family.
const LONG_LIVED: usize = 16;
/// Exchanges of each kind required after each step.
const EXCHANGES: u64 = 100;
/// Sizes of the flow table, in entries, in order.
const SIZES: [u32; 3] = [1 << 18, 1 << 20, 1 << 19];
/// `max_servers` of the maps; one of the configurations has more.
const MAX_SERVERS: u32 = 1024;
/// How many starts may complete before the test can kill them.
const STARTS: u64 = 5;
/// How long a step of a start may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Upper bound of packets of one flow that are lost in a switch. Each end sends what it has: the handshake's ACK, a
/// request, a FIN. It retransmits only after more time than a switch takes.
const LOST_OF_A_FLOW: u64 = 16;

/// Connections and UDP flows of all modes stay with their servers. Slots have migrated twice: a flow without its entry
/// would go to the first server or to the third. Starts are killed at each step, and one is refused in between.
#[test]
fn flow_table_resize_keeps_every_flow() {
    scenario!(&WEIGHTS, |world| {
        prepare(world)?;
        for backend in &world.net.backends {
            backend.decapsulate(&world.plan.tunnel_addresses)?;
        }
        world.plan.flow_table_entries = SIZES[0];
        world.plan.max_servers = Some(MAX_SERVERS);
        beside::plan(&mut world.plan);
        world.start()?;
        let traffic = Traffic::start(world, LONG_LIVED)?;
        let mut flows = Flows::default();
        flows.open(world)?;
        for server in 0..2 {
            world.plan.servers[server].weight = 0;
            beside::plan(&mut world.plan);
            world.reload()?;
            if server == 0 {
                flows.open(world)?;
            }
        }
        flows.note_servers()?;
        traffic.progress(EXCHANGES)?;
        flows.expect_undisturbed()?;

        resize(world);
        world.terminate()?;
        let mut switches = killed_at_each_step(world, &traffic)?;
        flows.expect_undisturbed()?;
        resize(world);
        refused_in_between(world)?;
        traffic.progress(EXCHANGES)?;
        world.start()?;
        switches += 1;
        expect_resized(world)?;
        traffic.progress(EXCHANGES)?;
        traffic.expect_unbroken(None)?;
        flows.expect_undisturbed()?;

        let dropped = world.packets("drop", None)?;
        let not_ready = world.packets("drop", Some("not_ready"))?;
        println!("{not_ready} packets dropped in {switches} switches");
        ensure!(dropped == not_ready, "dropped: {:?}", world.status()?.reasons);
        // Only packets of flows that begin meanwhile: short exchanges, one per worker at a time.
        let limit = switches * traffic.workers() * LOST_OF_A_FLOW;
        ensure!(
            not_ready <= limit,
            "{not_ready} packets of flows that began were dropped, of at most {limit}"
        );
        traffic.stop().expect_no_failure()
    });
}

/// Kills starts at each step: once begun, while copying, while both programs may run, and when only the new one runs.
/// The last start completes. Returns how many of them may have been in a switch.
fn killed_at_each_step(world: &mut World, traffic: &Traffic) -> Result<u64> {
    let mut switches = 0;
    for milestone in ["resizing the flow table", "XDP program loaded"] {
        switches +=
            killed_before_the_end(world, |world, lines| world.wait_for_log(milestone, lines(milestone)))?;
        traffic.progress(EXCHANGES)?;
    }
    switches += killed_before_the_end(world, |world, _| while_resizing(world))?;
    let over = "flow table resized";
    let before = world.log().matches(over).count();
    world.start_without_waiting()?;
    world.wait_for_log(over, before)?;
    world.kill()?;
    world.start()?;
    expect_resized(world)?;
    traffic.progress(EXCHANGES)?;
    Ok(switches + 1)
}

/// Kills a start when `wait` returns. If its resize is complete by then, tries again with another size. Returns the
/// number of starts.
fn killed_before_the_end(
    world: &mut World,
    wait: impl Fn(&World, &dyn Fn(&str) -> usize) -> Result<()>,
) -> Result<u64> {
    for starts in 1..=STARTS {
        let log = world.log();
        world.start_without_waiting()?;
        wait(world, &|line| log.matches(line).count())?;
        world.kill()?;
        if !old_tables(world)?.is_empty() {
            return Ok(starts);
        }
        resize(world);
    }
    bail!("{STARTS} starts were over before they were killed")
}

/// Plans a start with another size.
fn resize(world: &mut World) {
    let size = &mut world.plan.flow_table_entries;
    *size = if *size == SIZES[1] { SIZES[2] } else { SIZES[1] };
}

/// Waits until both programs drop packets of flows without an entry, or until the resize is complete.
fn while_resizing(world: &World) -> Result<()> {
    let pin = world.pins().join("maps/RESIZING");
    let map: Array<MapData, u64> = Map::from_map_data(MapData::from_pin(pin)?)?.try_into()?;
    wait_for("a resize to begin", LIMIT, || Ok((!old_tables(world)?.is_empty()).then_some(())))?;
    let end = Instant::now() + LIMIT;
    // The condition holds for milliseconds only, so the loop does not sleep.
    while map.get(&0, 0)? == 0 && !old_tables(world)?.is_empty() {
        ensure!(Instant::now() < end, "no switch within {LIMIT:?}");
    }
    Ok(())
}

/// Starts with another size and more servers than the maps can hold; refused after the new table exists.
fn refused_in_between(world: &mut World) -> Result<()> {
    let mut plan = world.plan.clone();
    plan.max_servers = Some(4 * MAX_SERVERS);
    let server = |n: u32| (([10, 99, (n / 250) as u8, (n % 250) as u8 + 1], 1).into(), 100);
    let servers = (0..MAX_SERVERS).map(server).collect();
    plan.groups.push(Group { name: "many".to_owned(), servers, ..Group::default() });
    plan.additional_listeners.push(Listener::new("many", "tcp", 4444, Target::Group("many".to_owned())));
    world.terminate()?;
    let output = world.slbd("run", &plan.toml())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "it started: {said}");
    for piece in ["[daemon] max_servers", "1024", "4096", "slbd detach"] {
        ensure!(said.contains(piece), "no `{piece}` in: {said}");
    }
    ensure!(!old_tables(world)?.is_empty(), "refused before the resize began: {said}");
    Ok(())
}

/// Fails unless there is exactly one flow table, of the configured size.
fn expect_resized(world: &World) -> Result<()> {
    let entries = MapInfo::from_pin(world.pins().join("maps/FLOWS"))?.max_entries();
    ensure!(entries == world.plan.flow_table_entries, "a flow table of {entries} entries");
    ensure!(old_tables(world)?.is_empty(), "pins of old tables: {:?}", old_tables(world)?);
    Ok(())
}

/// Pins of flow tables that a resize replaces.
fn old_tables(world: &World) -> Result<Vec<PathBuf>> {
    let pins = fs::read_dir(world.pins().join("maps"))?.map(|entry| Ok(entry?.path()));
    let pins = pins.collect::<Result<Vec<_>>>()?;
    Ok(pins.into_iter().filter(|pin| pin.to_string_lossy().contains("_FLOWS")).collect())
}
