//! Runs the daemon `slbd` and the client `slb`.

use std::{
    env,
    ffi::OsString,
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
use slb_api::types::{self, ApiHealth, ApiServer, Status};

use crate::{
    net::{Namespace, run},
    wait::wait_for,
    world::Unprivileged,
};

/// Time limit for a start or an end of the daemon. On an emulated processor, the verifier alone takes half a minute.
const LIMIT: Duration = Duration::from_secs(120);

/// A user and group id without files.
pub(crate) const UNPRIVILEGED_ID: &str = "65534";

/// ABI version of the earlier release of `slbd` for tests of upgrades. `cargo xtask test` builds it.
pub const PREVIOUS_ABI: u32 = 10;

/// Which `slbd` a world runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// The last one with [`PREVIOUS_ABI`].
    Previous,
    /// This build.
    Current,
}

/// A running `slbd run`. Dropping it kills it; forwarding goes on.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

/// Paths and settings for running the two programs.
#[derive(Debug, Clone)]
pub struct Programs {
    namespace: Arc<Namespace>,
    slbd: PathBuf,
    slb: PathBuf,
    log: PathBuf,
    /// Directory that `slbd run` sees as empty.
    pub(crate) hidden: Option<&'static str>,
    /// Log file of `slbd run` in place of the default.
    pub(crate) log_to: Option<PathBuf>,
    /// `SLB_LOG` of the daemon; `None` for its default.
    pub(crate) log_level: Option<&'static str>,
    /// The user that runs `slbd run`; `None` for root.
    pub(crate) unprivileged: Option<Unprivileged>,
    /// `NOTIFY_SOCKET` and other variables of `slbd run`.
    pub(crate) environment: Vec<(&'static str, OsString)>,
}

impl Programs {
    /// The programs of this build, or those that `SLBD` and `SLB` name. They run in `namespace`, and `slbd run` logs to
    /// `log`.
    ///
    /// # Errors
    /// The programs have not been built.
    pub fn new(namespace: &Arc<Namespace>, log: PathBuf) -> Result<Self> {
        let (slbd, slb) = (slbd_of(Release::Current)?, program("slb", "SLB")?);
        Ok(Self {
            namespace: namespace.clone(),
            slbd,
            slb,
            log,
            hidden: None,
            log_to: None,
            log_level: None,
            unprivileged: None,
            environment: Vec::new(),
        })
    }

    /// Path of `slbd`.
    pub(crate) fn slbd_path(&self) -> &Path {
        &self.slbd
    }

    /// Sets which `slbd` runs from now on.
    ///
    /// # Errors
    /// It has not been built.
    pub(crate) fn set_release(&mut self, release: Release) -> Result<()> {
        self.slbd = slbd_of(release)?;
        Ok(())
    }

    /// Starts `slbd run` without waiting until it is ready.
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
        let mut command = match &self.unprivileged {
            Some(user) => {
                let mut command = self.namespace.command("setpriv");
                command.args(user.setpriv());
                command
            }
            None => self.namespace.command(&self.slbd),
        };
        command.envs(self.environment.iter().cloned());
        command.arg("run").arg("--config").arg(config).stdin(Stdio::null()).stdout(log()?).stderr(log()?);
        command.envs(self.log_level.map(|level| ("SLB_LOG", level)));
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

    /// Runs another subcommand of `slbd` and waits for its exit: `check`, `detach`, or a `run` that must be refused.
    ///
    /// # Errors
    /// It cannot be started, or does not exit within the time limit.
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

    /// Runs a subcommand of `slb` and waits for its exit.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn slb(&self, socket: &Path, arguments: &[&str]) -> Result<Output> {
        let mut command = self.namespace.command(&self.slb);
        command.arg("--socket").arg(socket).args(arguments).stdin(Stdio::null());
        command.output().with_context(|| format!("cannot run {}", self.slb.display()))
    }

