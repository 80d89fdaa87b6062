//! The inputs of a server table, and how it is built from them.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use slb_common::{abi::ids::BackendId, maglev, round_robin};

use super::digest::SlotSummary;

/// The inputs of a server table.
#[derive(Debug, Clone, Default)]
pub struct TableSpec {
    /// Number of slots, a prime.
    pub slots: u32,
    /// Seed of the table.
    pub seed: u64,
    /// The servers that receive new flows.
    pub members: Vec<TableMember>,
    /// How they share the slots.
    pub order: SlotOrder,
    /// Follows from the other fields. Set when the table is first built.
    pub summary: OnceLock<SlotSummary>,
}

impl PartialEq for TableSpec {
    fn eq(&self, other: &Self) -> bool {
        let Self { slots, seed, members, order, summary: _ } = self;
        (slots, seed, members, order) == (&other.slots, &other.seed, &other.members, &other.order)
    }
}

impl Eq for TableSpec {}

/// How servers share the slots of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SlotOrder {
    /// Maglev: a flow's hash leads to its slot. Few slots are reassigned when the servers change.
    #[default]
    Maglev,
    /// Round robin: new flows receive the slots in turn.
    RoundRobin,
}

/// A server in a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableMember {
    /// Id of the server in the maps.
    pub backend: BackendId,
    /// Endpoint, from which the table is computed, so that all nodes compute the same one.
    pub address: SocketAddr,
    /// Weight, 1 to 100.
    pub weight: u8,
}

impl TableSpec {
    /// Computes the current backend of each slot; [`BackendId::NONE`] in every slot if there is no member.
    pub fn build(&self) -> Arc<[BackendId]> {
        if self.members.is_empty() {
            return vec![BackendId::NONE; self.slots as usize].into();
        }
        let slots = self.members_of_slots();
        self.summary.get_or_init(|| self.summarize(&slots));
        let current_backend = |member: u16| {
            self.members.get(usize::from(member)).map_or(BackendId::NONE, |member| member.backend)
        };
        slots.into_iter().map(current_backend).collect()
    }

    /// What the slots say. Builds the table if this process has not built it.
    pub fn summary(&self) -> &SlotSummary {
        self.summary.get_or_init(|| {
            if self.members.is_empty() {
                return SlotSummary::default();
            }
            self.summarize(&self.members_of_slots())
        })
    }

    fn summarize(&self, slots: &[u16]) -> SlotSummary {
        let servers = self.members.iter().map(|TableMember { backend, address, .. }| (*backend, *address));
        SlotSummary::built(slots, &servers.collect::<Vec<_>>())
    }

    /// Index of the member that has each slot.
    fn members_of_slots(&self) -> Vec<u16> {
        if self.order == SlotOrder::RoundRobin {
            let weights: Vec<_> = self.members.iter().map(|member| member.weight).collect();
            return round_robin::build(self.slots, &weights);
        }
        let names: Vec<_> = self.members.iter().map(|member| member.address.to_string()).collect();
        let members: Vec<_> = names
            .iter()
            .zip(&self.members)
            .map(|(name, member)| maglev::Member { name: name.as_bytes(), weight: member.weight })
            .collect();
        maglev::build(self.slots, self.seed, &members)
    }
}
