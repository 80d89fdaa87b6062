//! An upgrade from the previous ABI version under traffic in all modes, its failures, and a refused downgrade.

mod affinity;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use nix::unistd::geteuid;
use slb_common::abi::ABI_VERSION;
use slb_tests::{
    World,
    config::{Group, Listener, Plan, Target},
    daemon::{PREVIOUS_ABI, Release, servers},
    scenario,
    server::Service,
    traffic::Traffic,
};

use self::affinity::Affinity;
use super::modes::{
    beside::{self, prepare},
    flows::Flows,
};

const WEIGHTS: [u8; 3] = [50, 30, 20];
/// Long-lived connections per family.
const LONG_LIVED: usize = 16;
/// Exchanges of each kind required after each step.
const EXCHANGES: u64 = 100;
/// `max_servers` of the maps; one of the configurations has more.
const MAX_SERVERS: u32 = 1024;
/// Upgrades until one is killed after its commit.
const ATTEMPTS: u32 = 5;
/// How long a step of a start may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Upper bound of packets of one flow that are lost while the flow table is exchanged.
const LOST_OF_A_FLOW: u64 = 16;

/// Connections and UDP flows of all modes stay with their servers, and no packet is lost. Slots have migrated twice: a
/// flow without its entry would go to the first server or to the third.
#[test]
fn upgrade_moves_no_flow_and_loses_no_packet() {
    scenario!(&WEIGHTS, |world| {
        let mut before = Before::prepare(world)?;
        before.traffic.progress(EXCHANGES)?;
        let pins = listing(&world.plan.pin_dir)?;
        upgrade_is_refused(world)?;
        ensure!(listing(&world.plan.pin_dir)? == pins, "pins after a refused upgrade");
        before.expect_same_programs(world)?;

        world.set_release(Release::Current)?;
        world.start()?;
        before.expect_upgraded(world)?;
        downgrade_is_refused(world, &before)?;
        before.programs = world.programs()?;
        world.start()?;
        before.traffic.progress(EXCHANGES)?;
        before.finish(world)
    });
}

/// Daemons killed in each phase of an upgrade leave forwarding as it is. Until the new version's pins are in use, the old
/// version starts again; from then on the new one goes on.
#[test]
fn sigkill_during_upgrade_loses_nothing() {
    let mut hit = false;
    for _ in 0..ATTEMPTS {
        scenario!(&WEIGHTS, |world| {
            let mut before = Before::prepare(world)?;
            for phase in [Phase::Staged, Phase::Loading] {
                kill_in(world, phase)?;
                before.traffic.progress(EXCHANGES)?;
                before.flows.expect_undisturbed()?;
                world.set_release(Release::Previous)?;
                world.start()?;
                before.traffic.progress(EXCHANGES)?;
                before.programs = world.programs()?;
                world.terminate()?;
            }
            hit = kill_in(world, Phase::Committed)?;
            before.traffic.progress(EXCHANGES)?;
            before.flows.expect_undisturbed()?;
            world.start()?;
            before.expect_upgraded(world)?;
            before.finish(world)
        });
        // Without root, the scenario counts as skipped.
        if hit || !geteuid().is_root() {
            return;
        }
    }
    panic!("no kill between commit and finish in {ATTEMPTS} upgrades");
}

/// A phase of an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The pins of the new version are staged.
    Staged,
    /// The programs are loaded over the staged pins. The loader makes `TOTALS` before the kernel verifies them.
    Loading,
    /// The pins are those of the new version, and those of the old one still exist.
    Committed,
}

impl Phase {
    /// Whether the pins are those of this phase or a later one.
    fn has_begun(self, world: &World) -> bool {
        let pin = match self {
            Self::Staged => format!("v{PREVIOUS_ABI}/maps/V{ABI_VERSION}_CONTROL"),
            Self::Loading => format!("v{PREVIOUS_ABI}/maps/V{ABI_VERSION}_TOTALS"),
            Self::Committed => format!("v{ABI_VERSION}/maps/CONTROL"),
        };
        world.plan.pin_dir.join(pin).exists()
    }
}

