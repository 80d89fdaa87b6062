//! Debian's kernels: downloaded with separate apt lists, unpacked, never installed.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use ebpf_build::toolchain::Search;

use crate::{
    packages::{KEYRING, MIRROR},
    process::{run, run_within},
};

/// Time limit of apt-get for the lists of a suite, or for the packages of a kernel.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(180);
/// Debian's newest kernel for virtual machines in a suite: small, with every device that the tests need.
const METAPACKAGE: &str = "linux-image-cloud-amd64";
/// Name prefixes of the packages with a kernel and its modules: one package until 7.1, four since.
const PARTS: [&str; 4] = ["linux-image-", "linux-binary-", "linux-modules-", "linux-base-"];
/// File that lists the modules built into the kernel.
const BUILTIN: &str = "modules.builtin";

/// A kernel of Debian's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 12's own.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 12's backport, and Debian 13's own.
    #[value(name = "6.12")]
    V6_12,
    /// Debian 13's backport.
    Newest,
}

/// A kernel on disk.
pub(super) struct Image {
    /// The kernel itself.
    pub(super) vmlinuz: PathBuf,
    /// `lib/modules/RELEASE`.
    pub(super) modules: PathBuf,
    /// Release, as `uname -r` prints it.
    pub(super) release: String,
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::Newest => "newest",
        })
    }
}

impl Kernel {
    /// Every kernel.
    pub(crate) const ALL: [Self; 3] = [Self::V6_1, Self::V6_12, Self::Newest];
    /// The kernels that README names.
    pub(crate) const NAMED: [Self; 2] = [Self::V6_1, Self::V6_12];

    fn suite(self) -> &'static str {
        match self {
            Self::V6_1 => "bookworm",
            Self::V6_12 => "bookworm-backports",
            Self::Newest => "trixie-backports",
        }
    }

    /// Returns the kernel of an earlier download, or downloads it into SLB's tools directory.
    ///
    /// # Errors
    /// apt-get is missing, or Debian's archive does not answer.
    pub(super) fn fetch(self, search: &Search) -> Result<Image> {
        let tools = search.tools.as_ref().context("neither HOME nor XDG_DATA_HOME says where kernels go")?;
        let root = tools.join("kernels").join(self.to_string());
        if let Ok(image) = find(&root) {
            return Ok(image);
        }
        for program in ["apt-get", "apt-cache", "dpkg", "depmod"] {
            if search.program(program).is_none() {
                bail!("Debian's kernels are downloaded with {program}, which is not here");
            }
        }
        println!("vm: downloading Debian's kernel {self} into {}", root.display());
        // Downloads into a separate directory first, so that an interrupted download leaves no partial kernel.
        let aside = tools.join("kernels").join(format!("{self}-part-{}", std::process::id()));
        let downloaded = self.download(search, &aside).and_then(|()| {
            let _ = fs::remove_dir_all(&root);
            Ok(fs::rename(aside.join("root"), &root)?)
        });
        let _ = fs::remove_dir_all(&aside);
        downloaded.with_context(|| format!("cannot download Debian's kernel {self}"))?;
        find(&root)
    }

    fn download(self, search: &Search, aside: &Path) -> Result<()> {
        let depmod = search.program("depmod").context("there is no depmod here")?;
        for directory in ["lists/partial", "cache/archives/partial", "deb", "root"] {
            fs::create_dir_all(aside.join(directory))?;
        }
        let list = format!("deb [signed-by={KEYRING}] {MIRROR} {} main\n", self.suite());
        fs::write(aside.join("sources.list"), list)?;
        run_within(DOWNLOAD_LIMIT, apt(aside, "apt-get")?.args(["-q", "update"]))?;
        let mut packages = depends(aside, METAPACKAGE)?;
        let image = packages.first().context("the archive names no kernel")?.clone();
        packages.extend(depends(aside, &image)?);
        let mut download = apt(aside, "apt-get")?;
        run_within(
            DOWNLOAD_LIMIT,
            download.args(["-q", "download"]).args(&packages).current_dir(aside.join("deb")),
        )?;
        for package in fs::read_dir(aside.join("deb"))? {
            run(Command::new("dpkg").arg("-x").arg(package?.path()).arg(aside.join("root")))?;
        }
        // Dependencies between modules are computed by the installation of a kernel, which does not happen here.
        let image = find(&aside.join("root"))?;
        let base = image.modules.ancestors().nth(3).context("modules lie in lib/modules")?;
        run(Command::new(depmod).arg("-b").arg(base).arg(&image.release))
    }
}

