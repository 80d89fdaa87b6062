//! Opens pinned maps.

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData};

use super::pins::Pins;

/// Opens the pinned map `name`.
///
/// # Errors
/// It is not pinned, or is of another type.
pub(super) fn open<M>(pins: &Pins, name: &str) -> Result<M>
where
    M: TryFrom<Map>,
    M::Error: std::error::Error + Send + Sync + 'static,
{
    let path = pins.map(name);
    let data = MapData::from_pin(&path).with_context(|| format!("cannot open the map {}", path.display()))?;
    Map::from_map_data(data)?.try_into().with_context(|| format!("{} is another kind of map", path.display()))
}
