//! The outer process of the demo and of the benchmarks. It runs them in an inner process, and removes what that leaves,
//! however it ends.

use std::{
    env, fs,
    io::{self, Write as _},
    process::{ExitCode, ExitStatus},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    sys::{
        prctl::{set_child_subreaper, set_pdeathsig},
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use tokio::{
    process, runtime,
    signal::unix::{SignalKind, signal},
    time,
};

use crate::{leftovers, wait::wait_for};

/// Time for the inner process to clean up; then it is killed, and this process cleans up.
const GRACE: Duration = Duration::from_secs(10);

/// Exit status after a signal, as shells report SIGINT.
const INTERRUPTED: u8 = 130;

/// Runs this program again, with the same arguments and `inner`, and returns its exit status. SIGINT, SIGTERM and
/// SIGHUP end it. Nothing of the run is left when this returns.
///
/// # Errors
/// A resource cannot be removed.
pub fn supervise(inner: &str) -> Result<ExitCode> {
    // Children of a killed inner process become children of this process, which waits for them.
    set_child_subreaper(true)?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (pid, status) = runtime.block_on(run(inner))?;
    remove_all_of(pid)?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(INTERRUPTED)))
}

async fn run(inner: &str) -> Result<(u32, ExitStatus)> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut command = process::Command::new(env::current_exe()?);
    // In its own process group, so that Ctrl-C reaches only this process.
    command.args(env::args_os().skip(1)).arg(inner).process_group(0);
    let die_with_us = || Ok(set_pdeathsig(Signal::SIGKILL)?);
    // SAFETY: between fork and exec the closure makes one system call and touches no memory.
    unsafe { command.pre_exec(die_with_us) };
    let mut child = command.spawn().context("cannot run the inner process")?;
    let pid = child.id().context("the inner process has no id")?;
    tokio::select! {
        status = child.wait() => return Ok((pid, status?)),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    // The terminal may be gone; the cleanup must go on.
    let _ = writeln!(io::stderr(), "\ninterrupted: removing everything");
    kill(Pid::from_raw(pid.try_into()?), Signal::SIGTERM)?;
    let Ok(status) = time::timeout(GRACE, child.wait()).await else {
        child.kill().await?;
        return Ok((pid, child.wait().await?));
    };
    Ok((pid, status?))
}

/// Removes the worlds of the ended process `pid`, until no child of it is left that could create more.
fn remove_all_of(pid: u32) -> Result<()> {
    let remove =
        || leftovers::runs()?.into_iter().filter(|run| run.pid == pid).try_for_each(leftovers::remove);
    loop {
        let removed = remove();
        if waitpid(None, Some(WaitPidFlag::WNOHANG)) == Err(Errno::ECHILD) {
            // The last child may have created resources after the listing, or caused these errors.
            return removed.and_then(|()| remove()).or_else(|_| remove());
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Removes leftovers of dead runs. Living runs are listed and left alone, except the demo with the name `named`, which
/// is ended. `program` is the process name of a demo.
///
/// # Errors
/// A resource cannot be removed; or the named run does not exist, is no demo, or does not end.
pub fn clean_up(program: &str, named: Option<&str>) -> Result<()> {
    let runs = leftovers::runs()?;
    if let Some(name) = named {
        ensure!(runs.iter().any(|run| run.prefix() == name), "there is no run {name}");
    }
    for run in runs {
        let prefix = run.prefix();
        if !leftovers::alive(run.pid) {
            leftovers::remove(run)?;
            println!("removed {prefix}");
        } else if named == Some(prefix.as_str()) {
            let path = format!("/proc/{}/comm", run.pid);
            let process = fs::read_to_string(&path).context(path)?;
            ensure!(process.trim() == program, "{prefix} belongs to {}, not to {program}", process.trim());
            kill(Pid::from_raw(run.pid.try_into()?), Signal::SIGTERM)?;
            wait_for(&format!("the end of {prefix}"), 3 * GRACE, || {
                Ok((!leftovers::runs()?.contains(&run)).then_some(()))
            })?;
            println!("ended {prefix}");
        } else {
            println!("left {prefix}: process {} uses it; name it to end it, if it is yours", run.pid);
        }
    }
    Ok(())
}
