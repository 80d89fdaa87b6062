//! The daemon as a user other than root.

use std::{
    ffi::OsString,
    fs::{self, Permissions},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown},
    path::PathBuf,
    process::Command,
};

use anyhow::Result;

use super::World;
use crate::{daemon::UNPRIVILEGED_ID, net::run};

/// How `slbd run` starts as another user.
#[derive(Debug, Clone)]
pub(crate) struct Unprivileged {
    /// A copy that the user may execute.
    pub(crate) slbd: PathBuf,
    /// Capabilities as setpriv(1) takes them.
    capabilities: String,
}

impl Unprivileged {
    /// Arguments of setpriv(1), which executes the copy.
    pub(crate) fn setpriv(&self) -> Vec<OsString> {
        let sets = ["--inh-caps", "--ambient-caps", "--bounding-set"];
        let sets = sets.iter().map(|set| format!("{set}=-all{}", self.capabilities).into());
        let user =
            ["--reuid", UNPRIVILEGED_ID, "--regid", UNPRIVILEGED_ID, "--clear-groups", "--pdeathsig", "KILL"];
        user.iter().map(OsString::from).chain(sets).chain([self.slbd.clone().into()]).collect()
    }
}

impl World {
    /// Runs the daemon as an unprivileged user with these capabilities and no others, from its next start on. The user
    /// owns this world's directory and that of the pins, which exists from now on. The capabilities have the names of
    /// setpriv(1): `net_admin`.
    ///
    /// # Errors
    /// A directory cannot be made or given away.
    pub fn run_unprivileged(&mut self, capabilities: &[&str]) -> Result<()> {
        let directory = self.directory.path();
        let id: u32 = UNPRIVILEGED_ID.parse()?;
        fs::set_permissions(directory, Permissions::from_mode(0o755))?;
        chown(directory, Some(id), Some(id))?;
        let pins = &self.plan.pin_dir;
        if !pins.exists() {
            fs::DirBuilder::new().mode(0o700).create(pins)?;
        }
        // As systemd-tmpfiles does by packaging/slb.tmpfiles.
        let states = Some(&self.plan.state_dir).filter(|directory| directory.exists());
        run(Command::new("chown").args(["-R", UNPRIVILEGED_ID]).arg(pins).args(states), "")?;
        let slbd = directory.join("slbd");
        // `cp` makes the copy, not this process: children that this process starts meanwhile would inherit the open
        // file, and a file open for writing cannot be executed.
        run(
            Command::new("cp").arg("--remove-destination").arg("--").args([self.programs.slbd_path(), &slbd]),
            "",
        )?;
        let capabilities = capabilities.iter().map(|name| format!(",+{name}")).collect();
        self.programs.unprivileged = Some(Unprivileged { slbd, capabilities });
        Ok(())
    }

    /// Forgets a daemon that has exited by itself.
    pub fn forget_daemon(&mut self) {
        self.daemon = None;
    }

    /// Runs the daemon as root again, from its next start on.
    pub fn run_as_root(&mut self) {
        self.programs.unprivileged = None;
    }
}
