//! The data plane as the control plane sees it: its state as comparable values, and the trait of what holds it.
//!
//! Invariant: only the event loop applies operations.

pub mod digest;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
pub mod rehome;
pub mod state;

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use slb_common::{
    abi::{Address, flow::ClientPath},
    datapath::flow_gc::{FlushResult, GcAction, GcPass},
};

use rehome::RehomeMap;
use state::{FlowRecord, MapState, Operation};

/// A data plane that holds a [`MapState`].
pub trait DataPlane {
    /// Reads the actual state. It does not read the slots of server tables back: their content is unknown.
    fn observe(&self) -> anyhow::Result<MapState>;

    /// Reads the current backend of each slot of a table, and the previous backends of migrating slots.
    fn table(&self, id: u32) -> anyhow::Result<TableContents>;

    /// Runs a GC pass: shows `visit` every entry that could be read, and erases expired ones. `visit` decides each
    /// entry's fate. `hz` is jiffies per second.
    fn run_gc(&mut self, hz: u32, visit: &mut dyn FnMut(FlowRecord) -> GcAction) -> anyhow::Result<GcPass>;

    /// Number of slots of the flow table.
    fn flow_slots(&self) -> u32;

    /// Erases the entries in `slots` that `matches` chooses, or only counts them if not `erases`. `hz` is jiffies per
    /// second.
    fn flush(
        &mut self,
        slots: Range<u32>,
        erases: bool,
        hz: u32,
        matches: &mut FlushPredicate<'_>,
    ) -> anyhow::Result<FlushResult>;

    /// Writes connection counts, by server id.
    fn put_connection_counts(&mut self, connection_counts: &BTreeMap<u32, u64>) -> anyhow::Result<()>;

    /// Rehomes flows to other server entries.
    fn rehome_flows(&mut self, moves: &RehomeMap) -> anyhow::Result<()>;

    /// Replaces the client paths of flows for which `to` returns one. Returns the number of changed entries.
    fn update_client_paths(&mut self, to: &NewPath<'_>) -> anyhow::Result<usize>;

    /// Counts flows that were evicted or could not be tracked although they may predate their table's last change.
    fn evictions(&self) -> anyhow::Result<u64>;
    /// Counts answers dropped because their client's neighbour was not resolved.
    fn unresolved(&self) -> anyhow::Result<u64> {
        Ok(0)
    }

    /// Applies one operation.
    fn apply(&mut self, operation: &Operation) -> anyhow::Result<()>;
}

/// Maps a client address and the present client path of a flow to the new path; `None` keeps the path.
pub type NewPath<'a> = dyn Fn(&Address, ClientPath) -> Option<ClientPath> + 'a;

/// Whether a flush erases an entry.
pub type FlushPredicate<'a> = dyn FnMut(&FlowRecord) -> bool + 'a;

/// Current backend by slot, and the migrating slots with their previous backends.
pub type TableContents = (Arc<[u32]>, Vec<(u32, u32)>);
