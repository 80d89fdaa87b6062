//! `cargo xtask deb`: Debian packages `slb` and `slb-decap`, from the release build and packaging/.

mod stage;
mod try_out;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use self::stage::Stage;
use crate::{
    manual,
    process::{cargo, run, target_dir, workspace},
    setup,
};

/// The only architecture that SLB runs on.
const ARCHITECTURE: &str = "amd64";

/// Parts of a package.
struct Package {
    name: &'static str,
    /// Programs, with the directory that they are installed to.
    programs: &'static [(&'static str, &'static str)],
    /// Files of the repository, with the path that they are installed at.
    files: &'static [(&'static str, &'static str)],
}

const PACKAGES: [Package; 2] = [
    Package {
        name: "slb",
        programs: &[("slbd", "usr/sbin"), ("slb", "usr/bin")],
        files: &[
            ("packaging/slbd.service", "usr/lib/systemd/system/slbd.service"),
            ("packaging/slb.sysusers", "usr/lib/sysusers.d/slb.conf"),
            ("packaging/slb.tmpfiles", "usr/lib/tmpfiles.d/slb.conf"),
            ("packaging/default/slbd", "etc/default/slbd"),
            ("packaging/slb.toml", "etc/slb/slb.toml"),
            ("config/slb.toml", "usr/share/doc/slb/examples/slb.toml"),
            ("docs/configuration.md", "usr/share/doc/slb/configuration.md"),
            ("docs/install.md", "usr/share/doc/slb/install.md"),
            ("docs/operations.md", "usr/share/doc/slb/operations.md"),
            ("docs/api.md", "usr/share/doc/slb/api.md"),
            ("docs/import.md", "usr/share/doc/slb/import.md"),
            ("docs/metrics.md", "usr/share/doc/slb/metrics.md"),
            ("packaging/grafana/slb.json", "usr/share/doc/slb/grafana/slb.json"),
            ("packaging/prometheus/slb.rules.yml", "usr/share/doc/slb/prometheus/slb.rules.yml"),
            ("docs/limits.md", "usr/share/doc/slb/limits.md"),
            ("docs/glossary.md", "usr/share/doc/slb/glossary.md"),
        ],
    },
    Package {
        name: "slb-decap",
        programs: &[("slb-decap", "usr/sbin"), ("slb-toa", "usr/sbin")],
        files: &[
            ("packaging/slb-decap.service", "usr/lib/systemd/system/slb-decap.service"),
            ("packaging/default/slb-decap", "etc/default/slb-decap"),
        ],
    },
];

/// Builds both packages with this Debian revision, and prints their paths.
///
/// # Errors
/// A build fails, or a program of Debian's packaging is missing.
pub(crate) fn run_with(revision: u32) -> Result<Vec<PathBuf>> {
    for (program, package) in [("dpkg-deb", "dpkg"), ("dpkg-shlibdeps", "dpkg-dev"), ("strip", "binutils")] {
        let is_there = Command::new(program).arg("--version").output().is_ok();
        ensure!(is_there, "{program} is missing: install {package}; packages are built on Debian or Ubuntu");
    }
    setup::run(setup::Extent::Needed)?;
    build_programs()?;
    let (manual, to) = (manual::write()?, target_dir()?.join("deb"));
    if to.exists() {
        fs::remove_dir_all(&to)?;
    }
    fs::create_dir_all(&to)?;
    PACKAGES.iter().map(|package| build(package, revision, &manual, &to)).collect()
}

/// Builds two revisions, and tries them out in a Debian.
///
/// # Errors
/// A build fails, or a step of the trial.
pub(crate) fn try_out(suite: &str) -> Result<()> {
    try_out::run_in(suite, |revision| run_with(revision).map(drop))
}

/// Builds the programs as they are installed.
fn build_programs() -> Result<()> {
    run(&mut cargo(&["build", "--release", "--package", "slb-userspace", "--bins"])?)
}

fn build(package: &Package, revision: u32, manual: &Path, to: &Path) -> Result<PathBuf> {
    let name = package.name;
    let version = format!("{}-{revision}", env!("CARGO_PKG_VERSION"));
    let stage = Stage::create(to.join(name), workspace()?)?;
    for (program, directory) in package.programs {
        let built = target_dir()?.join("release").join(program);
        let installed = stage.install(&built, &format!("{directory}/{program}"), 0o755)?;
        run(Command::new("strip").arg("--strip-unneeded").arg(installed))?;
        stage.manual_of(program, manual)?;
    }
    for (from, path) in package.files {
        stage.install(&workspace()?.join(from), path, 0o644)?;
    }
    stage.copyright(name)?;
    stage.changelog(name, &version)?;
    stage.control(&package_programs(package), name, &version, ARCHITECTURE)?;
    let file = to.join(format!("{name}_{version}_{ARCHITECTURE}.deb"));
    run(Command::new("dpkg-deb")
        .args(["--root-owner-group", "-Zxz", "--build"])
        .arg(stage.root())
        .arg(&file))
    .with_context(|| format!("package {name}"))?;
    Ok(file)
}

/// Paths of the installed programs of a package.
fn package_programs(package: &Package) -> Vec<String> {
    package.programs.iter().map(|(program, directory)| format!("{directory}/{program}")).collect()
}
