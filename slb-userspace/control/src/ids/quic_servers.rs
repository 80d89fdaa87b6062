//! QUIC server IDs: which server each one names. A removed server keeps its ID for as long as it drains, unless a
//! configured server has the ID now.

use std::collections::BTreeMap;

use slb_common::abi::{Handle, backend::Backend, ids::TableId};

use crate::dataplane::{quic_server::QuicServerKey, state::MapState};

/// How well a server serves the connections that name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Dead,
    /// It is alive.
    Alive,
    /// It takes new flows.
    AcceptsNew,
}

impl Rank {
    const fn of(server: &Backend) -> Self {
        if !server.is_alive() {
            Self::Dead
        } else if server.flags & Backend::ACCEPTS_NEW == 0 {
            Self::Alive
        } else {
            Self::AcceptsNew
        }
    }
}

/// Servers by server table and QUIC server ID.
pub(super) struct QuicServerIds {
    /// The IDs of each server in the maps: more than one after a change that failed.
    actual: BTreeMap<Handle, Vec<u32>>,
    servers: BTreeMap<QuicServerKey, (Handle, Rank)>,
}

impl QuicServerIds {
    pub(super) fn new(actual: &MapState) -> Self {
        let mut ids: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (key, server) in &actual.quic_servers {
            ids.entry(*server).or_default().push(key.server_id);
        }
        Self { actual: ids, servers: BTreeMap::new() }
    }

    /// Adds a configured server of a table. An IPv4 and an IPv6 server with one ID are one machine: of them, the one of the
    /// higher rank has it.
    pub(super) fn put_configured(&mut self, table: TableId, server_id: Option<u32>, server: &Backend) {
        let Some(server_id) = server_id else { return };
        let rank = Rank::of(server);
        let (named, best) =
            self.servers.entry(QuicServerKey { table, server_id }).or_insert((server.handle, rank));
        if rank > *best {
            (*named, *best) = (server.handle, rank);
        }
    }

    /// Adds a server that is no longer configured, after the configured servers of its table. `before` is its handle in
    /// the maps.
    pub(super) fn keep(&mut self, table: TableId, before: Handle, server: Handle) {
        for server_id in self.actual.get(&before).into_iter().flatten().copied() {
            self.servers.entry(QuicServerKey { table, server_id }).or_insert((server, Rank::Dead));
        }
    }

    /// The servers by key.
    pub(super) fn into_map(self) -> BTreeMap<QuicServerKey, Handle> {
        self.servers.into_iter().map(|(key, (server, _))| (key, server)).collect()
    }
}
