//! Upgrade at a start: this program takes over the pins of an older ABI version, while that version's program forwards.
//!
//! 1. [`Upgrade::begin`]: pins of the maps for this version are staged in the directory of the old one. Maps with the
//!    same layout are shared: the same map gets a second pin. Maps that only daemons write are copied.
//! 2. The program is loaded over the staged pins, and the configuration is checked.
//! 3. [`Upgrade::commit`]: the staged pins and the links move to the directory of this version. The pin of the control
//!    map decides which version the pins are of.
//! 4. [`Upgrade::finish`]: the new program replaces the old one in each link. Counters that are not shared are added.
//!    The old pins go.
//!
//! Until the first link has the new program, an error leaves the pins of the old version as they were. If the daemon is
//! killed before step 3, the next start of either version begins anew; later, the next start goes on with step 3 or 4.

mod abi10;
mod old_abi;

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use aya::maps::MapData;
use slb_common::abi::ABI_VERSION;

use self::old_abi::{Conversion, OldAbi};
use super::{bpffs, pins::Pins, resize, xdp::Program};

/// The versions that this program takes over.
static OLD_ABIS: [OldAbi; 1] = [abi10::ABI];
/// The map whose pin marks the version that is in use.
const CONTROL: &str = "CONTROL";
/// Prefix of the pins of counters that are being added to those of this version.
const ADDED: &str = "ADDED_";

/// Versions of the ABI whose pins this program takes over.
pub fn readable_versions() -> Vec<u32> {
    OLD_ABIS.iter().map(|abi| abi.version).collect()
}

/// An upgrade that is not finished. Dropping it restores the old version's pins, unless a link has the new program.
pub struct Upgrade {
    abi: &'static OldAbi,
    /// Pins of this version.
    new: Pins,
    /// Pins of the old version.
    old: Pins,
    phase: Phase,
}

enum Phase {
    /// The maps of this version are staged.
    Staged,
    /// The pins are those of this version. The links had these programs before.
    Committed { programs: Vec<u32> },
    /// Nothing is to be restored.
    Final,
}

/// Where the new program has replaced the old one.
enum Replacement {
    /// No interface has a link.
    NoLink,
    /// In none of the links.
    Nowhere,
    /// At least in one link.
    Somewhere,
}

impl Upgrade {
    /// Step 1, or the continuation of an upgrade that has been committed. `None` if there are no pins of an older
    /// version; then the directories of this version exist.
    ///
    /// # Errors
    /// Maps of the old version are missing or have another shape, or pins cannot be made. Nothing has changed.
    pub fn begin(new: &Pins) -> Result<Option<Self>> {
        let mut versions = OLD_ABIS.iter().map(|abi| (abi, new.of_version(abi.version)));
        let Some((abi, old)) = versions.find(|(_, old)| old.version().exists()) else {
            new.create_version()?;
            return Ok(None);
        };
        if new.exist()? {
            move_links(&old, new)?;
            tracing::info!(from = abi.version, to = ABI_VERSION, "going on with the upgrade of the maps");
            return Ok(Some(Self { abi, new: new.clone(), old, phase: Phase::Final }));
        }
        let mut upgrade = Self { abi, new: new.clone(), old, phase: Phase::Staged };
        upgrade.discard()?;
        if let Err(error) = abi.verify(&upgrade.old) {
            if !upgrade.old.bound()?.is_empty() {
                return Err(error);
            }
            // A first start of the old version was killed: no program uses its maps.
            tracing::warn!(
                version = abi.version,
                error = format!("{error:#}"),
                "removing incomplete maps of an older ABI version, which no link uses"
            );
            upgrade.phase = Phase::Final;
            upgrade.old.remove_version()?;
            new.create_version()?;
            return Ok(None);
        }
        upgrade.stage()?;
        tracing::info!(from = abi.version, to = ABI_VERSION, "upgrading the maps");
        Ok(Some(upgrade))
    }

    /// The pins of this version's maps and of the links, in the current phase.
    pub fn pins(&self) -> Pins {
        match self.phase {
            Phase::Staged => self.staged(),
            Phase::Committed { .. } | Phase::Final => self.new.clone(),
        }
    }

    /// Step 3.
    ///
    /// # Errors
    /// A pin cannot be moved.
    pub fn commit(&mut self) -> Result<()> {
        if !matches!(self.phase, Phase::Staged) {
            return Ok(());
        }
        let programs = self.old.bound()?.into_iter().map(|(_, bound)| bound.program).collect();
        let (control, maps): (Vec<_>, Vec<_>) =
            self.staged().maps()?.into_iter().partition(|(name, _)| name == CONTROL);
        self.new.create_version()?;
        for (name, pin) in maps.into_iter().chain(control) {
            rename(&pin, &self.new.map(&name))?;
        }
        self.phase = Phase::Committed { programs };
        move_links(&self.old, &self.new)
    }

