//! Services that come with packages. Benchmarks and tests run the programs themselves, and a service that a user has
//! stays as it is.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
    process::{self, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::process::{Privilege, run, show};

/// Services of the packages of benchmarks and tests.
const SERVICES: [&str; 4] = ["haproxy", "nginx", "prometheus", "prometheus-node-exporter"];

/// Directories of systemd's units.
const UNIT_DIRS: [&str; 4] =
    ["etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];

/// What Debian's package scripts ask before they start a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Line of this program's policies.
const MARK: &str = "# Of `cargo xtask setup`, which removes it when it ends.";

/// Services that do not exist yet. Packages that are installed meanwhile do not start them.
#[derive(Debug)]
pub(crate) struct NewServices {
    names: Vec<&'static str>,
    /// Whether [`POLICY`] is this one's.
    has_policy: bool,
}

impl NewServices {
    /// Finds out which of the services do not exist, and forbids their start.
    pub(crate) fn forbid() -> Self {
        let mut new = Self { names: missing(Path::new("/")), has_policy: false };
        // A policy of the machine's owner stays; without root nothing is installed.
        let has_other = match fs::read_to_string(POLICY) {
            Ok(text) => !text.contains(MARK),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        if !new.names.is_empty() && !has_other && Privilege::find() != Privilege::None {
            match install_policy(&new.names) {
                Ok(()) => new.has_policy = true,
                Err(error) => println!("setup: {} may run as services: {error:#}", new.names.join(", ")),
            }
        }
        new
    }

    /// Disables the new services. They would start with the machine otherwise.
    pub(crate) fn disable(&self) {
        let installed: Vec<_> =
            self.names.iter().filter(|name| exists(Path::new("/"), name)).copied().collect();
        if installed.is_empty() || !Path::new("/run/systemd/system").is_dir() {
            return;
        }
        let mut systemctl = Privilege::find().command(Path::new("systemctl"));
        if let Err(error) = run(systemctl.args(["disable", "--now"]).args(&installed)) {
            println!("setup: {} may run as services now: {error:#}", installed.join(", "));
        }
    }
}

impl Drop for NewServices {
    fn drop(&mut self) {
        if self.has_policy
            && let Err(error) = run(Privilege::find().command(Path::new("rm")).args(["--force", POLICY]))
        {
            println!("setup: {POLICY} has no effect any more, and may be removed: {error:#}");
        }
    }
}

/// The services that do not exist below `root`.
fn missing(root: &Path) -> Vec<&'static str> {
    SERVICES.into_iter().filter(|name| !exists(root, name)).collect()
}

fn exists(root: &Path, name: &str) -> bool {
    let units = UNIT_DIRS.map(|dir| root.join(dir).join(format!("{name}.service")));
    // A masked unit is a link to /dev/null, and another link may lead nowhere.
    units
        .into_iter()
        .chain([root.join("etc/init.d").join(name)])
        .any(|path| fs::symlink_metadata(path).is_ok())
}

fn install_policy(names: &[&str]) -> Result<()> {
    let mut install = Privilege::find().command(Path::new("install"));
    install.args(["--mode", "0755", "--no-target-directory", "/dev/stdin", POLICY]).stdin(Stdio::piped());
    show(&install);
    let mut child = install.spawn().context("cannot start install")?;
    let mut input = child.stdin.take().context("install has no input")?;
    input.write_all(policy(names, process::id()).as_bytes())?;
    drop(input);
    let status = child.wait()?;
    if !status.success() {
        bail!("cannot install {POLICY}: {status}");
    }
    Ok(())
}

/// A script that forbids to start these services, and allows all others. It has no effect after the end of the
/// process `pid`, so one that stays after a crash does no harm.
fn policy(names: &[&str], pid: u32) -> String {
    let units: Vec<_> =
        names.iter().flat_map(|name| [(*name).to_owned(), format!("{name}.service")]).collect();
    format!(
        "#!/bin/sh\n{MARK}\n[ -d /proc/{pid} ] || exit 0\n\
         for word; do\n  case \"$word\" in {}) exit 101 ;; esac\ndone\nexit 0\n",
        units.join("|")
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn services_that_exist_are_not_new() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(missing(root.path()), SERVICES);
        let unit = root.path().join("usr/lib/systemd/system/nginx.service");
        fs::create_dir_all(unit.parent().unwrap()).unwrap();
        fs::write(unit, "").unwrap();
        assert_eq!(missing(root.path()), ["haproxy", "prometheus", "prometheus-node-exporter"]);
        // A masked service, of a package that is not installed.
        let masked = root.path().join("etc/systemd/system/haproxy.service");
        fs::create_dir_all(masked.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink("/dev/null", masked).unwrap();
        assert_eq!(missing(root.path()), ["prometheus", "prometheus-node-exporter"]);
    }

    /// invoke-rc.d names a script, and deb-systemd-invoke a unit.
    #[test]
    fn policy_forbids_new_services_while_this_process_runs() {
        let asked = |pid, words: &[&str]| {
            let mut sh = Command::new("sh");
            sh.args(["-c", &policy(&["nginx"], pid), "policy-rc.d"]).args(words);
            sh.status().unwrap().code()
        };
        for (words, code) in [
            (&["nginx", "start"][..], 101),
            (&["nginx.service", "restart"], 101),
            (&["--quiet", "nginx", "start", "2"], 101),
            (&["haproxy.service", "start"], 0),
            (&["nginx-debug", "start"], 0),
        ] {
            assert_eq!(asked(process::id(), words), Some(code), "{words:?}");
            // No process has this number.
            assert_eq!(asked(u32::MAX, words), Some(0), "{words:?}");
        }
    }
}
