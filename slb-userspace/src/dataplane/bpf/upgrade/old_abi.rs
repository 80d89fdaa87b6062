//! Description of an older ABI version: the shapes of its maps, and which of them differ from this version's.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::super::{map_shapes::MapShape, pins::Pins};

/// An older ABI version whose maps this program takes over.
pub(super) struct OldAbi {
    pub(super) version: u32,
    /// Its maps with another layout or meaning.
    pub(super) changed: &'static [ChangedMap],
    /// Its maps that are the same in this version: the programs of both share them, so nothing that packets change
    /// meanwhile can be missed. Their sizes are literal: a later change of a type does not redefine this version.
    pub(super) shared: &'static [MapShape],
    /// Maps of this version that it does not have. The loader makes them, empty.
    #[cfg(test)]
    pub(super) added: &'static [&'static str],
}

/// A map with another layout or meaning in an older version.
pub(super) struct ChangedMap {
    /// Its shape in that version.
    pub(super) shape: MapShape,
    pub(super) conversion: Conversion,
}

/// How the map of this version gets the content of the old one.
pub(super) enum Conversion {
    /// Before the program is loaded: makes a map from the old map at the first path, and pins it at the second one. For
    /// maps that only a daemon writes.
    Copy(fn(&Path, &Path) -> Result<()>),
    /// After the new program has replaced the old one everywhere: adds the content of the old map to the new one. For
    /// counters, which start at zero.
    Add(fn(&Path, &Path) -> Result<()>),
}

impl OldAbi {
    /// Checks that all maps are pinned and have the shapes of the older version.
    ///
    /// # Errors
    /// A map is missing, or has another shape.
    pub(super) fn verify(&self, pins: &Pins) -> Result<()> {
        let changed = self.changed.iter().map(|changed| &changed.shape);
        for shape in changed.chain(self.shared) {
            shape
                .verify(&pins.map(shape.name))
                .with_context(|| format!("cannot take over the maps of ABI version {}", self.version))?;
        }
        Ok(())
    }
}
