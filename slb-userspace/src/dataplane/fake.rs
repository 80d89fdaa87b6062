//! A data plane in memory that refuses what would send a packet nowhere.

use anyhow::{Result, bail};
use slb_common::abi::{Reference, service::Service};

use super::{
    DataPlane,
    state::{NO_TABLE, Operation, State, Table},
};

/// Holds a [`State`]; each operation leaves it sound, or is refused.
#[derive(Debug, Default, Clone)]
pub(crate) struct Fake {
    pub(crate) state: State,
    /// Operations to carry out before one fails; `None` for no failure.
    pub(crate) fail_after: Option<usize>,
}

impl DataPlane for Fake {
    fn observe(&self) -> Result<State> {
        let mut state = self.state.clone();
        // As in the kernel, contents of tables are not read back.
        // An empty one looks like none.
        state.tables.retain(|_, table| !table.members.is_empty());
        state.tables.values_mut().for_each(|table| *table = Table::default());
        Ok(state)
    }

    fn apply(&mut self, operation: &Operation) -> Result<()> {
        match &mut self.fail_after {
            Some(0) => {
                self.fail_after = None;
                bail!("this operation was to fail");
            }
            Some(left) => *left -= 1,
            None => {}
        }
        let state = &mut self.state;
        match operation.clone() {
            Operation::PutSettings(settings) => state.settings = settings,
            Operation::PutInterface(ifindex) => drop(state.interfaces.insert(ifindex)),
            Operation::RemoveInterface(ifindex) => drop(state.interfaces.remove(&ifindex)),
            Operation::PutNextHop(id, hop) => {
                if state.backends.values().any(|backend| backend.next_hop == id) {
                    bail!("next hop {id} is in use and would change under packets");
                }
                state.next_hops.insert(id, hop);
            }
            Operation::ClearNextHop(id) => drop(state.next_hops.remove(&id)),
            Operation::PutBackend { id, backend, fresh } => {
                if let Some(old) = state.backends.get(&id)
                    && fresh != (old.reference != backend.reference)
                {
                    bail!("server {id}: fresh is {fresh}");
                }
                state.backends.insert(id, backend);
            }
            Operation::ClearBackend(id) => drop(state.backends.remove(&id)),
            Operation::PutTable(id, table) => drop(state.tables.insert(id, table)),
            Operation::ClearTable(id) => drop(state.tables.remove(&id)),
            Operation::PutService { id, service, .. } => drop(state.services.insert(id, *service)),
            Operation::Settle => {}
            Operation::ClearService(id) => drop(state.services.remove(&id)),
            Operation::PutIndex(ids) => state.indexed = ids,
        }
        sound(state)
    }
}

/// Whether everything that is pointed at is there.
fn sound(state: &State) -> Result<()> {
    for id in &state.indexed {
        let Some(Service { ring, reference, .. }) = state.services.get(id) else {
            bail!("service {id} is found and is not there");
        };
        if *reference == Reference::default() {
            bail!("service {id} has no reference");
        }
        if *ring != NO_TABLE && !state.tables.contains_key(ring) {
            bail!("service {id} points at table {ring}, which is not there");
        }
    }
    for (id, table) in &state.tables {
        for member in &table.members {
            if !state.backends.contains_key(&member.backend) {
                bail!("table {id} names server {}, which is not there", member.backend);
            }
        }
    }
    for (id, backend) in &state.backends {
        if backend.next_hop != 0 && !state.next_hops.contains_key(&backend.next_hop) {
            bail!("server {id} points at next hop {}, which is not there", backend.next_hop);
        }
    }
    Ok(())
}