/// A command of apt that knows one suite and uses no lists or settings of the system.
fn apt(aside: &Path, program: &str) -> Result<Command> {
    let aside = aside.to_str().context("the path of the tools is not UTF-8")?;
    let mut command = Command::new(program);
    for option in [
        format!("Dir::Etc::sourcelist={aside}/sources.list"),
        "Dir::Etc::sourceparts=-".to_owned(),
        format!("Dir::State::lists={aside}/lists"),
        format!("Dir::Cache={aside}/cache"),
        "APT::Sandbox::User=".to_owned(),
        "APT::Architecture=amd64".to_owned(),
        "Acquire::http::Timeout=20".to_owned(),
        "Acquire::Retries=2".to_owned(),
        "APT::Update::Error-Mode=any".to_owned(),
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
    ] {
        command.arg("-o").arg(option);
    }
    Ok(command)
}

/// Names of the kernel packages on which a package depends.
fn depends(aside: &Path, package: &str) -> Result<Vec<String>> {
    let output = apt(aside, "apt-cache")?.args(["depends", "--important", package]).output()?;
    if !output.status.success() {
        bail!("apt-cache depends {package}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(kernel_packages(&String::from_utf8_lossy(&output.stdout)))
}

/// Picks the packages with a kernel or its modules from the output of `apt-cache depends`. A version follows the prefix
/// in their names.
fn kernel_packages(answer: &str) -> Vec<String> {
    answer
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .filter(|package| {
            let versions = PARTS.iter().filter_map(|part| package.strip_prefix(part));
            versions.into_iter().any(|version| version.starts_with(|c: char| c.is_ascii_digit()))
        })
        .map(str::to_owned)
        .collect()
}

/// Finds a completely unpacked kernel; since 7.1, all files are below `usr`.
fn find(root: &Path) -> Result<Image> {
    for modules in ["lib/modules", "usr/lib/modules"].map(|path| root.join(path)) {
        let Some(entry) = fs::read_dir(&modules).ok().and_then(|mut entries| entries.next()) else {
            continue;
        };
        let entry = entry?;
        let release = entry.file_name().to_string_lossy().into_owned();
        let places = [root.join("boot").join(format!("vmlinuz-{release}")), entry.path().join("vmlinuz")];
        let is_whole = entry.path().join(BUILTIN).is_file();
        if let Some(vmlinuz) = places.into_iter().find(|place| is_whole && place.is_file()) {
            return Ok(Image { vmlinuz, modules: entry.path(), release });
        }
    }
    bail!("{} holds no kernel", root.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::target_dir;

    #[test]
    fn packages_of_a_kernel_are_those_with_a_version() {
        let answer = "linux-image-cloud-amd64\n  Depends: linux-base-cloud-amd64\n  Depends: linux-image-7.3.4-cloud-amd64\n  \
                      Depends: linux-modules-7.3.4-cloud-amd64\n  Depends: linux-base-7.3.4-cloud-amd64\n  Depends: kmod\n";
        assert_eq!(
            kernel_packages(answer),
            [
                "linux-image-7.3.4-cloud-amd64",
                "linux-modules-7.3.4-cloud-amd64",
                "linux-base-7.3.4-cloud-amd64"
            ]
        );
    }

    #[test]
    fn kernel_without_its_list_of_builtin_modules_is_incomplete() {
        let root = target_dir().unwrap().join(format!("kernel-{}", std::process::id()));
        let modules = root.join("usr/lib/modules/7.3.4");
        fs::create_dir_all(&modules).unwrap();
        fs::write(modules.join("vmlinuz"), "").unwrap();
        let part = find(&root).map(|image| image.release);
        fs::write(modules.join(BUILTIN), "").unwrap();
        let whole = find(&root).map(|image| image.release);
        fs::remove_dir_all(&root).unwrap();
        assert!(part.is_err());
        assert_eq!(whole.unwrap(), "7.3.4");
    }
}
