//! The pins of SLB on the BPF file system: paths, lock, removal.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::{errno::Errno, fcntl::Flock};
use slb_common::abi::ABI_VERSION;

use super::{
    bpffs::{self, PinRoot},
    link::{Link, LinkBinding},
};
use crate::{advice, neigh};

/// The setting that chooses the directory, for messages.
const SETTING: &str = "pin_dir";
/// Directory of the links, within that of a version.
const LINKS: &str = "links";
/// Directory of the maps, within that of a version.
const MAPS: &str = "maps";

/// The pins of one SLB: those of this ABI version, or of another one ([`Self::of_version`]).
#[derive(Debug, Clone)]
pub struct Pins {
    root: PinRoot,
    version: u32,
    /// Precedes the names of maps: of pins that are staged in the directory of another version.
    prefix: String,
}

impl Pins {
    /// `root` must be on a BPF file system. It need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = PinRoot::new(root.into(), SETTING);
        Self { root, version: ABI_VERSION, prefix: String::new() }
    }

    /// The pins of an ABI version in the same directory.
    pub(super) fn of_version(&self, version: u32) -> Self {
        Self { root: self.root.clone(), version, prefix: String::new() }
    }

    /// Pins of this version's maps in the directory of another version, beside its own. A daemon of that version
    /// ignores them, and its `slbd detach` removes them. Links are those of the other version.
    pub(super) fn staged_in(&self, version: u32) -> Self {
        Self { root: self.root.clone(), version, prefix: format!("V{ABI_VERSION}_") }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Path of a map's pin.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps_directory().join(format!("{}{name}", self.prefix))
    }

    /// All pins of maps, with the names of the maps.
    ///
    /// # Errors
    /// Their directory cannot be read.
    pub(super) fn maps(&self) -> Result<Vec<(String, PathBuf)>> {
        let pins = bpffs::entries(&self.maps_directory())?.into_iter();
        let named = pins.filter_map(|pin| {
            let name = pin.file_name()?.to_str()?.strip_prefix(&self.prefix)?.to_owned();
            Some((name, pin))
        });
        Ok(named.collect())
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

    /// Directory of the version.
    pub(super) fn version(&self) -> PathBuf {
        self.root().join(format!("v{}", self.version))
    }

    fn maps_directory(&self) -> PathBuf {
        self.version().join(MAPS)
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

    /// Makes the directory of all versions. Mounts a BPF file system at its usual place if there is none.
    ///
    /// # Errors
    /// The directory holds pins of a version that is neither this one nor in `readable`. Or it cannot be made.
    pub fn create(&self, readable: &[u32]) -> Result<()> {
        self.root.ensure_bpf_fs()?;
        self.refuse_other_versions(readable)?;
        self.root.make()
    }

    /// Makes the directories of the version.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn create_version(&self) -> Result<()> {
        [self.version(), self.maps_directory(), self.links()]
            .iter()
            .try_for_each(|directory| bpffs::make(directory))
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

    /// Removes the pins of all versions, and their directory where this user may. Links go first, so that no program
    /// forwards by maps that are going away.
    ///
    /// # Errors
    /// The directory contains something else, and nothing was removed. Or a pin cannot be removed.
    pub fn remove(&self) -> Result<()> {
        let versions = self.versions()?;
        for part in [LINKS, MAPS] {
            versions.iter().try_for_each(|version| remove_pins(&version.join(part)))?;
        }
        versions.iter().try_for_each(|version| remove_directory(version))?;
        match remove_directory(self.root()) {
            // Root, or the service manager, has made it for this user, and it stays.
            Err(error)
                if matches!(advice::errno(&error), Some(Errno::EACCES | Errno::EBUSY | Errno::EROFS)) =>
            {
                Ok(())
            }
            removed => removed,
        }
    }

    /// Removes the pins of the version: links first.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub(super) fn remove_version(&self) -> Result<()> {
        [self.links(), self.maps_directory()].iter().try_for_each(|part| remove_pins(part))?;
        remove_directory(&self.version())
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

    fn refuse_other_versions(&self, readable: &[u32]) -> Result<()> {
        let known: Vec<_> = readable.iter().map(|version| format!("v{version}")).collect();
        for name in bpffs::entries(self.root())?.iter().filter_map(|entry| entry.file_name()) {
            let name = name.to_string_lossy();
            if name != format!("v{ABI_VERSION}") && !known.iter().any(|known| name == *known) {
                bail!(
                    "{} holds pins of another version ({name}; this program uses v{ABI_VERSION} and takes over {}): nothing was \
                     changed, and forwarding continues. Start the slbd of that version again; or run `slbd detach` first, which \
                     interrupts forwarding until the next start",
                    self.root().display(),
                    known.join(", ")
                );
            }
        }
        Ok(())
    }
}

/// Removes the files of a directory, and the directory; nothing if it does not exist.
fn remove_pins(directory: &Path) -> Result<()> {
    for pin in bpffs::entries(directory)? {
        fs::remove_file(&pin).with_context(|| format!("cannot remove {}", pin.display()))?;
    }
    remove_directory(directory)
}

fn remove_directory(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir(directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    Ok(())
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
        let error = pins.create(&[]).unwrap_err().to_string();
        assert!(error.contains("set pin_dir"), "{error}");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }
}