    /// Step 4.
    ///
    /// # Errors
    /// No link has taken the new program: the pins are those of the old version again. Or counters cannot be read or
    /// written, or a pin of the old version cannot be removed.
    pub fn finish(self, program: &mut Program) -> Result<()> {
        let is_everywhere = program.replace_in(&bpffs::entries(&self.new.links())?);
        resize::wait_for_programs()?;
        self.conclude(is_everywhere)
    }

    /// The end of step 4. `is_everywhere`: no link keeps the old program.
    fn conclude(mut self, is_everywhere: bool) -> Result<()> {
        if let Phase::Committed { programs } = &self.phase
            && let Replacement::Nowhere = self.replacement(programs)?
        {
            bail!(
                "no link takes the new program, and the maps of ABI version {} stay in use: the log names the links",
                self.abi.version
            );
        }
        self.phase = Phase::Final;
        if !is_everywhere {
            tracing::warn!(
                version = self.abi.version,
                "the old program stays in a link, and its pins until the next start"
            );
            return Ok(());
        }
        for changed in self.abi.changed {
            let (name, Conversion::Add(add)) = (changed.shape.name, &changed.conversion) else { continue };
            let (old, added) = (self.old.map(name), self.old.map(&format!("{ADDED}{name}")));
            if old.exists() {
                // First, so that the next start does not add them again if this process ends meanwhile.
                rename(&old, &added)?;
                add(&added, &self.new.map(name))?;
            }
        }
        self.old.remove_version()?;
        tracing::info!(from = self.abi.version, to = ABI_VERSION, "maps upgraded");
        Ok(())
    }

    fn staged(&self) -> Pins {
        self.new.staged_in(self.abi.version)
    }

    fn stage(&self) -> Result<()> {
        let staged = self.staged();
        for changed in self.abi.changed {
            if let (name, Conversion::Copy(copy)) = (changed.shape.name, &changed.conversion) {
                copy(&self.old.map(name), &staged.map(name))?;
            }
        }
        for shape in self.abi.shared {
            share(&self.old.map(shape.name), &staged.map(shape.name))?;
        }
        // A resize that has not ended goes on in this version.
        for (name, pin) in self.old.maps()?.into_iter().filter(|(name, _)| resize::is_old(name)) {
            share(&pin, &staged.map(&name))?;
        }
        Ok(())
    }

    /// Removes the pins of this version that are not in use: staged ones, and those of an unfinished commit.
    fn discard(&self) -> Result<()> {
        for (_, pin) in self.staged().maps()? {
            fs::remove_file(&pin).with_context(|| format!("cannot remove {}", pin.display()))?;
        }
        self.new.remove_version()
    }

    /// In which links the new program is. The links had `programs` before.
    fn replacement(&self, programs: &[u32]) -> Result<Replacement> {
        let bound = self.new.bound()?;
        let mut bound = bound.iter().filter(|(_, bound)| bound.interface.is_some()).peekable();
        Ok(if bound.peek().is_none() {
            Replacement::NoLink
        } else if bound.any(|(_, bound)| !programs.contains(&bound.program)) {
            Replacement::Somewhere
        } else {
            Replacement::Nowhere
        })
    }

    /// Gives the links back to the old version, unless one of them has another program than before.
    fn roll_back(&self, programs: &[u32]) -> Result<()> {
        if let Replacement::Somewhere = self.replacement(programs)? {
            return Ok(());
        }
        move_links(&self.new, &self.old)?;
        // First, so that a process that ends now leaves pins of the old version.
        fs::remove_file(self.new.map(CONTROL)).context("cannot remove the pin of the control map")?;
        self.discard()
    }
}

impl Drop for Upgrade {
    fn drop(&mut self) {
        let restored = match &self.phase {
            Phase::Staged => self.discard(),
            Phase::Committed { programs } => self.roll_back(programs),
            Phase::Final => Ok(()),
        };
        if let Err(error) = restored {
            tracing::error!(
                error = format!("{error:#}"),
                "cannot remove what an upgrade has made; start this version of slbd again"
            );
        }
    }
}

/// Pins the map behind one pin at a second path.
fn share(old: &Path, new: &Path) -> Result<()> {
    let map = MapData::from_pin(old).with_context(|| format!("cannot open the map {}", old.display()))?;
    map.pin(new).with_context(|| format!("cannot pin {}", new.display()))
}

fn move_links(from: &Pins, to: &Pins) -> Result<()> {
    for pin in bpffs::entries(&from.links())? {
        if let Some(name) = pin.file_name() {
            rename(&pin, &to.links().join(name))?;
        }
    }
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("cannot move the pin {}", from.display()))
}

#[cfg(test)]
mod tests;
