//! The pins of SLB on the BPF file system: paths, lock, removal.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::Flock;
use slb_common::abi::ABI_VERSION;

use super::{
    bpffs::{self, PinRoot},
    link::{Link, LinkBinding},
};
use crate::neigh;

/// The setting that chooses the directory, for messages.
const SETTING: &str = "pin_dir";
/// Directory of the links, within that of a version.
const LINKS: &str = "links";

/// The directory of one SLB's pins.
#[derive(Debug, Clone)]
pub struct Pins {
    root: PinRoot,
}

impl Pins {
    /// `root` must be on a BPF file system. It need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: PinRoot::new(root.into(), SETTING) }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Path of a map's pin.
    pub fn map(&self, name: &str) -> PathBuf {
        self.version().join("maps").join(name)
    }

    /// Paths of all pins of maps.
    ///
    /// # Errors
    /// Their directory cannot be read.
    pub(super) fn maps(&self) -> Result<Vec<PathBuf>> {
        bpffs::entries(&self.version().join("maps"))
    }

    /// Directory of the links.
    pub fn links(&self) -> PathBuf {
        self.version().join(LINKS)
    }

    /// Path of the link to an interface. It contains the index, because a name may pass to another interface.
    pub fn link(&self, ifindex: u32) -> PathBuf {
        self.links().join(ifindex.to_string())
    }

    /// The links of this version, each with its pin.
    ///
    /// # Errors
    /// A pin cannot be read.
    pub fn bound(&self) -> Result<Vec<(PathBuf, LinkBinding)>> {
        bound_in(&self.links())
    }

    /// Refuses pins, of any version, of interfaces in another network namespace. `links` are the interfaces of this
    /// one. Interface indexes are valid in one namespace only, so the program on the interface is compared.
    ///
    /// # Errors
    /// There is such a pin, or a pin cannot be read.
    pub fn expect_here(&self, links: &[neigh::Link]) -> Result<()> {
        for version in self.versions()? {
            if let Some((pin, bound)) =
                bound_in(&version.join(LINKS))?.into_iter().find(|(_, bound)| bound.is_elsewhere(links))
            {
                bail!(
                    "the pins in {} are of another network namespace: {} holds program {} on an interface that is not in this one",
                    self.root().display(),
                    pin.display(),
                    bound.program
                );
            }
        }
        Ok(())
    }

    fn version(&self) -> PathBuf {
        self.root().join(format!("v{ABI_VERSION}"))
    }

    /// Directory names of other ABI versions, as far as they can be read.
    pub fn other_versions(&self) -> Vec<String> {
        let versions = self.versions().unwrap_or_default();
        let names =
            versions.iter().filter(|version| **version != self.version()).filter_map(|v| v.file_name());
        names.map(|name| name.to_string_lossy().into_owned()).collect()
    }

    /// Whether pins of this version exist.
    ///
    /// # Errors
    /// This user may not read the directory.
    pub fn exist(&self) -> Result<bool> {
        let control = self.map("CONTROL");
        control.try_exists().with_context(|| format!("cannot look at {}: it needs root", control.display()))
    }

    /// Makes the directories. Mounts a BPF file system at its usual place if there is none.
    pub fn create(&self) -> Result<()> {
        self.root.ensure_bpf_fs()?;
        self.refuse_other_versions()?;
        self.root.make()?;
        for directory in [self.version(), self.version().join("maps"), self.links()] {
            bpffs::make(&directory)?;
        }
        Ok(())
    }

    /// Identity of the directory (device, inode), which another one at the same path does not have. `None` if it does
    /// not exist.
    pub fn identity(&self) -> Option<(u64, u64)> {
        self.root.identity()
    }

    /// Locks the pins for this process; `None` while another process has the lock.
    pub fn lock(&self) -> Result<Option<Flock<File>>> {
        self.root.lock()
    }

    /// Checks that the directory contains only pins of SLB, of any version.
    ///
    /// # Errors
    /// It contains something else, or cannot be read.
    pub fn expect_own(&self) -> Result<()> {
        self.versions().map(drop)
    }

    /// Removes the pins of all versions. Links go first, so that no program forwards by maps that are going away.
    ///
    /// # Errors
    /// The directory contains something else, and nothing was removed. Or a pin cannot be removed.
    pub fn remove(&self) -> Result<()> {
        let versions = self.versions()?;
        let mut pins = Vec::new();
        let mut directories = Vec::new();
        for version in &versions {
            for part in [LINKS, "maps"] {
                let directory = version.join(part);
                pins.extend(bpffs::entries(&directory)?.into_iter().map(|file| (part, file)));
                directories.push(directory);
            }
            directories.push(version.clone());
        }
        directories.push(self.root().to_owned());
        // Removes "links" before "maps", which sorts after it.
        pins.sort();
        for (_, pin) in pins {
            fs::remove_file(&pin).with_context(|| format!("cannot remove {}", pin.display()))?;
        }
        for directory in directories.iter().filter(|directory| directory.exists()) {
            fs::remove_dir(directory).with_context(|| format!("cannot remove {}", directory.display()))?;
        }
        Ok(())
    }

    /// The directories of all versions.
    ///
    /// # Errors
    /// The directory contains something else.
    fn versions(&self) -> Result<Vec<PathBuf>> {
        if !bpffs::is_bpf_fs(self.root())? {
            bail!("{} is not on a BPF file system: these are not SLB's pins", self.root().display());
        }
        let entries =
            fs::read_dir(self.root()).with_context(|| format!("cannot read {}", self.root().display()))?;
        entries
            .map(|entry| {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let number = name.strip_prefix('v').and_then(|number| number.parse::<u32>().ok());
                if number.is_none() {
                    bail!("{} holds {name}, which is not SLB's: nothing was removed", self.root().display());
                }
                Ok(entry.path())
            })
            .collect()
    }

    fn refuse_other_versions(&self) -> Result<()> {
        let Ok(entries) = fs::read_dir(self.root()) else { return Ok(()) };
        for entry in entries {
            let name = entry?.file_name();
            if name != *format!("v{ABI_VERSION}") {
                bail!(
                    "{} holds pins of another version ({}; this program uses v{ABI_VERSION}): run `slbd detach` first, \
                     which interrupts forwarding until the next start",
                    self.root().display(),
                    name.to_string_lossy()
                );
            }
        }
        Ok(())
    }
}

fn bound_in(links: &Path) -> Result<Vec<(PathBuf, LinkBinding)>> {
    let mut bound = Vec::new();
    for pin in bpffs::entries(links)? {
        if let Some(link) = Link::open(&pin)? {
            bound.push((pin, link.bound()?));
        }
    }
    Ok(bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_not_pins_are_never_removed() {
        let home = tempfile::tempdir().unwrap();
        for part in ["v1/links", "v1/maps", "alice"] {
            fs::create_dir_all(home.path().join(part)).unwrap();
            fs::write(home.path().join(part).join("notes"), "mine").unwrap();
        }
        let error = Pins::new(home.path()).remove().unwrap_err().to_string();
        assert!(error.contains("not on a BPF file system"), "{error}");
        for part in ["v1/links", "v1/maps", "alice"] {
            assert!(home.path().join(part).join("notes").exists());
        }
    }

    #[test]
    fn pins_are_made_on_a_bpf_file_system_only() {
        let home = tempfile::tempdir().unwrap();
        let pins = Pins::new(home.path().join("slb"));
        let error = pins.create().unwrap_err().to_string();
        assert!(error.contains("set pin_dir"), "{error}");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }
}
