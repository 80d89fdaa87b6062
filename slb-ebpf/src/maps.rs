//! The maps. Their names are part of the pins' paths. The loader sets the sizes that the configuration decides.

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray},
    macros::btf_map,
};
use slb_common::abi::{
    DEFAULT_BACKENDS, MAX_INTERFACES, MAX_LOOKUP_TABLES, MAX_SERVICES, access_list,
    backend::{Backend, NextHop},
    control::Control,
    flow::WORDS,
    fragment::{FragmentKey, FragmentRecord, MAX_FRAGMENTED},
    interface::{Interface, MAX_OWN_MACS, SLOTS},
    lookup_table::LookupTable,
    programs::TailCalled,
    service::{Service, ServiceIndex},
    shared_word::SharedWord,
    source::{FLOWS_PER_BUCKET, SourceBucket},
    stats::{Counters, LimitDrops, Totals},
    syn_cookie::{OffsetKey, SequenceOffset},
    token_bucket::TokenBuckets,
};
use slb_common::datapath::metadata::Metadata;

/// BPF_F_MMAPABLE: the daemon reads entries without a system call for each. Entries lie on cache lines of their own.
const MMAPABLE: usize = 1 << 10;
/// BPF_F_NO_PREALLOC: elements take memory when they are written.
const NO_PREALLOC: usize = 1;

/// The programs that `slb` tail-calls. Each load of the object has its own array.
#[btf_map]
pub(crate) static PROGRAMS: ProgramArray<{ TailCalled::NAMES.len() }> = ProgramArray::new();
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
/// Networks of access lists, by [`AccessKey`](slb_common::abi::access_list::AccessKey).
#[btf_map]
pub(crate) static ACCESS_LISTS: LpmTrie<[u32; 5], u32, { access_list::MAX_ENTRIES as usize }> =
    LpmTrie::new();
/// Servers that QUIC connection IDs name, by [`quic_key`](slb_common::abi::quic::quic_key): handles.
#[btf_map]
pub(crate) static QUIC_SERVERS: HashMap<u64, u64, { 2 * DEFAULT_BACKENDS as usize }, NO_PREALLOC> =
    HashMap::new();
#[btf_map]
pub(crate) static FLOWS: Array<[SharedWord; WORDS], 1024, MMAPABLE> = Array::new();
/// Slots of [`FLOWS`] less one, as the loader sets it. A constant of each program, so that a program over one flow
/// table can replace a program over another one.
// LLVM merges equal constants, and the loader would change them all. It does not merge constants in a named section.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
pub(crate) static FLOW_MASK: u32 = 0;
/// Where replies find source-translated flows: a bucket for each [`FLOWS_PER_BUCKET`] slots of [`FLOWS`].
#[btf_map]
pub(crate) static SOURCES: Array<SourceBucket, { 1024 / FLOWS_PER_BUCKET as usize }, MMAPABLE> = Array::new();
/// Not 0 while the daemon copies flows into [`FLOWS`] from a flow table of another size.
#[btf_map]
pub(crate) static RESIZING: Array<SharedWord, 1> = Array::new();
/// Round-robin position of each service: its new flows so far.
#[btf_map]
pub(crate) static ROUND_ROBIN: Array<SharedWord, { MAX_SERVICES as usize }> = Array::new();
/// Token buckets of limited services. Mappable only for the alignment.
#[btf_map]
pub(crate) static TOKEN_BUCKETS: Array<TokenBuckets, { MAX_SERVICES as usize }, MMAPABLE> = Array::new();
/// Connection count of each server, for least connections.
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
/// Where first fragments went. Each load of the object has its own map.
#[btf_map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FragmentRecord, MAX_FRAGMENTED> = LruHashMap::new();
/// Sequence offsets of flows that began with a SYN cookie.
#[btf_map]
pub(crate) static SEQUENCE_OFFSETS: HashMap<OffsetKey, SequenceOffset, 1024, NO_PREALLOC> = HashMap::new();
/// Metadata of the current frame, per processor.
#[btf_map]
pub(crate) static METADATA: PerCpuArray<Metadata, 1> = PerCpuArray::new();
/// Metadata of the packet that the current ICMP error embeds, per processor.
#[btf_map]
pub(crate) static EMBEDDED: PerCpuArray<Metadata, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static TOTALS: PerCpuArray<Totals, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static SERVICE_COUNTERS: PerCpuArray<Counters, { MAX_SERVICES as usize }> = PerCpuArray::new();
#[btf_map]
pub(crate) static LIMIT_DROPS: PerCpuArray<LimitDrops, { MAX_SERVICES as usize }> = PerCpuArray::new();
#[btf_map]
pub(crate) static BACKEND_COUNTERS: PerCpuArray<Counters, { DEFAULT_BACKENDS as usize }> = PerCpuArray::new();
