//! Digests of all that decides which server a flow reaches, to compare nodes. Pure.
//!
//! Two nodes with the same configuration, `hash_seed` and health have the same digests. Ids, slots of the index and
//! earlier changes do not matter. Previous backends of migrating slots are left out, because they depend on a node's
//! history.

use std::{collections::BTreeMap, fmt};

use slb_common::{
    abi::{
        backend::Backend,
        lookup_table::{NO_BACKEND, current_backend},
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

/// Content of a server table.
#[derive(Debug, Clone)]
pub struct TableDigest {
    /// Number of slots of each server, by id.
    pub slots: BTreeMap<u32, u32>,
    digest: u64,
    /// The same with the weights that `wlc` compares.
    weighted: u64,
}

impl TableDigest {
    /// From the slots of the table `table`. `backends` are the servers of all tables.
    pub fn new(slots: &[u32], table: u32, backends: &BTreeMap<u32, Backend>) -> Self {
        let mut known: BTreeMap<u32, (u64, u32)> = BTreeMap::new();
        let mut digest = slots.len() as u64;
        for slot in slots {
            let id = current_backend(*slot);
            let (name, count) = known.entry(id).or_insert_with(|| (name_of(backends.get(&id)), 0));
            *count += 1;
            digest = step(digest, *name);
        }
        // A table without servers has no slots unless some migrate.
        if known.keys().all(|id| *id == NO_BACKEND) {
            digest = 0;
        }
        let mut takes_new: Vec<_> = backends
            .values()
            .filter(|backend| backend.lookup_table == table && backend.flags & Backend::ACCEPTS_NEW != 0)
            .map(|backend| (name_of(Some(backend)), u64::from(backend.effective_weight)))
            .collect();
        takes_new.sort_unstable();
        let weighted = takes_new
            .into_iter()
            .fold(digest, |h, (name, effective_weight)| step(step(h, name), effective_weight));
        let slots = known.into_iter().map(|(id, (_, slots))| (id, slots)).collect();
        Self { slots, digest: mix(digest), weighted: mix(weighted) }
    }

    /// Digest of a service that uses this table. `seed` is the seed of the flow hash.
    pub fn of_service(&self, service: &Service, seed: u64) -> Digest {
        let salt = salt(seed, &service.address, service.port, service.protocol);
        let table = if service.policy & policy::LEAST_CONNECTIONS != 0 { self.weighted } else { self.digest };
        Digest(mix(step(step(salt, (service.policy & SCHEDULING).into()), table)))
    }
}

/// The digest of several services, whatever their order.
pub fn all<'a>(services: impl IntoIterator<Item = (&'a Service, Digest)>) -> Digest {
    let mut sorted: Vec<_> = services
        .into_iter()
        .map(|(service, digest)| {
            (service.address.halves(), u16::from_be(service.port), service.protocol, digest.0)
        })
        .collect();
    sorted.sort_unstable();
    Digest(mix(sorted.iter().fold(sorted.len() as u64, |h, (.., digest)| step(h, *digest))))
}

/// A hash of the server's endpoint, equal on every node; 0 for none.
fn name_of(backend: Option<&Backend>) -> u64 {
    backend.map_or(0, |backend| {
        let [high, low] = backend.address.halves();
        mix(mix(mix(high).wrapping_add(low)) ^ u64::from(backend.port))
    })
}

const fn step(h: u64, word: u64) -> u64 {
    (h.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
