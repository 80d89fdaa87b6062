//! ABI 10. Its control map says another version, its totals have 32 reasons per action, its service index has no local
//! addresses. It has no source table: its flows have no sources of their own.

use std::{
    mem::offset_of,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, MapType, PerCpuArray, PerCpuValues};
use slb_common::abi::{
    ABI_VERSION, control::Control, local_address::LocalAddresses, service::ServiceIndex, stats::Totals,
    tunnel::Tunnel,
};

use super::{
    super::{
        inner_maps::InnerMaps,
        map_shapes::{of_maps, shape, sized},
        syscall,
    },
    old_abi::{ChangedMap, Conversion, OldAbi},
};

pub(super) const ABI: OldAbi = OldAbi {
    version: 10,
    changed: &[
        ChangedMap {
            shape: shape("CONTROL", MapType::Array, 4, 24, 1),
            conversion: Conversion::Copy(copy_control),
        },
        ChangedMap {
            shape: of_maps(SERVICE_INDEX, 8 * INDEX_WORDS, 1),
            conversion: Conversion::Copy(copy_index),
        },
        ChangedMap {
            shape: shape("TOTALS", MapType::PerCpuArray, 4, size_of::<OldTotals>(), 1),
            conversion: Conversion::Add(add_totals),
        },
    ],
    shared: &[
        shape("SERVICES", MapType::Array, 4, 256, 4096),
        of_maps("LOOKUP_TABLES", 262_168, 12_288),
        sized("BACKENDS", MapType::Array, 64),
        sized("NEXT_HOPS", MapType::Array, 24),
        shape("RESIZING", MapType::Array, 4, 8, 1),
        sized("FLOWS", MapType::Array, 64),
        shape("ROUND_ROBIN", MapType::Array, 4, 8, 4096),
        sized("CONNECTIONS", MapType::Array, 8),
        shape("INTERFACES", MapType::DevMapHash, 4, 8, 256),
        shape("INTERFACE_TABLE", MapType::Array, 4, 32, 65_536),
        shape("OWN_MACS", MapType::Hash, 8, 8, 8192),
        shape("SERVICE_COUNTERS", MapType::PerCpuArray, 4, 40, 4096),
        sized("BACKEND_COUNTERS", MapType::PerCpuArray, 40),
    ],
    #[cfg(test)]
    added: &["ACCESS_LISTS", "LIMIT_DROPS", "QUIC_SERVERS", "SEQUENCE_OFFSETS", "SOURCES", "TOKEN_BUCKETS"],
};

const SERVICE_INDEX: &str = "SERVICE_INDEX";
/// Words of the service index.
const INDEX_WORDS: usize = 149_510;
/// Words of it before those that later versions have added: the bits of tunnel sources that vary by flow, and the local
/// addresses.
const HEAD_WORDS: usize = 6;
/// Words that later versions have added.
const ADDED_WORDS: usize = 1 + size_of::<LocalAddresses>() / 8;

const _: () = assert!(offset_of!(ServiceIndex, tunnel) + offset_of!(Tunnel, by_flow_v4) == 8 * HEAD_WORDS);
const _: () = assert!(offset_of!(ServiceIndex, servers) == 8 * (HEAD_WORDS + ADDED_WORDS));
const _: () = assert!(size_of::<ServiceIndex>() == 8 * (INDEX_WORDS + ADDED_WORDS));

/// Actions.
const ACTIONS: usize = 4;
/// Reasons per action. Later versions append reasons.
const REASONS: usize = 32;
/// Words of the packets by action and reason, which come first.
const PACKETS: usize = ACTIONS * REASONS;
/// Totals of one CPU: packets, three counters of evictions, five rate limiters.
type OldTotals = [u64; PACKETS + 3 + 5];

/// Copies the control map: last generation and seeds, under this version.
fn copy_control(old: &Path, new: &Path) -> Result<()> {
    let mut control = Control::default();
    let map = open(old)?;
    syscall::look_up(map.fd().as_fd(), 0, &mut control)
        .with_context(|| format!("cannot read {}", old.display()))?;
    // 0 means that no daemon has configured the maps yet.
    if control.abi_version != 0 {
        control.abi_version = ABI_VERSION;
    }
    let copy = MapData::from_fd(syscall::array_of(&control)?)?;
    copy.pin(new).with_context(|| format!("cannot pin {}", new.display()))
}

