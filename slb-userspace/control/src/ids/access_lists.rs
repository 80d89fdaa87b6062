//! Ids of access lists. The content of a list never changes under its id, so a packet finds the whole old list or the
//! whole new one: its service's index entry names one or the other.

use std::collections::{BTreeMap, HashMap};

use slb_common::abi::{access_list::MAX_LISTS, ids::AccessListId};

use super::MapsFull;
use crate::{
    dataplane::{access_list::Networks, state::MapState},
    model::Desired,
};

/// The lists that services use, each with its id. Equal lists share an id.
pub(super) struct AccessLists(HashMap<Networks, AccessListId>);

impl AccessLists {
    /// Assigns the ids. A list that the maps hold keeps its id, and an id in the maps gets no other list.
    ///
    /// # Errors
    /// [`MapsFull`] if no id is free.
    pub(super) fn assign(desired: &Desired, actual: &MapState) -> Result<Self, MapsFull> {
        let known: HashMap<_, _> = actual.access_lists.iter().map(|(id, networks)| (networks, *id)).collect();
        let mut free =
            (1..=MAX_LISTS).map(AccessListId::new).filter(|id| !actual.access_lists.contains_key(id));
        let mut assigned = HashMap::new();
        let lists = desired.services.iter().filter_map(|service| Some(&service.access.as_ref()?.networks));
        for networks in lists.filter(|networks| !networks.is_empty()) {
            if !assigned.contains_key(networks) {
                let id = known.get(networks).copied().or_else(|| free.next());
                let id = id.ok_or(MapsFull::Entries { what: "access lists", limit: MAX_LISTS })?;
                assigned.insert(networks.clone(), id);
            }
        }
        Ok(Self(assigned))
    }

    /// The id of a list.
    pub(super) fn id_of(&self, networks: &Networks) -> AccessListId {
        // The empty list is in no map.
        self.0.get(networks).copied().unwrap_or(AccessListId::EMPTY)
    }

    /// The lists by id.
    pub(super) fn into_map(self) -> BTreeMap<AccessListId, Networks> {
        self.0.into_iter().map(|(networks, id)| (id, networks)).collect()
    }
}
