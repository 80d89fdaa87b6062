//! The maps. Names are part of the pins; sizes of what configuration decides are set by the loader.

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, DevMapHash, HashMap, PerCpuArray, ProgramArray},
    macros::btf_map,
};
use slb_common::abi::{
    DEFAULT_BACKENDS, MAX_INTERFACES, MAX_LOOKUP_TABLES, MAX_SERVICES,
    backend::{Backend, NextHop},
    control::Control,
    flow::WORDS,
    interface::{Interface, MAX_OWN_MACS, SLOTS},
    lookup_table::LookupTable,
    programs,
    service::{Service, ServiceIndex},
    shared_word::SharedWord,
    stats::{Counters, Totals},
};
use slb_common::net::parse::Packet;

use crate::route::Lookup;

/// BPF_F_MMAPABLE: the daemon reads it without a system call for each entry, and entries lie on cache lines of their own.
const MMAPABLE: usize = 1 << 10;

/// The programs that `slb` tail-calls: each load of the object has its own.
#[btf_map]
pub(crate) static PROGRAMS: ProgramArray<{ programs::COUNT as usize }> = ProgramArray::new();
#[btf_map]
pub(crate) static CONTROL: Array<Control, 1> = Array::new();
#[btf_map]
pub(crate) static SERVICE_INDEX: ArrayOfMaps<Array<ServiceIndex, 1>, 1> = ArrayOfMaps::new();
#[btf_map]
pub(crate) static SERVICES: Array<Service, { MAX_SERVICES as usize }> = Array::new();
#[btf_map]
pub(crate) static LOOKUP_TABLES: ArrayOfMaps<Array<LookupTable, 1>, { MAX_LOOKUP_TABLES as usize }> =
    ArrayOfMaps::new();
#[btf_map]
pub(crate) static BACKENDS: Array<Backend, { DEFAULT_BACKENDS as usize }> = Array::new();
#[btf_map]
pub(crate) static NEXT_HOPS: Array<NextHop, { 2 * DEFAULT_BACKENDS as usize + 1 }> = Array::new();
#[btf_map]
pub(crate) static FLOWS: Array<[SharedWord; WORDS], 1024, MMAPABLE> = Array::new();
/// Slots of [`FLOWS`] less one, as the loader sets it. A constant of each program, so that a program over one flow table can
/// replace a program over another one.
// LLVM merges equal constants, and the loader would change them all. It merges none whose section is named.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
pub(crate) static FLOW_MASK: u32 = 0;
/// Not zero while the daemon copies flows into [`FLOWS`] from a flow table of another size.
#[btf_map]
pub(crate) static RESIZING: Array<SharedWord, 1> = Array::new();
/// New flows so far of each service whose servers take turns.
#[btf_map]
pub(crate) static ROUND_ROBIN: Array<SharedWord, { MAX_SERVICES as usize }> = Array::new();
/// Flows of each server, where that is of use.
#[btf_map]
pub(crate) static CONNECTIONS: Array<SharedWord, { DEFAULT_BACKENDS as usize }> = Array::new();
#[btf_map]
pub(crate) static INTERFACES: DevMapHash<{ MAX_INTERFACES as usize }> = DevMapHash::new();
/// Interfaces that run the program, by [`slot`](slb_common::abi::interface::slot).
#[btf_map]
pub(crate) static INTERFACE_TABLE: Array<Interface, { SLOTS as usize }, MMAPABLE> = Array::new();
/// Further hardware addresses of interfaces, by [`own_mac_key`](slb_common::abi::interface::own_mac_key).
#[btf_map]
pub(crate) static OWN_MACS: HashMap<u64, u64, { MAX_OWN_MACS as usize }> = HashMap::new();
/// What has been read of the frame in hand, on each processor.
#[btf_map]
pub(crate) static PACKET: PerCpuArray<Packet, 1> = PerCpuArray::new();
/// What the kernel is asked for a route by, and what it answers, on each processor.
#[btf_map]
pub(crate) static ROUTE: PerCpuArray<Lookup, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static TOTALS: PerCpuArray<Totals, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static SERVICE_COUNTERS: PerCpuArray<Counters, { MAX_SERVICES as usize }> = PerCpuArray::new();
#[btf_map]
pub(crate) static BACKEND_COUNTERS: PerCpuArray<Counters, { DEFAULT_BACKENDS as usize }> = PerCpuArray::new();
