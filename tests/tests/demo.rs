//! Runs the demo: it passes, and leaves nothing when it is interrupted.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use slb_tests::{leftovers, wait::wait_for};

const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn the_demo_passes_and_writes_its_figures() -> Result<()> {
    if !geteuid().is_root() {
        println!("skipped: needs root");
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let json = directory.path().join("figures.json");
    let output = demo().args(["--sigkill-rounds", "1", "--json"]).arg(&json).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && said.contains("PASS"), "{said}");
    let figures: serde_json::Value = serde_json::from_slice(&fs::read(&json)?)?;
    ensure!(figures["sigkill"]["rounds"] == 1 && figures["sigkill"]["failed"] == 0, "{figures}");
    Ok(())
}

#[test]
fn an_interrupted_demo_leaves_nothing() -> Result<()> {
    if !geteuid().is_root() {
        println!("skipped: needs root");
        return Ok(());
    }
    let before = leftovers::runs()?;
    let mut child = demo().stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let new =
        || Ok(leftovers::runs()?.into_iter().find(|run| !before.contains(run) && leftovers::alive(run.pid)));
    let run = wait_for("the demo's namespaces", LIMIT, new)?;
    kill(Pid::from_raw(child.id().try_into()?), Signal::SIGINT)?;
    let status = ended(&mut child)?;
    ensure!(status == Some(130), "{status:?}");
    ensure!(!leftovers::runs()?.contains(&run), "{} is left", run.prefix());
    ensure!(!leftovers::alive(run.pid), "process {} is left", run.pid);
    Ok(())
}

fn demo() -> Command {
    Command::new(env!("CARGO_BIN_EXE_slb-demo"))
}

fn ended(child: &mut Child) -> Result<Option<i32>> {
    let status =
        wait_for("the end of the demo", LIMIT, || Ok(child.try_wait()?)).context("the demo goes on")?;
    Ok(status.code())
}
