//! Keeps separate tables separate. Listeners that get equal servers and checks later could share one table. Then the
//! flows of all but one listener would lose their servers' entries. Pure.

use std::{borrow::Cow, collections::BTreeMap};

use super::{known_services::KnownServices, model::Desired};
use crate::dataplane::state::MapState;
use slb_common::abi::ids::TableId;

/// The desired state with one pool for each table that its services have now. Added pools come last.
pub struct SeparateTables<'a> {
    /// Borrowed if no pool was added.
    pub desired: Cow<'a, Desired>,
    /// For each added pool, the index of the pool that it copies.
    pub copies: Vec<usize>,
}

/// Gives each service of a pool its own copy of the pool if its table in `actual` differs from that of the first
/// service.
pub fn separate_tables<'a>(desired: &'a Desired, actual: &MapState) -> SeparateTables<'a> {
    let known = KnownServices::new(desired, actual);
    let mut first: Vec<Option<TableId>> = vec![None; desired.pools.len()];
    let mut added: BTreeMap<(usize, TableId), usize> = BTreeMap::new();
    let mut copies = Vec::new();
    let mut moved = Vec::new();
    for (number, service) in desired.services.iter().enumerate() {
        let Some(pool) = service.pool else { continue };
        let table = known.of(service).map(|(_, there)| there.table());
        let Some(table) = table.filter(|table| *table != TableId::NONE) else { continue };
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
