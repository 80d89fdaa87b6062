//! Running the programs the harness needs, with errors that say what was run.

use std::{
    env,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// Runs `command` to its end with `input` on its standard input, and returns its standard output.
///
/// # Errors
/// The program is missing, or ends unsuccessfully; the error carries what it wrote to standard error.
pub fn run(command: &mut Command, input: &str) -> Result<String> {
    let shown = format!("{command:?}");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().with_context(
            || format!("cannot run {shown}; `cargo xtask setup` installs what the tests need"),
        )?;
    // A program that ends early closes the pipe; its exit status says more than the error of this write.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().with_context(|| format!("{shown}: no exit status"))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{shown} ended with {}: {}\n{input}", output.status, error.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Finds a program in the directories of `PATH` and in those of the system's own programs, which a user's may lack.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}
