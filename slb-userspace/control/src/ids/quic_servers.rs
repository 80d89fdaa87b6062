//! QUIC server IDs: which server each one names. A removed server keeps its ID for as long as it drains, unless a
//! configured server has the ID now.

use std::collections::BTreeMap;

use slb_common::abi::{Handle, backend::Backend, ids::TableId};

use crate::dataplane::{quic_server::QuicServerKey, state::MapState};

/// Servers by server table and QUIC server ID.
pub(super) struct QuicServerIds {
    /// The ID of each server in the maps.
    actual: BTreeMap<Handle, u32>,
    /// Servers, each with whether it is alive.
    servers: BTreeMap<QuicServerKey, (Handle, bool)>,
}

impl QuicServerIds {
    pub(super) fn new(actual: &MapState) -> Self {
        let actual = actual.quic_servers.iter().map(|(key, server)| (*server, key.server_id)).collect();
        Self { actual, servers: BTreeMap::new() }
    }

    /// Adds a configured server of a table. An IPv4 and an IPv6 server with one ID are one machine: of them, a server
    /// that is alive has it.
    pub(super) fn put_configured(&mut self, table: TableId, server_id: Option<u32>, server: &Backend) {
        let Some(server_id) = server_id else { return };
        let new = (server.handle, server.is_alive());
        let named = self.servers.entry(QuicServerKey { table, server_id }).or_insert(new);
        if new.1 && !named.1 {
            *named = new;
        }
    }

    /// Adds a server that is no longer configured, after the configured servers of its table. `before` is its handle in
    /// the maps.
    pub(super) fn keep(&mut self, table: TableId, before: Handle, server: Handle) {
        if let Some(server_id) = self.actual.get(&before).copied() {
            self.servers.entry(QuicServerKey { table, server_id }).or_insert((server, false));
        }
    }

    /// The servers by key.
    pub(super) fn into_map(self) -> BTreeMap<QuicServerKey, Handle> {
        self.servers.into_iter().map(|(key, (server, _))| (key, server)).collect()
    }
}
