//! The demo: SLB between real clients and servers, with failures.
//!
//! It runs in two processes, see [`supervise`](crate::supervise). The inner one creates the world and runs the phases.

mod figures;
mod phases;
mod view;

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::unistd::geteuid;
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

use crate::{World, test_lock::TestLock};
use figures::Figures;
use view::View;

/// Weights of the backends.
const WEIGHTS: [u8; 4] = [40, 30, 20, 10];

/// Options of the demo.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// Number of SIGKILLs of the daemon under traffic.
    pub sigkill_rounds: u32,
    /// Exchanges over TCP, and over UDP, per family.
    pub exchanges: u64,
    /// Keep everything running after the last phase, until a signal.
    pub keep: bool,
    /// File for the figures.
    pub json: Option<PathBuf>,
}

/// Runs all phases; returns whether all expectations were met.
///
/// # Errors
/// The world cannot be created, or the figures cannot be written.
pub fn run(options: &DemoOptions) -> Result<bool> {
    ensure!(geteuid().is_root(), "the demo makes network namespaces and loads XDP programs: run it as root");
    let mut view = View::new();
    let start = Instant::now();
    let mut world = World::new(&WEIGHTS, TestLock::alone()?)?;
    let mut figures = Figures::default();
    if let Err(error) = phases::all(&mut world, options, &mut view, &mut figures) {
        figures.failures.push(format!("{error:#}"));
        view.line(&format!("the daemon's log:\n{}", world.log()));
    }
    figures.passed = figures.failures.is_empty();
    figures.seconds = seconds(start.elapsed());
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&figures)? + "\n";
        fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    view.line("");
    for failure in &figures.failures {
        view.line(&format!("FAILED: {failure}"));
    }
    if figures.passed {
        view.line(&format!("PASS ({:.0} s)", figures.seconds));
    }
    if options.keep {
        keep(&world, &mut view)?;
    }
    Ok(figures.passed)
}

/// Prints how to use the world, and keeps it until SIGTERM.
fn keep(world: &World, view: &mut View) -> Result<()> {
    let prefix = world.id.prefix();
    let (socket, pins) = (world.plan.socket.display(), world.plan.pin_dir.display());
    let config = world.directory().join("slb.toml");
    view.line(&format!(
        "\nEverything stays up until Ctrl-C here, or `slb-demo --cleanup {prefix}` elsewhere. To play with:\n  \
         ip netns exec {prefix}-client curl -s http://198.51.100.10/ 'http://[2001:db8:100::10]/'\n  \
         slb status --socket {socket}\n  \
         slb status --pin-dir {pins}\n  \
         configuration: {}\n  \
         namespaces: {prefix}-client, {prefix}-slb, {prefix}-b1 to {prefix}-b{}",
        config.display(),
        WEIGHTS.len()
    ));
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        signal(SignalKind::terminate())?.recv().await;
        Ok(())
    })
}

fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}
