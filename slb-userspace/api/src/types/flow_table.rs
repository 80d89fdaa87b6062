//! The flow table of the status.

use serde::{Deserialize, Serialize};

/// The flow table: use, and evictions since the maps were made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowTableStatus {
    /// Capacity in entries.
    pub entries: u64,
    /// Entries in use, including affinity entries.
    pub used: u64,
    /// Assured flows, which are not evicted for flows that are not assured.
    pub assured: u64,
    /// Evicted live flows that were not assured.
    pub evicted: u64,
    /// Evicted assured flows. Their clients had far more than a fair share of a full table.
    pub evicted_assured: u64,
}
