//! Maps of a loaded program, found by its id.

use anyhow::{Context as _, Result};
use aya::{
    maps::{Map, MapData, MapInfo},
    programs::loaded_programs,
};

/// The maps of a program.
///
/// # Errors
/// The program is not loaded any more.
pub(super) fn maps_of(program: u32) -> Result<Vec<MapInfo>> {
    let info = loaded_programs()
        .find_map(|info| info.map(|info| (info.id() == program).then_some(info)).transpose())
        .with_context(|| format!("program {program} is gone"))??;
    let ids = info.map_ids()?.unwrap_or_default();
    Ok(ids.into_iter().map(MapInfo::from_id).collect::<Result<_, _>>()?)
}

/// Opens the map with this name and value size; `None` if the program has none.
pub(super) fn open(maps: &[MapInfo], name: &str, value_size: usize) -> Result<Option<Map>> {
    let is_it = |map: &&MapInfo| map.name_as_str() == Some(name) && map.value_size() as usize == value_size;
    let open = |map: &MapInfo| Ok(Map::from_map_data(MapData::from_id(map.id())?)?);
    maps.iter().find(is_it).map(open).transpose()
}
