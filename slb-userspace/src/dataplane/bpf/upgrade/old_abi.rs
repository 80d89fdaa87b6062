//! Description of an older ABI version, by what differs from this one.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::super::{
    map_shapes::{FLOWS, MAP_SHAPES, MapShape},
    pins::Pins,
    resize::OldEntry,
};

/// An older ABI version whose maps this program takes over.
pub(super) struct OldAbi {
    pub(super) version: u32,
    /// Its maps with another layout or meaning. All others are the same in both versions: the programs of both share
    /// them, so nothing that packets change meanwhile can be missed.
    pub(super) changed: &'static [ChangedMap],
    /// The entries of its flow table, if they have another layout. The new version then gets a table of its own, which
    /// is filled as in a resize.
    pub(super) flow_entry: Option<OldEntry>,
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
    /// The maps that both versions share.
    pub(super) fn shared(&self) -> impl Iterator<Item = &'static MapShape> {
        let is_changed = |name| self.changed.iter().any(|changed| changed.shape.name == name);
        let is_shared = move |name| !is_changed(name) && (name != FLOWS || self.flow_entry.is_none());
        MAP_SHAPES.iter().filter(move |shape| is_shared(shape.name))
    }

    /// Checks that all maps are pinned and have the shapes of this version.
    ///
    /// # Errors
    /// A map is missing, or has another shape.
    pub(super) fn verify(&self, pins: &Pins) -> Result<()> {
        let changed = self.changed.iter().map(|changed| &changed.shape);
        for shape in changed.chain(self.shared()) {
            shape
                .verify(&pins.map(shape.name))
                .with_context(|| format!("cannot take over the maps of ABI version {}", self.version))?;
        }
        Ok(())
    }
}
