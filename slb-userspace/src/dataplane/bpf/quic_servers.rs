//! The map of the servers that QUIC connection IDs name.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, MapData, MapError};
use slb_common::abi::Handle;
use slb_control::dataplane::quic_server::QuicServerKey;

use super::{access_lists::is_missing, pinned_map, pins::Pins};

/// Name of the map.
pub(super) const NAME: &str = "QUIC_SERVERS";

/// Handles of servers, by server table and server ID.
pub(super) struct QuicServers(HashMap<MapData, u64, u64>);

impl QuicServers {
    /// Opens the map behind its pin.
    pub(super) fn open(pins: &Pins) -> Result<Self> {
        pinned_map::open(pins, NAME).map(Self)
    }

    /// Writes servers.
    pub(super) fn put(&mut self, servers: &[(QuicServerKey, Handle)]) -> Result<()> {
        for (key, server) in servers {
            self.0
                .insert(key.number(), server.0, 0)
                .with_context(|| format!("cannot write the QUIC server ID {}", key.server_id))?;
        }
        Ok(())
    }

    /// Removes servers.
    pub(super) fn clear(&mut self, keys: &[QuicServerKey]) -> Result<()> {
        for key in keys {
            match self.0.remove(&key.number()) {
                // An earlier attempt has removed it.
                Err(error) if is_missing(&error) => {}
                removed => {
                    removed.with_context(|| format!("cannot remove the QUIC server ID {}", key.server_id))?;
                }
            }
        }
        Ok(())
    }

    /// Reads all servers.
    pub(super) fn read(&self) -> Result<BTreeMap<QuicServerKey, Handle>> {
        let servers: Result<BTreeMap<u64, u64>, MapError> = self.0.iter().collect();
        let servers = servers.context("cannot read the QUIC server IDs")?;
        Ok(servers.into_iter().map(|(key, server)| (QuicServerKey::of(key), Handle(server))).collect())
    }
}
