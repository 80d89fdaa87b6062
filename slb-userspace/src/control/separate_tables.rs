//! Keeps apart what has tables of its own: listeners that come to have the same servers, checked in the same way, could
//! share a table from now on, but then the flows of all but one would lose their servers' entries. Pure.

use std::{borrow::Cow, collections::BTreeMap};

use super::{desired::Desired, ids::key_of};
use crate::dataplane::state::{NO_TABLE, State};

/// What is desired, with a pool for each table its services have now. Pools that are added come last.
pub struct SeparateTables<'a> {
    /// It.
    pub desired: Cow<'a, Desired>,
    /// The pool that each of the added ones is a copy of.
    pub copies: Vec<usize>,
}

/// Keeps services of one pool apart whose tables differ in `held`.
pub fn apart<'a>(desired: &'a Desired, held: &State) -> SeparateTables<'a> {
    let tables: BTreeMap<_, u32> = held
        .services
        .values()
        .filter(|service| service.lookup_table != NO_TABLE)
        .map(|service| (key_of(service), service.lookup_table))
        .collect();
    let mut first: Vec<Option<u32>> = vec![None; desired.pools.len()];
    let mut added: BTreeMap<(usize, u32), usize> = BTreeMap::new();
    let mut copies = Vec::new();
    let mut moved = Vec::new();
    for (number, service) in desired.services.iter().enumerate() {
        let Some(pool) = service.pool else { continue };
        let Some(&table) = tables.get(&(service.address, service.port, service.protocol)) else { continue };
        if *first[pool].get_or_insert(table) != table {
            let copy = *added.entry((pool, table)).or_insert_with(|| {
                copies.push(pool);
                desired.pools.len() + copies.len() - 1
            });
            moved.push((number, copy));
        }
    }
    if moved.is_empty() {
        return SeparateTables { desired: Cow::Borrowed(desired), copies };
    }
    let mut desired = desired.clone();
    for pool in &copies {
        let pool = desired.pools[*pool].clone();
        desired.pools.push(pool);
    }
    for (number, copy) in moved {
        desired.services[number].pool = Some(copy);
    }
    SeparateTables { desired: Cow::Owned(desired), copies }
}
