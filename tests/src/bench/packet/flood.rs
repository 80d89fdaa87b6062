//! A flood of new flows, many times the size of the flow table: no established flow may move.
//!
//! The servers' counters show which server a flow has: after the flood, each server must count the same packets of
//! established flows as before. In mode `nat` with one server, a SYN of an established flow must not count as a new
//! flow, since its entry must still exist.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::geteuid;
use serde::Serialize;
use slb_common::abi::backend::Backend;
use slb_control::slot_migration::SlotMigration;

use super::{
    PacketBench, PacketOptions, SLB,
    mode::{self, DSR, IPIP, ModeSpec, NAT},
    wrapper::MAX_SLICE,
};
use crate::{
    bench::machine::{Machine, pin_to_core},
    packets::{
        frames::flag,
        kernel::{Kernel, in_namespace},
    },
};

/// Slots of the flow table.
const FLOW_TABLE: u32 = 1 << 16;
/// Established flows: a quarter of the slots.
pub(super) const ESTABLISHED: u64 = 1 << 14;

/// Options of the benchmark.
#[derive(Debug, Clone, Copy)]
pub struct FloodOptions {
    /// Duration of each flood in seconds.
    pub seconds: u64,
}

impl Default for FloodOptions {
    fn default() -> Self {
        Self { seconds: 60 }
    }
}

/// Figures of all floods.
#[derive(Debug, Serialize)]
pub struct FloodReport {
    /// The machine.
    pub machine: Machine,
    /// Slots of the flow table.
    pub flow_table: u32,
    /// Number of established flows.
    pub established: u64,
    /// The floods.
    pub floods: Vec<FloodResult>,
}

/// Result of a flood.
#[derive(Debug, Serialize)]
pub struct FloodResult {
    /// Mode and circumstances of the flood.
    pub name: String,
    /// Number of new flows.
    pub new_flows: u64,
    /// New flows per second, over the whole time.
    pub per_second: f64,
    /// How often all established flows were checked.
    pub looks: u32,
    /// Established flows that had moved to another server.
    pub moved: u64,
}

/// Runs a flood in each mode, in steady state and while half of the servers' slots migrate.
///
/// # Errors
/// A program cannot be loaded, or a flow has moved.
pub fn run(options: &FloodOptions) -> Result<FloodReport> {
    ensure!(geteuid().is_root(), "loading XDP programs needs root");
    let machine = Machine::new()?;
    in_namespace(|| {
        pin_to_core()?;
        let packet = PacketOptions::default();
        let mut bench = PacketBench::new(&packet)?;
        let mut floods = Vec::new();
        for mode in [IPIP, DSR] {
            for when in [SlotPhase::Steady, SlotPhase::Migrating(flag::SYN), SlotPhase::Migrating(flag::ACK)]
            {
                floods.push(flood_untracked(&mut bench, &mode, when, options)?);
            }
        }
        floods.push(flood_answered(&mut bench, options)?);
        for flood in &floods {
            ensure!(flood.moved == 0, "{}: {} established flows have moved", flood.name, flood.moved);
            ensure!(
                options.seconds < 10 || flood.new_flows >= 10 * u64::from(FLOW_TABLE),
                "{}: {} new flows are no flood",
                flood.name,
                flood.new_flows
            );
        }
        Ok(FloodReport { machine, flow_table: FLOW_TABLE, established: ESTABLISHED, floods })
    })
}

/// The state during a flood, and the TCP flags of its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SlotPhase {
    /// Steady state.
    Steady,
    /// Slots of half of the servers migrate.
    Migrating(u8),
}

