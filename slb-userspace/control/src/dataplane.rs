//! The data plane as the control plane sees it: its state as comparable values, and the traits of what holds it.
//!
//! Invariant: only the event loop applies operations, and only the GC thread writes the flow table.

pub mod access_list;
pub mod digest;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
pub mod local_address_table;
pub mod quic_server;
pub mod rehome;
#[cfg(any(test, feature = "testing"))]
mod shared;
pub mod state;
mod table_spec;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use slb_common::{
    abi::{
        Address, Handle,
        flow::ClientPath,
        ids::{BackendId, TableId},
        time::Jiffies,
    },
    datapath::flow_gc::{FlushResult, GcAction, GcPass},
};

use crate::slot::Slot;
use rehome::RehomeMap;
use state::{FlowRecord, MapState, Operation};

/// A data plane that holds a [`MapState`].
pub trait DataPlane {
    /// Reads the actual state. It does not read the slots of server tables back: their content is unknown.
    fn observe(&self) -> anyhow::Result<MapState>;

    /// Reads the current backend of each slot of a table, and the previous backends of migrating slots.
    fn table(&self, id: TableId) -> anyhow::Result<TableContents>;

    /// Writes connection counts, by server id.
    fn put_connection_counts(&mut self, connection_counts: &BTreeMap<BackendId, u64>) -> anyhow::Result<()>;

    /// Counts flows that were evicted or could not be tracked although they may predate their table's last change.
    fn evictions(&self) -> anyhow::Result<u64>;
    /// Reads the clock of the data path.
    fn jiffies(&self) -> anyhow::Result<Jiffies>;

    /// Counts answers dropped because their client's neighbour was not resolved.
    fn unresolved(&self) -> anyhow::Result<u64> {
        Ok(0)
    }

    /// Numbers of the token buckets of services whose SYNs are answered by SYN cookies.
    fn flooded(&self) -> anyhow::Result<BTreeSet<u32>> {
        Ok(BTreeSet::new())
    }

    /// Applies one operation.
    fn apply(&mut self, operation: &Operation) -> anyhow::Result<()>;
}

/// The flow table, as the GC thread sees it: packets use it meanwhile, and no other thread of the daemon writes it.
pub trait FlowTableAccess {
    /// Number of slots.
    fn slots(&self) -> u32;

    /// Runs a GC pass: shows `visit` every entry that could be read, and erases expired ones. `visit` decides each
    /// entry's fate by the state at `state_read`; it can ask whether a server is terminating now. An affinity
    /// entry stays that was refreshed since `state_read`. `hz` is jiffies per second. `between_ticks` is called after
    /// each bounded number of slots.
    fn run_gc(
        &mut self,
        state_read: Jiffies,
        hz: u32,
        visit: &mut GcVisitor<'_>,
        between_ticks: &mut dyn FnMut(),
    ) -> anyhow::Result<GcPass>;

    /// Erases the entries that `matches` chooses, or only counts them if not `erases`. `hz` is jiffies per second.
    fn flush(
        &mut self,
        erases: bool,
        hz: u32,
        matches: &mut FlushPredicate<'_>,
    ) -> anyhow::Result<FlushResult>;

    /// Reads the current backend of each slot of a server table.
    fn current_backends(&self, id: TableId) -> anyhow::Result<Arc<[BackendId]>>;

    /// Rehomes flows to other server entries.
    fn rehome_flows(&mut self, moves: &RehomeMap);

    /// Replaces the client paths of flows for which `to` returns one. Returns the number of changed entries.
    fn update_client_paths(&mut self, to: &NewPath<'_>) -> usize;
}

/// Maps a client address and the present client path of a flow to the new path; `None` keeps the path.
pub type NewPath<'a> = dyn Fn(&Address, ClientPath) -> Option<ClientPath> + 'a;

/// Decides the fate of an entry. It can ask whether a server is terminating now.
pub type GcVisitor<'a> = dyn FnMut(FlowRecord, &dyn Fn(Handle) -> bool) -> GcAction + 'a;

/// Whether a flush erases an entry.
pub type FlushPredicate<'a> = dyn FnMut(&FlowRecord) -> bool + 'a;

/// Current backend by slot, and the migrating slots with their previous backends.
pub type TableContents = (Arc<[BackendId]>, Vec<(Slot, BackendId)>);