/// Copies the service index, with zeros for what later versions have added. Each index is an inner map of its own.
fn copy_index(old: &Path, new: &Path) -> Result<()> {
    let mut before = boxed::<INDEX_WORDS>();
    let copy = MapData::from_fd(syscall::array_of_maps(SERVICE_INDEX, size_of::<ServiceIndex>(), 1)?)?;
    if InnerMaps::new(open(old)?)?.read(0, before.as_mut())? {
        let mut index = boxed::<{ INDEX_WORDS + ADDED_WORDS }>();
        index[..HEAD_WORDS].copy_from_slice(&before[..HEAD_WORDS]);
        index[HEAD_WORDS + ADDED_WORDS..].copy_from_slice(&before[HEAD_WORDS..]);
        let inner = syscall::array_of(index.as_ref())?;
        syscall::update_batch(copy.fd().as_fd(), &[0], &[inner.as_raw_fd() as u32])
            .context("cannot copy the service index")?;
    }
    copy.pin(new).with_context(|| format!("cannot pin {}", new.display()))
}

/// Words that are zero. On the heap: they are too many for a stack.
fn boxed<const WORDS: usize>() -> Box<[u64; WORDS]> {
    // SAFETY: zero is valid for integers.
    unsafe { Box::new_zeroed().assume_init() }
}

/// Adds packets and evictions. The rate limiters of the new map are in use and stay.
fn add_totals(old: &Path, new: &Path) -> Result<()> {
    let old: PerCpuArray<_, OldTotals> = Map::from_map_data(open(old)?)?.try_into()?;
    let mut new: PerCpuArray<_, Totals> = Map::from_map_data(open(new)?)?.try_into()?;
    let (before, now) = (old.get(&0, 0)?, new.get(&0, 0)?);
    let sums = now.iter().zip(before.iter()).map(|(now, before)| sum(*now, before)).collect::<Vec<_>>();
    new.set(0, PerCpuValues::try_from(sums)?, 0).context("cannot add up the totals of packets")
}

fn sum(mut now: Totals, before: &OldTotals) -> Totals {
    let (packets, rest) = before.split_at(PACKETS);
    for (sums, packets) in now.packets.iter_mut().zip(packets.chunks_exact(REASONS)) {
        sums.iter_mut().zip(packets).for_each(|(sum, packets)| *sum += packets);
    }
    let evictions = [&mut now.evicted_migrating, &mut now.evicted, &mut now.evicted_assured];
    evictions.into_iter().zip(rest).for_each(|(sum, evicted)| *sum += evicted);
    now
}

fn open(path: &Path) -> Result<MapData> {
    MapData::from_pin(path).with_context(|| format!("cannot open the map {}", path.display()))
}

#[cfg(test)]
mod tests {
    use slb_common::abi::stats::{Action, Reason};

    use super::*;

    #[test]
    fn totals_of_abi_10_are_added_by_action_and_reason() {
        let mut before: OldTotals = std::array::from_fn(|n| n as u64);
        before[PACKETS + 3] = u64::MAX;
        let mut now = Totals::default();
        now.packets[Action::Drop as usize][Reason::OtherHost as usize] = 1000;
        let sum = sum(now, &before);
        for action in Action::ALL {
            for reason in Reason::ALL.iter().filter(|reason| (**reason as usize) < REASONS) {
                let own = if (*action, *reason) == (Action::Drop, Reason::OtherHost) { 1000 } else { 0 };
                let expected = own + (*action as u64) * REASONS as u64 + *reason as u64;
                assert_eq!(sum.packets[*action as usize][*reason as usize], expected);
            }
        }
        let evicted = PACKETS as u64;
        let sums = [sum.evicted_migrating, sum.evicted, sum.evicted_assured];
        assert_eq!(sums, [evicted, evicted + 1, evicted + 2]);
        assert_eq!(sum.limits, Totals::default().limits);
    }
}