/// Modes in which SLB sees no answers. The counters of the servers show where established flows go.
fn flood_untracked(
    bench: &mut PacketBench<'_>,
    mode: &ModeSpec,
    when: SlotPhase,
    options: &FloodOptions,
) -> Result<FloodResult> {
    let (name, flags) = match when {
        SlotPhase::Steady => ("steady state", flag::SYN),
        SlotPhase::Migrating(flag::SYN) => ("half of the servers leave", flag::SYN),
        SlotPhase::Migrating(flags) => ("half leave, no SYNs", flags),
    };
    let name = format!("{}, {name}", mode.name);
    eprintln!("{name} …");
    let scene = mode::flood(mode, mode::SERVERS, flags);
    let mut kernel = load(bench, &scene)?;
    let servers: Vec<u32> = scene.state.backends.keys().map(|id| id.index()).collect();
    let place = bench.slb;

    let before = gc_pass(bench, &kernel, &servers, &scene)?;
    if when != SlotPhase::Steady {
        let mut state = scene.state.clone();
        for (id, table) in &mut state.tables {
            let old = table.current_backends();
            Arc::make_mut(&mut table.spec).members.retain(|member| member.backend.index() % 2 == 0);
            table.current_backends = None;
            table.slot_migration = SlotMigration::default();
            table.slot_migration.change(&old, &table.spec.build(), |_| true, Duration::ZERO);
            ensure!(!table.slot_migration.is_empty(), "no slot of table {id} is reassigned");
        }
        // Weight 0: these servers keep their established flows.
        state.backends.values_mut().filter(|b| b.handle.id() % 2 == 1).for_each(|b| b.flags = Backend::ALIVE);
        kernel.become_state(&state)?;
    }
    let (mut new_flows, mut looks, mut moved) = (0, 0, 0);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(options.seconds) || looks < 2 {
        bench.wrapper.send(place, &scene.flood, MAX_SLICE)?;
        new_flows += MAX_SLICE;
        let now = gc_pass(bench, &kernel, &servers, &scene)?;
        looks += 1;
        moved += before.iter().zip(&now).map(|(before, now)| before.abs_diff(*now)).sum::<u64>() / 2;
    }
    Ok(FloodResult {
        name,
        new_flows,
        per_second: new_flows as f64 / begun.elapsed().as_secs_f64(),
        looks,
        moved,
    })
}

/// Mode `nat`: established flows do not count as new.
fn flood_answered(bench: &mut PacketBench<'_>, options: &FloodOptions) -> Result<FloodResult> {
    let name = "nat, steady state".to_owned();
    eprintln!("{name} …");
    let scene = mode::flood(&NAT, 1, flag::SYN);
    let kernel = load(bench, &scene)?;
    let place = bench.slb;
    let count = |kernel: &Kernel| Ok::<_, anyhow::Error>(kernel.service_counters(0)?.new_flows);
    // The handshake as SLB sees it: SYN, SYN-ACK, ACK.
    for traffic in [&scene.syn, &scene.answer, &scene.established] {
        bench.wrapper.restart();
        bench.wrapper.send(place, traffic, ESTABLISHED)?;
    }
    ensure!(count(&kernel)? == ESTABLISHED, "flows were not established");
    let (mut new_flows, mut looks, mut moved) = (0, 0, 0);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(options.seconds) || looks < 2 {
        let before = count(&kernel)?;
        bench.wrapper.send(place, &scene.flood, MAX_SLICE)?;
        let flooded = count(&kernel)? - before;
        ensure!(flooded > MAX_SLICE / 2, "{flooded} of {MAX_SLICE} were new flows");
        new_flows += flooded;
        let before = count(&kernel)?;
        bench.wrapper.send(place, &scene.syn, ESTABLISHED)?;
        moved += count(&kernel)? - before;
        looks += 1;
    }
    Ok(FloodResult {
        name,
        new_flows,
        per_second: new_flows as f64 / begun.elapsed().as_secs_f64(),
        looks,
        moved,
    })
}

fn load(bench: &mut PacketBench<'_>, scene: &mode::Scene) -> Result<Kernel> {
    let mut kernel = Kernel::load_sized(FLOW_TABLE)?;
    kernel.become_state(&scene.state)?;
    bench.put_slb(&mut kernel).context(SLB)?;
    bench.wrapper.restart();
    Ok(kernel)
}

/// Sends a packet of each established flow. Returns the number that each server received.
fn gc_pass(
    bench: &mut PacketBench<'_>,
    kernel: &Kernel,
    servers: &[u32],
    scene: &mode::Scene,
) -> Result<Vec<u64>> {
    let count = |id: &u32| Ok(kernel.backend_counters(*id)?.packets_in);
    let before: Vec<u64> = servers.iter().map(count).collect::<Result<_>>()?;
    bench.wrapper.send(bench.slb, &scene.established, ESTABLISHED)?;
    let after: Vec<u64> = servers.iter().map(count).collect::<Result<_>>()?;
    let got: Vec<u64> = before.iter().zip(&after).map(|(before, after)| after - before).collect();
    ensure!(got.iter().sum::<u64>() == ESTABLISHED, "packets of established flows were dropped");
    Ok(got)
}

impl fmt::Display for FloodReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { kernel, processor, cores, .. } = &self.machine;
        writeln!(f, "Linux {kernel}, {processor}, one of {cores} cores")?;
        writeln!(f, "{} established flows, a flow table of {} slots", self.established, self.flow_table)?;
        for flood in &self.floods {
            writeln!(
                f,
                "{:<32} {:>12} new flows ({:.2} M/s), {} checks of the established ones: moved {}",
                flood.name,
                flood.new_flows,
                flood.per_second / 1e6,
                flood.looks,
                flood.moved
            )?;
        }
        Ok(())
    }
}
