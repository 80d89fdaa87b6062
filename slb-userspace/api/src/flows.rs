//! Documents of the API about the flow table.

use serde::{Deserialize, Serialize};

/// `POST /v1/flows/flush`: filters of the flow-table entries to erase. An entry must match all given filters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Flush {
    /// Address or prefix of clients.
    pub client: Option<String>,
    /// VIP, with or without a port.
    pub vip: Option<String>,
    /// `LOAD_BALANCER/LISTENER`.
    pub listener: Option<String>,
    /// Server, with or without a port.
    pub server: Option<String>,
    /// Only entries that are not assured.
    pub not_assured: bool,
    /// Every entry. Required if no other filter is given.
    pub all: bool,
    /// Count the entries, and erase none.
    pub dry_run: bool,
}

/// Result of a flush: the answer to `POST /v1/flows/flush`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flushed {
    /// Number of erased entries; in a dry run, of those that would be erased.
    pub entries: u64,
    /// Number of entries that were locked by packets at each attempt. They were not erased.
    pub locked: u64,
}
