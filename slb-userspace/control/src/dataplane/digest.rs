//! Digests of all that decides which server a flow reaches, to compare nodes. Pure.
//!
//! Two nodes with the same configuration, `hash_seed` and health have the same digests. Ids, slots of the index and
//! earlier changes do not matter. Previous backends of migrating slots are left out, because they depend on a node's
//! history.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use slb_common::{
    abi::{
        Address,
        backend::Backend,
        ids::BackendId,
        service::{Service, policy},
    },
    hash::{mix, salt},
};

/// Policy bits that decide how a flow reaches its slot, besides the hash.
const SCHEDULING: u32 = policy::BY_CLIENT | policy::ROUND_ROBIN | policy::LEAST_CONNECTIONS | policy::PERSIST;

/// A digest of 64 bits. Its text is 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(u64);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Digest {
    /// The digest as a number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The digest of a service whose connection IDs name these servers, each with its server ID. Removed servers are left
    /// out: they depend on a node's history.
    #[must_use]
    pub fn with_server_ids<'a>(
        self,
        service: &Service,
        servers: impl IntoIterator<Item = (u32, &'a Backend)>,
    ) -> Self {
        if !service.policies().has(policy::QUIC) {
            return self;
        }
        let configured = servers.into_iter().filter(|(_, backend)| backend.flags & Backend::REMOVED == 0);
        // Their ids are in order.
        let named = configured.map(|(id, backend)| (u64::from(id), hash_of_backend(Some(backend))));
        Self(named.fold(step(self.0, service.quic.into()), |h, (id, server)| step(step(h, id), server)))
    }
}

/// What the slots of a server table say: how many each server has, and a digest of their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotSummary {
    /// Number of slots of each server, by id.
    slots: BTreeMap<BackendId, u32>,
    digest: u64,
}

impl SlotSummary {
    /// Of a table whose slots hold indexes of `servers`; another index is a slot without a server. Each server has its
    /// id and endpoint.
    pub(super) fn built(slots: &[u16], servers: &[(BackendId, SocketAddr)]) -> Self {
        let hashes: Vec<u64> = servers.iter().map(|(_, endpoint)| hash_of_endpoint(*endpoint)).collect();
        let mut counts = vec![0_u32; servers.len()];
        let mut digest = slots.len() as u64;
        for slot in slots {
            let server = usize::from(*slot);
            if let Some(count) = counts.get_mut(server) {
                *count += 1;
            }
            digest = step(digest, hashes.get(server).copied().unwrap_or(0));
        }
        let by_id = servers.iter().map(|(id, _)| *id).zip(counts).filter(|(_, count)| *count > 0);
        Self::new(by_id.collect(), digest)
    }

    /// Of slots that were read from a table. `backends` are the servers of all tables.
    pub fn read(
        slots: impl ExactSizeIterator<Item = BackendId>,
        backends: &BTreeMap<BackendId, Backend>,
    ) -> Self {
        let mut known: BTreeMap<BackendId, (u64, u32)> = BTreeMap::new();
        let mut digest = slots.len() as u64;
        for id in slots {
            let (hash, count) = known.entry(id).or_insert_with(|| (hash_of_backend(backends.get(&id)), 0));
            *count += 1;
            digest = step(digest, *hash);
        }
        known.remove(&BackendId::NONE);
        Self::new(known.into_iter().map(|(id, (_, slots))| (id, slots)).collect(), digest)
    }

    fn new(slots: BTreeMap<BackendId, u32>, digest: u64) -> Self {
        // A table without servers has no slots unless some migrate.
        let digest = if slots.is_empty() { 0 } else { digest };
        Self { slots, digest }
    }

    /// Number of slots of a server, by id.
    pub fn slots_of(&self, backend: BackendId) -> u32 {
        self.slots.get(&backend).copied().unwrap_or(0)
    }

    /// Digest of a service that uses this table. `servers` are those of the table; `seed` is the seed of the flow hash.
    pub fn of_service<'a>(
        &self,
        service: &Service,
        servers: impl IntoIterator<Item = &'a Backend>,
        seed: u64,
    ) -> Digest {
        let ports = service.ports();
        // As that of its entry in the index, and both ends of a range.
        let port = if ports.is_range() { 0 } else { service.port };
        let salt = salt(seed, &service.address, port, service.protocol);
        let salt =
            if ports.is_range() { step(step(salt, ports.first().into()), ports.last().into()) } else { salt };
        // `wlc` compares the weights too.
        let table = if service.policies().has(policy::LEAST_CONNECTIONS) {
            weighted(self.digest, servers)
        } else {
            self.digest
        };
        Digest(mix(step(step(salt, (service.policy & SCHEDULING).into()), mix(table))))
    }
}

/// A table's digest with the weights of the servers that receive new flows.
fn weighted<'a>(digest: u64, servers: impl IntoIterator<Item = &'a Backend>) -> u64 {
    let takes_new = servers
        .into_iter()
        .filter(|backend| backend.flags & Backend::ACCEPTS_NEW != 0)
        .map(|backend| (hash_of_backend(Some(backend)), u64::from(backend.effective_weight)));
    let mut takes_new: Vec<_> = takes_new.collect();
    takes_new.sort_unstable();
    takes_new.into_iter().fold(digest, |h, (server, weight)| step(step(h, server), weight))
}

/// The digest of several services, whatever their order.
pub fn all<'a>(services: impl IntoIterator<Item = (&'a Service, Digest)>) -> Digest {
    let mut sorted: Vec<_> = services
        .into_iter()
        .map(|(service, digest)| (service.address.halves(), service.ports(), service.protocol, digest.0))
        .collect();
    sorted.sort_unstable();
    Digest(mix(sorted.iter().fold(sorted.len() as u64, |h, (.., digest)| step(h, *digest))))
}

/// A hash of the server's endpoint, equal on every node; 0 for none.
fn hash_of_backend(backend: Option<&Backend>) -> u64 {
    backend.map_or(0, |backend| hash_of(&backend.address, backend.port))
}

fn hash_of_endpoint(endpoint: SocketAddr) -> u64 {
    let address = match endpoint.ip() {
        IpAddr::V4(address) => Address::v4(address.octets()),
        IpAddr::V6(address) => Address::v6(address.octets()),
    };
    hash_of(&address, endpoint.port().to_be())
}

/// `port` is in network byte order.
fn hash_of(address: &Address, port: u16) -> u64 {
    let [high, low] = address.halves();
    mix(mix(mix(high).wrapping_add(low)) ^ u64::from(port))
}

const fn step(h: u64, word: u64) -> u64 {
    (h.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
