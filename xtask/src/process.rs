//! Runs commands after printing them, and finds the workspace and its target directory.

use std::{
    env,
    ffi::OsString,
    io::{IsTerminal as _, stdin},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// Root of the workspace.
pub(crate) fn workspace() -> Result<PathBuf> {
    let xtask = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let xtask = xtask.context("CARGO_MANIFEST_DIR is not set: start this program as `cargo xtask`")?;
    Ok(xtask.parent().context("xtask is not inside its workspace")?.to_path_buf())
}

/// Target directory in which this program was built.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let program = env::current_exe().context("cannot find the path of this program")?;
    ebpf_build::target_dir(&program)
        .context("cargo's target directory cannot be found from this program's path")
}

/// A command that runs the cargo which started this program, in the workspace.
pub(crate) fn cargo(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.args(arguments).current_dir(workspace()?);
    Ok(command)
}

/// Prints a command, runs it and waits for its exit.
///
/// # Errors
/// The command cannot be started, or fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    show(command);
    let status = command.status().with_context(|| format!("cannot start {}", describe(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", describe(command));
    }
    Ok(())
}

/// Prints a command and runs it without input, for at most `limit`.
///
/// # Errors
/// The command cannot be started, fails, or exceeds `limit`. It has ended in any case.
pub(crate) fn run_within(limit: Duration, command: &mut Command) -> Result<()> {
    show(command);
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {}", describe(command)))?;
    loop {
        if let Some(status) = child.try_wait()? {
            return if status.success() { Ok(()) } else { bail!("{} failed: {status}", describe(command)) };
        }
        if started.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!("{} was not done after {} s", describe(command), limit.as_secs());
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Prints a command as a user would type it.
pub(crate) fn show(command: &Command) {
    eprintln!("$ {}", describe(command));
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// How to run a program as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// This process is root.
    Root,
    /// By sudo, which may ask for a password.
    Sudo,
    /// Not possible.
    None,
}

impl Privilege {
    /// Finds a way to become root. Sudo counts if it needs no password, or if a terminal can ask for one.
    pub(crate) fn find() -> Self {
        if is_root() {
            return Self::Root;
        }
        let mut silent = Command::new("sudo");
        silent.args(["-n", "true"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match silent.status() {
            Ok(status) if status.success() || stdin().is_terminal() => Self::Sudo,
            _ => Self::None,
        }
    }

    /// A command that runs `program` as root, or as the current user if root is not possible.
    pub(crate) fn command(self, program: &Path) -> Command {
        if self == Self::Sudo {
            let mut command = Command::new("sudo");
            command.arg("--").arg(program);
            command
        } else {
            Command::new(program)
        }
    }
}

fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut words = vec![program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_beyond_its_time_limit_is_killed() {
        let error = run_within(Duration::from_millis(1), Command::new("sleep").arg("1000")).unwrap_err();
        assert_eq!(error.to_string(), "sleep 1000 was not done after 0 s");
    }

    #[test]
    fn failed_command_is_an_error() {
        assert!(run(&mut Command::new("false")).unwrap_err().to_string().starts_with("false failed"));
        run(&mut Command::new("true")).unwrap();
    }
}
