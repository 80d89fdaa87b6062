//! Puts the XDP programs into `OUT_DIR` as `NAME.o`, and the git commit into `SLB_GIT`.

use std::process::Command;

fn main() {
    ebpf_build::build_script(&ebpf_build::PRODUCT);
    let commit = git(&["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]);
    println!("cargo::rustc-env=SLB_GIT={}", commit.as_deref().unwrap_or("unknown"));
    // Git appends to this log at every commit and checkout.
    if let Some(log) = git(&["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
}

/// Output of git; `None` outside of a work tree or without git.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let printed = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| printed.trim().to_owned())
}
