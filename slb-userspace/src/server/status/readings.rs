//! What the status document needs from the maps besides the state.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use crate::dataplane::{
    bpf::{flows::CurrentFlows, maps::Maps},
    counters::CounterSnapshot,
};
use slb_common::abi::ids::TableId;
use slb_control::dataplane::{DataPlane as _, digest::SlotSummary, state::MapState};

/// Readings of the maps.
#[derive(Debug, Default)]
pub struct Readings {
    /// All counters.
    pub counters: CounterSnapshot,
    /// Live flows.
    pub current_flows: CurrentFlows,
    /// Tables that this process has not built, by id. A daemon has built all of them.
    pub tables: BTreeMap<TableId, SlotSummary>,
    /// Flags of interfaces, by index.
    pub roles: BTreeMap<u32, u16>,
    /// Numbers of the token buckets of services whose SYNs are answered by SYN cookies.
    pub flooded: BTreeSet<u32>,
}

impl Readings {
    /// Reads what belongs to `state`. Counters are read in batches.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub fn of(maps: &Maps, state: &MapState) -> Result<Self> {
        let services = state.services.keys().next_back().map_or(0, |last| last.index() + 1);
        let backends = state.backends.keys().next_back().map_or(0, |last| last.index() + 1);
        let unknown = state.tables.iter().filter(|(_, table)| !table.is_known());
        let tables = unknown.map(|(id, _)| Ok((*id, maps.read_summary(*id, &state.backends)?)));
        let flags = |ifindex: &u32| Some((*ifindex, maps.interface(*ifindex)?.flags));
        Ok(Self {
            counters: maps.counters(services, backends)?,
            current_flows: maps.current_flows(state.index.hz.max(1))?,
            tables: tables.collect::<Result<_>>()?,
            roles: state.interfaces.iter().filter_map(flags).collect(),
            flooded: if state.has_syn_cookies() { maps.flooded()? } else { BTreeSet::new() },
        })
    }
}
