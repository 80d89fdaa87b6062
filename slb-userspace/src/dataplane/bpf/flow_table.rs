//! The pinned flow table, as the GC thread reads and writes it.

use std::{os::fd::AsFd as _, sync::Arc};

use anyhow::Result;
use aya::maps::{Array, MapData};
use slb_common::{
    abi::{
        Handle,
        backend::Backend,
        control::Control,
        ids::{BackendId, TableId},
        lookup_table::LookupTable,
        time::Jiffies,
    },
    datapath::flow_gc::{Clock, FlowGc, FlowTable, FlushResult, GcAction, GcEntry, GcPass},
};

use super::{
    flows,
    inner_maps::InnerMaps,
    mapped_array::MappedArray,
    pinned_map,
    pins::Pins,
    sequence_offsets::{CookieFlows, SequenceOffsets},
    syscall,
};
use slb_control::dataplane::{
    FlowTableAccess, FlushPredicate, GcVisitor, NewPath,
    rehome::{self, RehomeMap},
    state::FlowRecord,
};

/// Slots scanned between two calls of `between_ticks`: 4 MiB, some milliseconds.
const SLOTS_PER_TICK: u32 = 1 << 16;

/// The pinned flow table, and the maps that decisions about its entries need. One value at a time may write the table:
/// see [`FlowGc`].
pub struct PinnedFlowTable {
    flows: MappedArray,
    control: Array<MapData, Control>,
    lookup_tables: InnerMaps<LookupTable>,
    backends: MapData,
    flow_gc: FlowGc,
    sequence_offsets: SequenceOffsets,
}

impl PinnedFlowTable {
    /// Opens the maps behind the pins.
    ///
    /// # Errors
    /// A pin is missing, or the flow table cannot be mapped into memory.
    pub fn open(pins: &Pins) -> Result<Self> {
        Ok(Self {
            flows: MappedArray::open(&pins.map("FLOWS"))?,
            control: pinned_map::open(pins, "CONTROL")?,
            lookup_tables: InnerMaps::new(MapData::from_pin(pins.map("LOOKUP_TABLES"))?)?,
            backends: MapData::from_pin(pins.map("BACKENDS"))?,
            flow_gc: FlowGc::default(),
            sequence_offsets: SequenceOffsets::open(pins)?,
        })
    }

    /// The flow table, mapped into memory.
    ///
    /// # Errors
    /// The seed of its hash cannot be read.
    pub fn table(&self) -> Result<FlowTable<'_>> {
        Ok(FlowTable::new(self.flows.slots(), self.control.get(&0, 0)?.flow_seed))
    }

    /// Runs a GC pass at one time, which the caller gives.
    ///
    /// # Errors
    /// As [`Self::table`].
    pub fn gc_pass(
        &mut self,
        clock: Clock,
        visit: &mut dyn FnMut(&GcEntry<'_>) -> GcAction,
    ) -> Result<GcPass> {
        let seed = self.control.get(&0, 0)?.flow_seed;
        let table = FlowTable::new(self.flows.slots(), seed);
        Ok(self.flow_gc.gc_pass(&table, clock, visit))
    }
}

/// Whether the server's entry in the map says that it is terminating now.
fn is_terminating(backends: &MapData, server: Handle) -> bool {
    let mut backend = Backend::default();
    syscall::look_up(backends.fd().as_fd(), server.id(), &mut backend).unwrap_or(false)
        && backend.handle == server
        && backend.flags & Backend::TERMINATING != 0
}

impl FlowTableAccess for PinnedFlowTable {
    fn slots(&self) -> u32 {
        self.flows.slots().len() as u32
    }

    fn run_gc(
        &mut self,
        state_read: Jiffies,
        hz: u32,
        visit: &mut GcVisitor<'_>,
        between_ticks: &mut dyn FnMut(),
    ) -> Result<GcPass> {
        let mut clock = flows::clock(hz)?;
        let slots = self.slots();
        let table = FlowTable::new(self.flows.slots(), self.control.get(&0, 0)?.flow_seed);
        let is_terminating = |server: Handle| is_terminating(&self.backends, server);
        self.flow_gc.begin(&table, clock, state_read.count());
        let mut gc_pass = GcPass::default();
        let mut cookie_flows = CookieFlows::default();
        for first in (0..slots).step_by(SLOTS_PER_TICK as usize) {
            if first != 0 {
                between_ticks();
                // A pass that cannot read the clock any more goes on with the last time: flows look younger.
                clock = flows::clock(hz).unwrap_or(clock);
            }
            let part = first..first.saturating_add(SLOTS_PER_TICK);
            let mut visit = |seen: &GcEntry<'_>| {
                cookie_flows.see(seen);
                visit(FlowRecord::new(seen, clock), &is_terminating)
            };
            gc_pass.add(self.flow_gc.scan(&table, part, clock, &mut visit));
        }
        if gc_pass.unread == 0 {
            // The pass has succeeded all the same. The next one erases them.
            if let Err(error) = self.sequence_offsets.erase_ended(&cookie_flows) {
                tracing::warn!("sequence offsets of ended flows stay: {error:#}");
            }
        }
        Ok(gc_pass)
    }

    fn flush(&mut self, erases: bool, hz: u32, matches: &mut FlushPredicate<'_>) -> Result<FlushResult> {
        let clock = flows::clock(hz)?;
        Ok(self.table()?.flush(0..self.slots(), erases, &mut |seen| matches(&FlowRecord::new(seen, clock))))
    }

    fn current_backends(&self, id: TableId) -> Result<Arc<[BackendId]>> {
        let mut lookup_table = LookupTable::empty();
        self.lookup_tables.read(id.index(), lookup_table.as_mut())?;
        Ok(lookup_table.current_backends().collect())
    }

    fn rehome_flows(&mut self, moves: &RehomeMap) {
        let moved = rehome::rehome_flows(self.flows.slots(), moves);
        tracing::debug!(moved, "flows rehomed to the tables of their listeners");
    }

    fn update_client_paths(&mut self, to: &NewPath<'_>) -> usize {
        rehome::update_client_paths(self.flows.slots(), to)
    }
}
