//! The maps. Names are part of the pins; sizes of what configuration decides are set by the loader.

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, DevMapHash, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use slb_common::abi::{
    MAX_BACKENDS, MAX_INTERFACES, MAX_NEXT_HOPS, MAX_RINGS, MAX_SERVICES,
    backend::{Backend, NextHop},
    control::Control,
    flow::{Flow, FlowKey},
    ring::Ring,
    service::{Service, ServiceIndex},
    stats::{Counters, Totals},
};

#[btf_map]
pub(crate) static CONTROL: Array<Control, 1> = Array::new();
#[btf_map]
pub(crate) static SERVICE_INDEX: Array<ServiceIndex, 2> = Array::new();
#[btf_map]
pub(crate) static SERVICES: Array<Service, { MAX_SERVICES as usize }> = Array::new();
#[btf_map]
pub(crate) static RINGS: ArrayOfMaps<Array<Ring, 1>, { MAX_RINGS as usize }> = ArrayOfMaps::new();
#[btf_map]
pub(crate) static BACKENDS: Array<Backend, { MAX_BACKENDS as usize }> = Array::new();
#[btf_map]
pub(crate) static NEXT_HOPS: Array<NextHop, { MAX_NEXT_HOPS as usize }> = Array::new();
#[btf_map]
pub(crate) static FLOWS: LruHashMap<FlowKey, Flow, 1024> = LruHashMap::new();
#[btf_map]
pub(crate) static INTERFACES: DevMapHash<{ MAX_INTERFACES as usize }> = DevMapHash::new();
#[btf_map]
pub(crate) static TOTALS: PerCpuArray<Totals, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static SERVICE_COUNTERS: PerCpuArray<Counters, { MAX_SERVICES as usize }> = PerCpuArray::new();
#[btf_map]
pub(crate) static BACKEND_COUNTERS: PerCpuArray<Counters, { MAX_BACKENDS as usize }> = PerCpuArray::new();
