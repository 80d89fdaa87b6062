//! The daemon `slbd` and the client `slb`, run as programs.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        prctl::set_pdeathsig,
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use slb_userspace::api::types::{self, Health, Server, Status};

use crate::{
    net::{Namespace, run},
    wait::wait_for,
};

/// How long the daemon may take to be ready, or to end: on an emulated processor, the verifier alone takes half a minute.
const LIMIT: Duration = Duration::from_secs(120);

/// A user and a group that nothing belongs to.
const NOBODY: &str = "65534";

/// A running `slbd run`. Dropping it kills it; the forwarding stays.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

/// What is needed to run the two programs.
#[derive(Debug, Clone)]
pub struct Programs {
    namespace: Arc<Namespace>,
    slbd: PathBuf,
    slb: PathBuf,
    log: PathBuf,
    /// A directory that `slbd run` finds empty.
    pub(crate) hidden: Option<&'static str>,
    /// Where `slbd run` logs to instead.
    pub(crate) log_to: Option<PathBuf>,
}

impl Programs {
    /// The programs of this build, or the ones `SLBD` and `SLB` name; they will run in `namespace`, and `slbd run`
    /// will log to `log`.
    ///
    /// # Errors
    /// They have not been built.
    pub fn new(namespace: &Arc<Namespace>, log: PathBuf) -> Result<Self> {
        let (slbd, slb) = (program("slbd", "SLBD")?, program("slb", "SLB")?);
        Ok(Self { namespace: namespace.clone(), slbd, slb, log, hidden: None, log_to: None })
    }

    /// Starts `slbd run`, without waiting for anything.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(&self, config: &Path) -> Result<Daemon> {
        let log = || -> Result<File> {
            Ok(OpenOptions::new()
                .create(true)
                .append(true)
                .open(self.log_to.as_ref().unwrap_or(&self.log))?)
        };
        let mut command = self.namespace.command(&self.slbd);
        command.arg("run").arg("--config").arg(config).stdin(Stdio::null()).stdout(log()?).stderr(log()?);
        let die_with_us = || Ok(set_pdeathsig(Signal::SIGKILL)?);
        // SAFETY: between fork and exec the closure makes one system call and touches no memory.
        unsafe { command.pre_exec(die_with_us) };
        if let Some(hidden) = self.hidden {
            // SAFETY: between fork and exec the closure makes three system calls and touches no memory but its own.
            unsafe { command.pre_exec(move || hide(hidden)) };
        }
        let child = command.spawn().with_context(|| format!("cannot run {}", self.slbd.display()))?;
        Ok(Daemon { child, log: self.log.clone() })
    }

    /// Runs another subcommand of `slbd` to its end: `check`, `detach`, or a `run` that is to be refused.
    ///
    /// # Errors
    /// It cannot be started, or has not ended after a while.
    pub fn slbd(&self, subcommand: &str, config: &Path) -> Result<Output> {
        let mut command = self.namespace.command(&self.slbd);
        let mut child = command
            .arg(subcommand)
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let ended = wait_for("the end of slbd", LIMIT, || Ok(child.try_wait()?));
        if ended.is_err() {
            child.kill()?;
        }
        let output = child.wait_with_output()?;
        ended.with_context(|| format!("slbd {subcommand}: {}", String::from_utf8_lossy(&output.stderr)))?;
        Ok(output)
    }

    /// Runs a subcommand of `slb` to its end.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn slb(&self, socket: &Path, arguments: &[&str]) -> Result<Output> {
        let mut command = self.namespace.command(&self.slb);
        command.arg("--socket").arg(socket).args(arguments).stdin(Stdio::null());
        command.output().with_context(|| format!("cannot run {}", self.slb.display()))
    }

    /// Runs `slbd` or `slb` to its end as a user who is nobody here, who finds a copy of it in `directory`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn as_nobody(&self, program: &str, arguments: &[&str], directory: &Path) -> Result<Output> {
        let original = if program == "slbd" { &self.slbd } else { &self.slb };
        let copy = directory.join(program);
        // Not by this process: what it starts meanwhile would have the copy open to write for a moment, too, and nobody could run it.
        run(Command::new("cp").arg("--").args([original, &copy]), "")?;
        let mut command = self.namespace.command("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(&copy).args(arguments);
        let output = command.stdin(Stdio::null()).output().context("cannot run setpriv")?;
        fs::remove_file(copy)?;
        Ok(output)
    }

    /// What `slb status` says, asked over the daemon's socket.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn status(&self, socket: &Path) -> Result<Status> {
        self.slb_status("--socket", socket)
    }

    /// What `slb status` says from the pins alone.
    ///
    /// # Errors
    /// Nothing is pinned there.
    pub fn status_from_pins(&self, pin_dir: &Path) -> Result<Status> {
        self.slb_status("--pin-dir", pin_dir)
    }

    fn slb_status(&self, option: &str, path: &Path) -> Result<Status> {
        let mut command = self.namespace.command(&self.slb);
        command.args(["status", "--output", "json", option]).arg(path).stdin(Stdio::null());
        let output = command.output().with_context(|| format!("cannot run {}", self.slb.display()))?;
        let error = String::from_utf8_lossy(&output.stderr);
        // 4: from the pins, as no daemon answers.
        ensure!(
            matches!(output.status.code(), Some(0 | 4)),
            "{command:?} ended with {}: {error}",
            output.status
        );
        serde_json::from_slice(&output.stdout).context("slb status")
    }
}

