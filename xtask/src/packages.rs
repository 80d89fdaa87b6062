//! Packages of the distribution: installed with apt-get, or named in the output where apt-get is missing.

mod services;

use std::{fs, path::Path, process::Command, sync::Once};

use anyhow::{Context as _, Result, bail};
use ebpf_build::toolchain::Search;

pub(crate) use self::services::NewServices;
use crate::process::{Privilege, run};

/// The key of Debian's archive.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Debian's archive.
pub(crate) const MIRROR: &str = "http://deb.debian.org/debian";
/// Debian's newer packages for bookworm.
const BACKPORTS: &str = "bookworm-backports";

/// Programs that the tests and the demo run, and their packages.
const TEST_TOOLS: [(&str, &str); 3] = [("ip", "iproute2"), ("ethtool", "ethtool"), ("nft", "nftables")];

/// Programs of tests of the metrics, and their packages.
const MONITORING_TOOLS: [(&str, &str); 1] = [("promtool", "prometheus")];

/// OpenSSL's headers, for health checks over TLS, and pkg-config, which finds them.
const OPENSSL: [&str; 2] = ["libssl-dev", "pkg-config"];

/// Programs for running Debian's kernels, and their packages.
const VM_TOOLS: [(&str, &str); 6] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("depmod", "kmod"),
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("teamnl", "libteam-utils"),
];

/// Programs and files of the benchmarks' contestants, and their packages.
const BENCH_TOOLS: [(&str, &str); 4] = [
    ("nft", "nftables"),
    ("haproxy", "haproxy"),
    ("nginx", "nginx-light"),
    ("/usr/lib/nginx/modules/ngx_stream_module.so", "libnginx-mod-stream"),
];

/// Packages missing for the build of slb-userspace.
pub(crate) fn missing_for_build(search: &Search) -> Vec<&'static str> {
    // With these variables, the build finds OpenSSL without its packages.
    let is_set = ["OPENSSL_DIR", "OPENSSL_LIB_DIR"].iter().any(|name| std::env::var_os(name).is_some());
    let is_found = || {
        let asked =
            search.program("pkg-config").map(|it| Command::new(it).args(["--exists", "openssl"]).status());
        asked.is_some_and(|status| status.is_ok_and(|status| status.success()))
    };
    if is_set || is_found() { Vec::new() } else { OPENSSL.to_vec() }
}

/// Packages missing for the tests.
pub(crate) fn missing_for_tests(search: &Search) -> Vec<&'static str> {
    missing(search, &TEST_TOOLS)
}

/// Packages missing for the tests of the metrics.
pub(crate) fn missing_for_monitoring(search: &Search) -> Vec<&'static str> {
    missing(search, &MONITORING_TOOLS)
}

/// Packages missing for running Debian's kernels.
pub(crate) fn missing_for_vm(search: &Search) -> Vec<&'static str> {
    missing(search, &VM_TOOLS)
}

fn missing(search: &Search, tools: &[(&str, &'static str)]) -> Vec<&'static str> {
    let missing = tools.iter().filter(|(program, _)| search.program(program).is_none());
    missing.map(|(_, package)| *package).collect()
}

/// Packages missing for the benchmarks' contestants.
pub(crate) fn missing_for_bench(search: &Search) -> Vec<&'static str> {
    // System programs may not be on a user's `PATH`.
    let directories = || std::env::split_paths(&search.path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let has = |program: &str| directories().any(|directory| directory.join(program).is_file());
    BENCH_TOOLS
        .iter()
        .filter(|(what, _)| !if what.starts_with('/') { Path::new(what).is_file() } else { has(what) })
        .map(|(_, package)| *package)
        .collect()
}

/// Installs packages, as root or through sudo.
///
/// # Errors
/// apt-get is missing or fails, or root is not possible; the error names the packages.
pub(crate) fn install(search: &Search, packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    let Some(apt) = search.program("apt-get") else {
        bail!("there is no apt-get here; install what these packages of Debian hold: {list}");
    };
    let privilege = Privilege::find();
    if privilege == Privilege::None {
        bail!("installing packages needs root; run: sudo apt-get install {list}");
    }
    // Package lists may be outdated or, on a fresh machine, missing; the installation then fails.
    static UPDATE: Once = Once::new();
    UPDATE.call_once(|| drop(run(apt_get(privilege, &apt).arg("update"))));
    run(apt_get(privilege, &apt).args(["install", "--yes", "--no-remove"]).args(packages))
}

/// As [`install`], from Debian's backports and with package lists of its own: the system's lists stay as they are. QEMU
/// must be of the version of the installed qemu-utils, which may come from there.
///
/// # Errors
/// apt-get is missing or fails, or root is not possible.
pub(crate) fn install_from_backports(search: &Search, packages: &[&str]) -> Result<()> {
    let apt = search.program("apt-get").context("there is no apt-get here")?;
    let tools =
        search.tools.as_ref().context("neither HOME nor XDG_DATA_HOME says where package lists go")?;
    let directory = tools.join("backports");
    fs::create_dir_all(directory.join("lists/partial"))?;
    let list = directory.join("sources.list");
    fs::write(&list, format!("deb [signed-by={KEYRING}] {MIRROR} {BACKPORTS} main\n"))?;
    let options = [
        format!("Dir::Etc::SourceList={}", list.display()),
        format!("Dir::State::Lists={}", directory.join("lists").display()),
        "APT::Sandbox::User=".to_owned(),
    ];
    let apt_get = |arguments: &[&str]| {
        let mut command = apt_get(Privilege::find(), &apt);
        for option in &options {
            command.args(["-o", option]);
        }
        run(command.args(arguments))
    };
    apt_get(&["update"])?;
    let install =
        ["install", "--yes", "--no-remove", "--no-install-recommends", "--target-release", BACKPORTS];
    apt_get(&[&install[..], packages].concat())
}

fn apt_get(privilege: Privilege, apt: &Path) -> Command {
    let mut command = privilege.command(Path::new("env"));
    command.arg("DEBIAN_FRONTEND=noninteractive").arg(apt).arg("--quiet");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_pkg_config_openssl_is_missing() {
        let mut search = Search::from_env();
        search.path = "/nonexistent".into();
        let is_set = std::env::var_os("OPENSSL_DIR").or(std::env::var_os("OPENSSL_LIB_DIR")).is_some();
        assert_eq!(missing_for_build(&search).is_empty(), is_set);
    }

    #[test]
    fn without_apt_get_the_packages_are_named() {
        // A search that finds no program.
        let mut search = Search::from_env();
        search.path = "/nonexistent".into();
        let error = install(&search, &["one", "two"]).unwrap_err().to_string();
        assert!(error.contains("one two"), "{error}");
    }
}
