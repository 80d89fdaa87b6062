//! State that the event loop publishes for the API.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::time::Instant;

use super::status::{ListenerOutages, ServerDetails, ServerOverrides};
use crate::neigh::vips::VipStates;
use slb_api::types::{self, ApiOverride};
use slb_config::Config;
use slb_control::{dataplane::state::MapState, source_usage::SourceUsage};

/// State that the event loop published last.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The actual state of the maps.
    pub state: Arc<MapState>,
    /// Explanations of servers' health.
    pub details: ServerDetails,
    /// Overrides of servers.
    pub set: ServerOverrides,
    /// Listeners without a server that receives new flows.
    pub outages: ListenerOutages,
    /// Used ports of local addresses, as of the last GC pass.
    pub sources: Arc<SourceUsage>,
    /// The configuration.
    pub running: ActiveConfig,
}

/// The active configuration and its state.
#[derive(Debug, Clone)]
pub struct ActiveConfig {
    /// The configuration.
    pub config: Arc<Config>,
    /// When it is rolled back unless it is confirmed.
    pub confirm_deadline: Option<Instant>,
    /// The change that waits for its servers.
    pub pending: Option<PendingChange>,
    /// Overrides.
    pub overrides: Vec<ApiOverride>,
    /// Why no override can be set, if so.
    pub overrides_trouble: Option<String>,
    /// State of VIPs on this host.
    pub vips: VipStates,
    /// Configured names of the interfaces that forward.
    pub attached: BTreeSet<String>,
}

/// A change that becomes active once its servers are known.
#[derive(Debug, Clone)]
pub struct PendingChange {
    /// `start`, `reload`, `apply` or `rollback`.
    pub change: &'static str,
    /// What it waits for, in words.
    pub waits_for: Vec<String>,
    /// The latest time at which it becomes active.
    pub ends: Instant,
}

impl PendingChange {
    /// Seconds until the latest time at which it becomes active, rounded up.
    pub fn seconds_left(&self) -> u64 {
        self.ends.saturating_duration_since(Instant::now()).as_secs_f64().ceil() as u64
    }

    /// Converts to the API's document.
    pub(super) fn document(&self) -> types::ApiPendingChange {
        let Self { change, waits_for, .. } = self;
        types::ApiPendingChange {
            change: (*change).to_owned(),
            waits_for: waits_for.clone(),
            at_most_seconds: self.seconds_left(),
        }
    }
}

impl Snapshot {
    /// The snapshot of a daemon that has not applied anything yet.
    pub fn new(config: Arc<Config>) -> Self {
        Self {
            state: Arc::default(),
            details: ServerDetails::new(),
            set: BTreeMap::new(),
            outages: ListenerOutages::new(),
            sources: Arc::default(),
            running: ActiveConfig {
                config,
                confirm_deadline: None,
                pending: None,
                overrides: Vec::new(),
                overrides_trouble: None,
                vips: VipStates::default(),
                attached: BTreeSet::new(),
            },
        }
    }
}
