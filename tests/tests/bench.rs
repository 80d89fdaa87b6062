//! The benchmarks measure what they say: their packets arrive as expected. Timing is not checked.

use anyhow::{Result, ensure};
use clap::Parser;
use slb_tests::{
    bench::{
        health::{self, detection},
        packet::{self, PacketOptions},
        pps, tcp,
    },
    net::find_program,
    packets::kernel::is_available,
};

#[derive(Debug, Parser)]
struct Arguments<T: clap::Args> {
    #[command(flatten)]
    options: T,
}

/// Whether the benchmark can run with all contestants. If not, prints that the test `name` is skipped.
fn is_possible(name: &str) -> bool {
    if !is_available(name) {
        return false;
    }
    let compared = find_program("nft").is_some();
    if !compared {
        println!("skipped: {name}: needs nftables; `cargo xtask setup --bench` installs it");
    }
    compared
}

fn options<T: clap::Args>(arguments: &str) -> T {
    Arguments::parse_from(["bench"].into_iter().chain(arguments.split_whitespace())).options
}

/// Every workload passes its own checks: verdicts, counters, presence of flows.
#[test]
fn bench_workloads_get_expected_verdicts_and_counters() {
    if !is_available("bench_workloads_get_expected_verdicts_and_counters") {
        return;
    }
    let options = PacketOptions {
        rounds: 1,
        loads: 1,
        slice: 1024,
        workloads: ["1 flow", "64k", "new", "not ours"].map(str::to_owned).to_vec(),
        ..PacketOptions::default()
    };
    let report = packet::run(&options).unwrap();
    assert!(report.workloads.len() >= 10, "{report}");
    for workload in &report.workloads {
        assert_eq!(workload.programs.len(), 4, "{report}");
        assert!(workload.programs.iter().all(|program| program.chunks == 1), "{report}");
    }
}

#[test]
fn frames_of_every_contestant_arrive() -> Result<()> {
    if !is_possible("frames_of_every_contestant_arrive") {
        return Ok(());
    }
    let report = pps::run(&options("--rounds 1 --slice 20"))?;
    ensure!(report.missing.is_empty(), "{:?}", report.missing);
    for name in ["MAC swap", "SLB nat", "SLB dsr", "SLB ipip", "kernel forwarding", "nftables"] {
        let rows = report.rows.iter().filter(|row| row.contestant.contains(name));
        ensure!(rows.clone().count() > 0 && rows.clone().all(|row| row.lost < 0.5), "{name}: {report}");
    }
    Ok(())
}

#[test]
fn requests_get_through_every_contestant() -> Result<()> {
    if !is_possible("requests_get_through_every_contestant") {
        return Ok(());
    }
    let report = tcp::run(&options("--rounds 1 --slice 50 --only SLB,nftables"))?;
    ensure!(report.missing.is_empty(), "{:?}", report.missing);
    for name in ["direct", "SLB nat", "SLB dsr", "SLB ipip", "nftables"] {
        let rows = report.rows.iter().filter(|row| row.contestant.contains(name));
        ensure!(rows.clone().count() == 4, "{name}: {report}");
        ensure!(rows.clone().all(|row| row.errors == 0 && row.per_second.best > 0.0), "{name}: {report}");
    }
    Ok(())
}

#[test]
fn health_bench_finds_every_server_healthy() -> Result<()> {
    if !is_available("health_bench_finds_every_server_healthy") {
        return Ok(());
    }
    let report = health::run(&options("--targets 300"))?;
    ensure!(report.targets == 300 && report.processor > 0.0, "{report}");
    Ok(())
}

#[test]
fn detection_bench_measures_failure_and_recovery_of_every_kind() -> Result<()> {
    if !is_possible("detection_bench_measures_failure_and_recovery_of_every_kind") {
        return Ok(());
    }
    let report = detection::run(&options("--tries 1 --quick"))?;
    ensure!(report.rows.len() == 9, "{report}");
    // The measured time begins with the change: detection takes more than zero time.
    ensure!(report.rows.iter().all(|row| row.failure.min > 0.0 && row.recovery.min > 0.0), "{report}");
    Ok(())
}
