//! The data plane: what the XDP program forwards by, as values that can be compared, and the maps that hold it.
//!
//! Invariants: aya is used in [`bpf`] and nowhere else; only the control loop applies operations.

pub mod bpf;
pub mod digest;
pub mod interfaces;
pub mod rehome;
pub mod state;

#[cfg(test)]
pub(crate) mod fake;

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use slb_common::{
    abi::{Address, flow::ClientPath},
    datapath::flow_gc::{Fate, Flushed, Look},
};

use rehome::Rehomed;
use state::{Operation, Remembered, State};

/// Something that holds a [`State`].
pub trait DataPlane {
    /// What it holds now. Contents of server tables are not read back: a table found is of unknown content.
    fn observe(&self) -> anyhow::Result<State>;

    /// The owners of a table's slots, and the keepers of those that have changed hands.
    fn table(&self, id: u32) -> anyhow::Result<Contents>;

    /// Shows every flow that is remembered, but for those that could not be read, and erases those that nobody needs any
    /// more; `hz` is jiffies in a second. `visit` says what becomes of each.
    fn flows(&mut self, hz: u32, visit: &mut dyn FnMut(Remembered) -> Fate) -> anyhow::Result<Look>;

    /// Slots of the flow table in use.
    fn flow_slots(&self) -> u32;

    /// Erases those entries in these slots of the flow table that `takes` chooses; without `erases` it counts them only. `hz` is
    /// jiffies in a second.
    fn flush(
        &mut self,
        slots: Range<u32>,
        erases: bool,
        hz: u32,
        takes: &mut Takes<'_>,
    ) -> anyhow::Result<Flushed>;

    /// Says how many flows servers have, by their ids.
    fn put_loads(&mut self, loads: &BTreeMap<u32, u64>) -> anyhow::Result<()>;

    /// Has flows be with other servers' entries than they are.
    fn move_flows(&mut self, moves: &Rehomed) -> anyhow::Result<()>;

    /// Replaces the links of flows, where `to` returns another one for the client and its link. Returns how many changed.
    fn move_clients(&mut self, to: &NewPath<'_>) -> anyhow::Result<usize>;

    /// How many flows have been forgotten, or could not be remembered, that may be older than the last change of their
    /// table.
    fn forgotten(&self) -> anyhow::Result<u64>;
    /// How many answers have been dropped because the neighbour of their client was not resolved.
    fn unresolved(&self) -> anyhow::Result<u64> {
        Ok(0)
    }

    /// Carries out one operation.
    fn apply(&mut self, operation: &Operation) -> anyhow::Result<()>;
}

/// The link of a flow from now on, by the address of its client and its link so far; `None` where that stays.
pub type NewPath<'a> = dyn Fn(&Address, ClientPath) -> Option<ClientPath> + 'a;

/// Whether an entry of the flow table is chosen.
pub type Takes<'a> = dyn FnMut(&Remembered) -> bool + 'a;

/// Owners by slot; slots that have changed hands, with their keepers.
pub type Contents = (Arc<[u32]>, Vec<(u32, u32)>);