/// Starts the new version and kills it in a phase. Returns whether it was in this phase at its end. The phases before
/// the commit take as long as the verifier, so the kill must hit them. The steps after the commit take milliseconds: the
/// upgrade may be complete.
fn kill_in(world: &mut World, phase: Phase) -> Result<bool> {
    const STAGED: &str = "upgrading the maps";
    let lines = world.log().matches(STAGED).count();
    world.set_release(Release::Current)?;
    world.start_without_waiting()?;
    // Only then the staged pins are of this start, not of one that was killed before.
    world.wait_for_log(STAGED, lines)?;
    let end = Instant::now() + LIMIT;
    // Without a sleep, which would last longer than a phase.
    while !phase.has_begun(world) {
        ensure!(Instant::now() < end, "no phase {phase:?} within {LIMIT:?}");
    }
    world.kill()?;
    let (old, is_committed) = (directory(world, PREVIOUS_ABI), Phase::Committed.has_begun(world));
    let hit = match phase {
        Phase::Staged | Phase::Loading => !is_committed && phase.has_begun(world),
        Phase::Committed => old.exists(),
    };
    println!("killed in phase {phase:?}: {hit}");
    ensure!(hit || phase == Phase::Committed, "the kill in phase {phase:?} came too late");
    Ok(hit)
}

/// The flow table grows in the same start.
#[test]
fn upgrade_with_a_larger_flow_table_moves_no_flow() {
    scenario!(&WEIGHTS, |world| {
        let before = Before::prepare(world)?;
        world.plan.flow_table_entries *= 4;
        world.set_release(Release::Current)?;
        world.start()?;
        let entries = world.status()?.flow_table.entries;
        ensure!(entries == u64::from(world.plan.flow_table_entries), "a flow table of {entries} entries");
        before.traffic.progress(EXCHANGES)?;
        before.flows.expect_undisturbed()?;
        before.affinity.expect_kept(world)?;
        before.traffic.expect_unbroken(None)?;
        // Only packets of flows that begin while the flow table is exchanged.
        let lost = before.lost(world)?;
        let limit = before.traffic.workers() * LOST_OF_A_FLOW;
        println!("{lost} packets dropped");
        ensure!(lost <= limit, "{lost} packets of flows that began were dropped, of at most {limit}");
        before.traffic.stop().expect_no_failure()
    });
}

/// The world before an upgrade, with the traffic that goes on.
struct Before {
    traffic: Traffic,
    flows: Flows,
    affinity: Affinity,
    /// Ids of the programs by interface.
    programs: BTreeMap<String, u64>,
    dropped: u64,
    forwarded: u64,
    /// Flows that servers have got, of all listeners.
    new_flows: u64,
}

impl Before {
    /// Starts the previous release and traffic, migrates slots, sets an override, and ends the daemon.
    ///
    /// # Errors
    /// The previous release has not been built. Or one of these steps fails.
    fn prepare(world: &mut World) -> Result<Self> {
        world.set_release(Release::Previous)?;
        prepare(world)?;
        for backend in &world.net.backends {
            backend.decapsulate(&world.plan.tunnel_addresses)?;
        }
        world.plan.max_servers = Some(MAX_SERVERS);
        affinity::plan_group(&mut world.plan);
        plan_listeners(&mut world.plan);
        world.start()?;
        let affinity = Affinity::begin(world)?;
        let traffic = Traffic::start(world, LONG_LIVED)?;
        let mut flows = Flows::default();
        flows.open(world)?;
        flows.open_nat(world)?;
        for server in 0..2 {
            world.plan.servers[server].weight = 0;
            plan_listeners(&mut world.plan);
            world.reload()?;
            if server == 0 {
                flows.open(world)?;
            }
        }
        flows.note_servers()?;
        world.slb(&["server", "drain", "http", &drained(world)])?;
        traffic.progress(EXCHANGES)?;
        flows.expect_undisturbed()?;
        affinity.expect_kept(world)?;
        let programs = world.programs()?;
        let (dropped, forwarded) = (counted(world, "drop")?, counted(world, "forward")?);
        let new_flows = new_flows(world)?;
        world.terminate()?;
        Ok(Self { traffic, flows, affinity, programs, dropped, forwarded, new_flows })
    }

    /// Fails unless every interface runs the same program as before, and traffic goes on.
    fn expect_same_programs(&self, world: &World) -> Result<()> {
        let programs = world.programs()?;
        ensure!(programs == self.programs, "{programs:?} after {:?}", self.programs);
        self.traffic.progress(EXCHANGES)
    }

    /// Fails unless the new version runs on every interface, with everything that the old one had.
    fn expect_upgraded(&self, world: &World) -> Result<()> {
        let programs = world.programs()?;
        ensure!(programs.keys().eq(self.programs.keys()), "{programs:?} after {:?}", self.programs);
        ensure!(programs.iter().all(|(name, id)| self.programs[name] != *id), "{programs:?}");
        let versions = listing(&world.plan.pin_dir)?;
        let (old, new) = (directory(world, PREVIOUS_ABI), directory(world, ABI_VERSION));
        ensure!(new.exists() && !old.exists(), "pins: {versions:?}");
        world.wait_for_line(&["maps upgraded", &format!("from={PREVIOUS_ABI}")])?;
        self.traffic.progress(EXCHANGES)?;
        self.flows.expect_undisturbed()?;
        self.affinity.expect_kept(world)?;
        self.traffic.expect_unbroken(None)?;
        let list = world.slb(&["server", "list"])?;
        ensure!(list.contains(&format!("{}: draining set by", drained(world))), "{list}");
        let (forwarded, new_flows) = (counted(world, "forward")?, new_flows(world)?);
        ensure!(forwarded > self.forwarded, "{forwarded} packets forwarded after {}", self.forwarded);
        ensure!(new_flows > self.new_flows, "{new_flows} flows after {}", self.new_flows);
        self.expect_nothing_lost(world)
    }

