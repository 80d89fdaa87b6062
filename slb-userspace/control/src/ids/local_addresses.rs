//! Slots of local addresses. An address keeps its slot, which flow-table entries name, until no flow has it. Pure.

use std::collections::BTreeSet;

use slb_common::abi::{
    Address,
    local_address::{LocalAddress, LocalAddresses, PROBES},
};

use super::MapsFull;
use crate::{
    dataplane::{local_address_table::LocalAddressTable, state::to_address},
    model::DesiredLocalAddress,
};

/// Gives the desired addresses slots. Slots in `unused` are freed if their address is no longer desired: no flow has
/// them, and no new one chooses them.
///
/// # Errors
/// [`MapsFull::LocalAddress`] if an address has no free slot.
pub(super) fn assign(
    desired: &[DesiredLocalAddress],
    actual: &LocalAddressTable,
    unused: &BTreeSet<u8>,
) -> Result<LocalAddressTable, MapsFull> {
    let mut table = LocalAddressTable { slots: actual.slots.clone(), candidates: BTreeSet::new() };
    let wanted: BTreeSet<[u32; 4]> = desired.iter().map(|local| to_address(local.address).0).collect();
    for (slot, local) in &mut table.slots {
        if unused.contains(slot) && !actual.candidates.contains(slot) && !wanted.contains(&local.address.0) {
            // Not emptied: an address behind it would not be found any more.
            *local = LocalAddress { address: LocalAddress::FREED, ..LocalAddress::default() };
        }
    }
    for local in desired {
        let address = to_address(local.address);
        let slot = slot(&table, &address).ok_or(MapsFull::LocalAddress(local.address))?;
        let (first_port, last_port) = (*local.ports.start(), *local.ports.end());
        table.slots.insert(slot, LocalAddress { address, first_port, last_port, reserved: 0 });
        table.candidates.insert(slot);
    }
    Ok(table)
}

/// The address's slot, or the first free one in which packets find it.
fn slot(table: &LocalAddressTable, address: &Address) -> Option<u8> {
    let home = LocalAddresses::home(address);
    let probes = || (0..PROBES as u8).map(|probe| home.wrapping_add(probe));
    let holds = |slot: u8| table.slots.get(&slot).map(|local| local.address);
    let is_free = |slot: &u8| holds(*slot).is_none_or(|address| address == LocalAddress::FREED);
    probes().find(|slot| holds(*slot) == Some(*address)).or_else(|| probes().find(is_free))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn local(n: u32) -> DesiredLocalAddress {
        DesiredLocalAddress { address: IpAddr::from((0xc000_0200 + n).to_be_bytes()), ports: 1024..=9999 }
    }

    fn find(table: &LocalAddressTable, local: &DesiredLocalAddress) -> Option<u8> {
        let mut written = LocalAddresses::EMPTY;
        table.write(&mut written);
        written.find(&to_address(local.address))
    }

    /// Addresses with the same home.
    fn neighbours(number: usize) -> Vec<DesiredLocalAddress> {
        let home = |local: &DesiredLocalAddress| LocalAddresses::home(&to_address(local.address));
        let first = home(&local(0));
        (0..).map(local).filter(|local| home(local) == first).take(number).collect()
    }

    #[test]
    fn addresses_keep_their_slots_and_are_found() {
        let all = neighbours(PROBES);
        let none = BTreeSet::new();
        let both = assign(&all[..2], &LocalAddressTable::default(), &none).unwrap();
        let slots = [&all[0], &all[1]].map(|local| find(&both, local).unwrap());
        assert_eq!(both.candidates, BTreeSet::from(slots));
        let second = assign(&all[1..2], &both, &none).unwrap();
        assert_eq!(second.candidates, BTreeSet::from([slots[1]]));
        assert_eq!(
            [&all[0], &all[1]].map(|local| find(&second, local).unwrap()),
            slots,
            "flows may have both"
        );
        let changed = DesiredLocalAddress { ports: 1024..=2000, ..all[0].clone() };
        let back = assign(&[all[1].clone(), changed], &second, &none).unwrap();
        assert_eq!(back.candidates, BTreeSet::from(slots));
        assert_eq!(back.slots[&slots[0]].last_port, 2000);
    }

    #[test]
    fn slot_is_freed_when_no_flow_has_it_and_given_to_another_address() {
        let all = neighbours(PROBES + 1);
        let full = assign(&all[..PROBES], &LocalAddressTable::default(), &BTreeSet::new()).unwrap();
        let slot = find(&full, &all[2]).unwrap();
        let mut rest = all[..PROBES].to_vec();
        rest.remove(2);
        // The GC pass does not know yet that new flows no longer choose it.
        let removed = assign(&rest, &full, &BTreeSet::from([slot])).unwrap();
        assert_eq!(find(&removed, &all[2]), Some(slot));

        let other = &all[PROBES];
        let mut with_other = rest.clone();
        with_other.push(other.clone());
        let refused = assign(&with_other, &removed, &BTreeSet::new()).unwrap_err();
        assert_eq!(refused, MapsFull::LocalAddress(other.address));
        assert!(refused.to_string().contains(&other.address.to_string()), "{refused}");

        let freed = assign(&rest, &removed, &BTreeSet::from([slot])).unwrap();
        assert_eq!((find(&freed, &all[2]), freed.slots[&slot].address), (None, LocalAddress::FREED));
        assert!(rest.iter().all(|local| find(&freed, local).is_some()), "also behind the freed slot");
        let given = assign(&with_other, &freed, &BTreeSet::new()).unwrap();
        assert_eq!(find(&given, other), Some(slot));
    }
}
