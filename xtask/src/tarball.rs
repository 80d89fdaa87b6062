//! `cargo xtask tarball`: the programs, statically linked, with units, manual pages and completions.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Result, ensure};

use crate::{
    manual,
    process::{cargo, run, target_dir, workspace},
    setup,
};

const TARGET: &str = "x86_64-unknown-linux-musl";
const PROGRAMS: [&str; 4] = ["slbd", "slb", "slb-decap", "slb-toa"];
/// Files of the repository that belong to it, by their directory in it.
const FILES: [(&str, &[&str]); 5] = [
    ("", &["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"]),
    ("config", &["packaging/slb.toml", "packaging/default/slbd", "packaging/default/slb-decap"]),
    (
        "systemd",
        &[
            "packaging/slbd.service",
            "packaging/slb-decap.service",
            "packaging/slb.sysusers",
            "packaging/slb.tmpfiles",
        ],
    ),
    ("examples", &["config/slb.toml"]),
    (
        "docs",
        &[
            "docs/install.md",
            "docs/configuration.md",
            "docs/operations.md",
            "docs/api.md",
            "docs/import.md",
            "docs/metrics.md",
            "packaging/grafana/slb.json",
            "packaging/prometheus/slb.rules.yml",
            "docs/limits.md",
            "docs/glossary.md",
        ],
    ),
];

/// Builds the tarball, and returns its path.
///
/// # Errors
/// The target or the C compiler of musl is missing, or the build fails.
pub(crate) fn build() -> Result<PathBuf> {
    ensure!(
        Command::new("musl-gcc").arg("--version").output().is_ok(),
        "musl-gcc is missing, which builds OpenSSL: install musl-tools, and run `rustup target add {TARGET}`"
    );
    setup::run(setup::Extent::Needed)?;
    let arguments = ["build", "--release", "--target", TARGET, "--package", "slb-userspace", "--bins"];
    run(cargo(&arguments)?.args(["--features", "vendored-openssl"]))?;
    let manual = manual::write()?;
    let name = format!("slb-{}-x86_64", env!("CARGO_PKG_VERSION"));
    let (to, built) = (target_dir()?.join("tarball"), target_dir()?.join(TARGET).join("release"));
    let root = to.join(&name);
    if to.exists() {
        fs::remove_dir_all(&to)?;
    }
    fs::create_dir_all(root.join("bin"))?;
    for program in PROGRAMS {
        let copy = root.join("bin").join(program);
        fs::copy(built.join(program), &copy)?;
        run(Command::new("strip").arg("--strip-unneeded").arg(copy))?;
    }
    for (directory, files) in FILES {
        let directory = root.join(directory);
        fs::create_dir_all(&directory)?;
        run(Command::new("cp").args(files).arg(&directory).current_dir(workspace()?))?;
    }
    run(Command::new("cp").arg("-r").arg(&manual).arg(root.join("manual")))?;
    let archive = to.join(format!("{name}.tar.gz"));
    let reproducible = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner"];
    run(Command::new("tar").args(reproducible).arg("-czf").arg(&archive).arg(&name).current_dir(&to))?;
    Ok(archive)
}