impl Daemon {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it answers, knows every server's health and has a next hop for every server.
    ///
    /// # Errors
    /// It ends, or takes too long.
    pub fn ready(&mut self, programs: &Programs, socket: &Path) -> Result<Status> {
        let pid = self.pid();
        let mut last = String::new();
        wait_for("a daemon that is ready", LIMIT, || {
            if let Some(status) = self.child.try_wait()? {
                bail!("slbd ended with {status}");
            }
            let status = match programs.status(socket) {
                Ok(status) => status,
                Err(error) => {
                    last = format!("{error:#}");
                    return Ok(None);
                }
            };
            last = format!("{status:?}");
            let is_complete =
                |daemon: &types::Daemon| daemon.pid == pid && daemon.configuration.pending.is_none();
            let ready = status.daemon.as_ref().is_some_and(is_complete)
                && servers(&status).next().is_some()
                && servers(&status).all(|server| match server.health {
                    Health::Unknown => false,
                    Health::Unhealthy => true,
                    Health::Healthy | Health::Unchecked | Health::Standby => server.next_hop.is_some(),
                });
            Ok(ready.then_some(status))
        })
        .with_context(|| {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            format!("its log:\n{log}\nwhat `slb status` said last: {last}")
        })
    }

    /// Has it read its configuration again, as a service manager does.
    ///
    /// # Errors
    /// It has ended.
    pub fn hang_up(&self) -> Result<()> {
        Ok(kill(Pid::from_raw(self.pid().try_into()?), Signal::SIGHUP)?)
    }

    /// Ends it with SIGTERM, as a service manager does, and waits.
    ///
    /// # Errors
    /// It does not end, or not successfully.
    pub fn terminate(mut self) -> Result<()> {
        kill(Pid::from_raw(self.pid().try_into()?), Signal::SIGTERM)?;
        let status = wait_for("the end of slbd after SIGTERM", LIMIT, || Ok(self.child.try_wait()?))?;
        ensure!(status.success(), "slbd ended with {status} after SIGTERM");
        Ok(())
    }

    /// Kills it with SIGKILL and waits.
    ///
    /// # Errors
    /// It had ended before.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        let status: ExitStatus = self.child.wait()?;
        ensure!(status.signal() == Some(Signal::SIGKILL as i32), "slbd had ended before, with {status}");
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Errors mean that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lays an empty file system over a directory, for this process and its children alone.
fn hide(directory: &str) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), none)?;
    Ok(())
}

/// Every server of every listener.
pub fn servers(status: &Status) -> impl Iterator<Item = &Server> {
    let listeners = status.load_balancers.iter().flat_map(|balancer| &balancer.listeners);
    listeners.flat_map(|listener| &listener.servers)
}

/// Finds a program beside this one, or in a directory above as far as the build's, unless the variable names one.
///
/// # Errors
/// It has not been built.
pub fn program(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = env::var_os(variable) {
        return Ok(path.into());
    }
    let this = env::current_exe()?;
    this.ancestors()
        .skip(1)
        .take(3)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            format!("no {name} near {}: run `cargo build`, or name one in {variable}", this.display())
        })
}