    /// Packets dropped since the previous release ended.
    fn lost(&self, world: &World) -> Result<u64> {
        Ok(counted(world, "drop")? - self.dropped)
    }

    fn expect_nothing_lost(&self, world: &World) -> Result<()> {
        let lost = self.lost(world)?;
        ensure!(lost == 0, "{lost} packets dropped: {:?}", world.status()?.reasons);
        Ok(())
    }

    /// Ends the traffic; no datagram may have been sent twice.
    fn finish(self, world: &World) -> Result<()> {
        self.flows.expect_undisturbed()?;
        self.traffic.expect_unbroken(None)?;
        self.expect_nothing_lost(world)?;
        let batch = self.traffic.stop();
        println!("{} exchanges, {} datagrams sent again", batch.successes(), batch.retries);
        ensure!(batch.retries == 0, "{} datagrams were lost", batch.retries);
        batch.expect_no_failure()
    }
}

/// Adds the listeners of all modes, and that with session persistence.
fn plan_listeners(plan: &mut Plan) {
    beside::plan(plan);
    affinity::plan_listener(plan);
}

/// Starts the new version with more servers than the maps can hold.
fn upgrade_is_refused(world: &mut World) -> Result<()> {
    let mut plan = world.plan.clone();
    plan.max_servers = Some(4 * MAX_SERVERS);
    let server = |n: u32| (([10, 99, (n / 250) as u8, (n % 250) as u8 + 1], 1).into(), 100);
    let servers = (0..MAX_SERVERS).map(server).collect();
    plan.groups.push(Group { name: "many".to_owned(), servers, ..Group::default() });
    plan.additional_listeners.push(Listener::new("many", "tcp", 4444, Target::Group("many".to_owned())));
    world.set_release(Release::Current)?;
    let output = world.slbd("run", &plan.toml())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "it started: {said}");
    for piece in ["upgrading the maps", "[daemon] max_servers"] {
        ensure!(said.contains(piece), "no `{piece}` in: {said}");
    }
    Ok(())
}

/// Ends the new version and starts the previous one, which refuses the pins and changes nothing.
fn downgrade_is_refused(world: &mut World, before: &Before) -> Result<()> {
    let (programs, digest) = (world.programs()?, world.status()?.digest);
    world.terminate()?;
    let pins = listing(&world.plan.pin_dir)?;
    world.set_release(Release::Previous)?;
    let output = world.slbd("run", &world.plan.toml())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    world.set_release(Release::Current)?;
    ensure!(!output.status.success(), "it started: {said}");
    for piece in ["holds pins of another version", &format!("v{ABI_VERSION}"), "slbd detach"] {
        ensure!(said.contains(piece), "no `{piece}` in: {said}");
    }
    ensure!(listing(&world.plan.pin_dir)? == pins, "pins after a refused downgrade");
    ensure!(world.programs()? == programs, "{:?} after {programs:?}", world.programs()?);
    ensure!(world.status_from_pins()?.digest == digest, "another digest after a refused downgrade");
    before.traffic.progress(EXCHANGES)
}

/// The server of `http` that an override drains.
fn drained(world: &World) -> String {
    let address = world.plan.servers[0].addresses[0];
    std::net::SocketAddr::new(address, Service::Http.backend_port()).to_string()
}

/// Packets with a verdict, as the daemon says.
fn counted(world: &World, verdict: &str) -> Result<u64> {
    let reasons = world.status()?.reasons.into_iter().filter(|counted| counted.verdict == verdict);
    Ok(reasons.map(|counted| counted.packets).sum())
}

fn new_flows(world: &World) -> Result<u64> {
    Ok(servers(&world.status()?).map(|server| server.counters.total_flows).sum())
}

fn directory(world: &World, version: u32) -> PathBuf {
    world.plan.pin_dir.join(format!("v{version}"))
}

/// Paths of all files below a directory, sorted.
fn listing(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            paths.extend(listing(&entry.path())?);
        }
        paths.push(entry.path());
    }
    paths.sort();
    Ok(paths)
}