    /// Runs a copy of `slbd` or `slb` in `directory` as an unprivileged user, and waits for its exit.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn as_unprivileged(&self, program: &str, arguments: &[&str], directory: &Path) -> Result<Output> {
        let original = if program == "slbd" { &self.slbd } else { &self.slb };
        let copy = directory.join(program);
        // `cp` makes the copy, not this process: children that this process starts meanwhile would inherit the open
        // file, and a file open for writing cannot be executed.
        run(Command::new("cp").arg("--").args([original, &copy]), "")?;
        let mut command = self.namespace.command("setpriv");
        command
            .args(["--reuid", UNPRIVILEGED_ID, "--regid", UNPRIVILEGED_ID, "--clear-groups"])
            .arg(&copy)
            .args(arguments);
        let output = command.stdin(Stdio::null()).output().context("cannot run setpriv")?;
        fs::remove_file(copy)?;
        Ok(output)
    }

    /// The status, requested over the daemon's socket.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn status(&self, socket: &Path) -> Result<Status> {
        self.slb_status("--socket", socket)
    }

    /// The status that `slb status` reads from the pins.
    ///
    /// # Errors
    /// The directory holds no pins.
    pub fn status_from_pins(&self, pin_dir: &Path) -> Result<Status> {
        self.slb_status("--pin-dir", pin_dir)
    }

    fn slb_status(&self, option: &str, path: &Path) -> Result<Status> {
        let mut command = self.namespace.command(&self.slb);
        command.args(["status", "--output", "json", option]).arg(path).stdin(Stdio::null());
        let output = command.output().with_context(|| format!("cannot run {}", self.slb.display()))?;
        let error = String::from_utf8_lossy(&output.stderr);
        // Exit status 4: no daemon answers, and the status is from the pins.
        ensure!(
            matches!(output.status.code(), Some(0 | 4)),
            "{command:?} ended with {}: {error}",
            output.status
        );
        serde_json::from_slice(&output.stdout).context("slb status")
    }
}

impl Daemon {
    /// Process id of the daemon.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the daemon answers, and has a health result and a next hop for every server.
    ///
    /// # Errors
    /// It exits, or takes too long.
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
                |daemon: &types::DaemonStatus| daemon.pid == pid && daemon.configuration.pending.is_none();
            let ready = status.daemon.as_ref().is_some_and(is_complete)
                && servers(&status).next().is_some()
                && servers(&status).all(|server| match server.health {
                    ApiHealth::Unknown => false,
                    ApiHealth::Unhealthy => true,
                    ApiHealth::Healthy | ApiHealth::Unchecked | ApiHealth::Standby => {
                        server.next_hop.is_some()
                    }
                });
            Ok(ready.then_some(status))
        })
        .with_context(|| {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            format!("its log:\n{log}\nwhat `slb status` said last: {last}")
        })
    }

    /// Sends SIGHUP, which makes it reload.
    ///
    /// # Errors
    /// It has exited.
    pub fn hang_up(&self) -> Result<()> {
        Ok(kill(Pid::from_raw(self.pid().try_into()?), Signal::SIGHUP)?)
    }

    /// Sends SIGTERM, and waits for its exit.
    ///
    /// # Errors
    /// It does not exit, or exits with an error.
    pub fn terminate(mut self) -> Result<()> {
        kill(Pid::from_raw(self.pid().try_into()?), Signal::SIGTERM)?;
        let status = wait_for("the end of slbd after SIGTERM", LIMIT, || Ok(self.child.try_wait()?))?;
        ensure!(status.success(), "slbd ended with {status} after SIGTERM");
        Ok(())
    }

    /// Sends SIGKILL, and waits for its exit.
    ///
    /// # Errors
    /// It had exited before.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        let status: ExitStatus = self.child.wait()?;
        ensure!(status.signal() == Some(Signal::SIGKILL as i32), "slbd had ended before, with {status}");
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // An error means that it has exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Mounts an empty file system over a directory, for this process and its children only.
fn hide(directory: &str) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), none)?;
    Ok(())
}

/// Every server of every listener.
pub fn servers(status: &Status) -> impl Iterator<Item = &ApiServer> {
    let listeners = status.load_balancers.iter().flat_map(|balancer| &balancer.listeners);
    listeners.flat_map(|listener| &listener.servers)
}

/// Path of a release of `slbd`: of this build or the one that `SLBD` names, or the earlier one that `SLBD_PREVIOUS`
/// names.
fn slbd_of(release: Release) -> Result<PathBuf> {
    match release {
        Release::Current => program("slbd", "SLBD"),
        Release::Previous => program(&format!("slbd-v{PREVIOUS_ABI}"), "SLBD_PREVIOUS")
            .context("the previous release is missing: `cargo xtask test upgrade::` builds it"),
    }
}

/// Finds a program beside this one or in a directory above, up to the build's, unless the environment variable names
/// one.
///
/// # Errors
/// The program has not been built.
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
