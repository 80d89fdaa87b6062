//! A data plane that a test and the code under test share.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

use anyhow::Result;
use slb_common::datapath::flow_gc::{FlushResult, GcPass};

use super::{
    DataPlane, FlowTableAccess, FlushPredicate, GcVisitor, NewPath, TableContents,
    rehome::RehomeMap,
    state::{MapState, Operation},
};
use slb_common::abi::{
    ids::{BackendId, TableId},
    time::Jiffies,
};

impl<P: DataPlane> DataPlane for Rc<RefCell<P>> {
    fn observe(&self) -> Result<MapState> {
        self.borrow().observe()
    }

    fn table(&self, id: TableId) -> Result<TableContents> {
        self.borrow().table(id)
    }

    fn put_connection_counts(&mut self, connection_counts: &BTreeMap<BackendId, u64>) -> Result<()> {
        self.borrow_mut().put_connection_counts(connection_counts)
    }

    fn evictions(&self) -> Result<u64> {
        self.borrow().evictions()
    }

    fn jiffies(&self) -> Result<Jiffies> {
        self.borrow().jiffies()
    }

    fn unresolved(&self) -> Result<u64> {
        self.borrow().unresolved()
    }

    fn flooded(&self) -> Result<BTreeSet<u32>> {
        self.borrow().flooded()
    }

    fn apply(&mut self, operation: &Operation) -> Result<()> {
        self.borrow_mut().apply(operation)
    }
}

impl<P: FlowTableAccess> FlowTableAccess for Rc<RefCell<P>> {
    fn slots(&self) -> u32 {
        self.borrow().slots()
    }

    fn run_gc(
        &mut self,
        state_read: Jiffies,
        hz: u32,
        visit: &mut GcVisitor<'_>,
        between_ticks: &mut dyn FnMut(),
    ) -> Result<GcPass> {
        self.borrow_mut().run_gc(state_read, hz, visit, between_ticks)
    }

    fn flush(&mut self, erases: bool, hz: u32, matches: &mut FlushPredicate<'_>) -> Result<FlushResult> {
        self.borrow_mut().flush(erases, hz, matches)
    }

    fn current_backends(&self, id: TableId) -> Result<Arc<[BackendId]>> {
        self.borrow().current_backends(id)
    }

    fn rehome_flows(&mut self, moves: &RehomeMap) {
        self.borrow_mut().rehome_flows(moves);
    }

    fn update_client_paths(&mut self, to: &NewPath<'_>) -> usize {
        self.borrow_mut().update_client_paths(to)
    }
}
