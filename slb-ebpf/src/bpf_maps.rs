//! Implements the packet path's [`Maps`] over maps and helpers.

use core::ptr::null_mut;

use aya_ebpf::{
    bindings::xdp_md,
    btf_maps::lpm_trie::Key,
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns},
};
use slb_common::{
    abi::{
        Address, Handle,
        access_list::AccessKey,
        backend::{Backend, NextHop},
        flow::{ClientPath, FlowEntry},
        fragment::{FragmentKey, FragmentRecord},
        interface::{self, Interface},
        lookup_table::LookupTable,
        quic::quic_key,
        service::{Service, ServiceIndex},
        shared_word::SharedWord,
        source::SourceBucket,
        stats::{Action, Counters, GeneratedPacket, REASONS},
        token_bucket::{Limit, TokenBuckets},
    },
    datapath::{
        maps::{Direction, Maps},
        parse::Packet,
    },
    net::vlan::Vlan,
    opaque::{masked, opaque},
};

use crate::{
    maps::{
        ACCESS_LISTS, BACKEND_COUNTERS, BACKENDS, CONNECTIONS, CONTROL, FLOW_MASK, FLOWS, FRAGMENTS,
        INTERFACE_TABLE, INTERFACES, LIMIT_DROPS, LOOKUP_TABLES, NEXT_HOPS, OWN_MACS, QUIC_SERVERS, RESIZING,
        ROUND_ROBIN, SERVICE_COUNTERS, SERVICE_INDEX, SERVICES, SOURCES, TOKEN_BUCKETS, TOTALS,
    },
    route,
};

/// The maps of this program, and the kernel's context of its run. The context is null where no helper needs it.
pub(crate) struct BpfMaps(pub(crate) *mut xdp_md);

/// The maps without a context.
pub(crate) const BPF_MAPS: BpfMaps = BpfMaps(null_mut());

impl Maps for BpfMaps {
    #[inline(always)]
    fn index(&self) -> Option<&ServiceIndex> {
        SERVICE_INDEX.get_value(0, &0)
    }

    #[inline(always)]
    fn service(&self, id: u32) -> Option<&Service> {
        SERVICES.get(id)
    }

    #[inline(always)]
    fn lookup_table(&self, id: u32) -> Option<&LookupTable> {
        LOOKUP_TABLES.get_value(id, &0)
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<&Backend> {
        BACKENDS.get(id)
    }

    #[inline(always)]
    fn is_listed(&self, access_list: u32, client: &Address) -> bool {
        let [high, low] = client.halves();
        slb_is_listed(access_list.into(), high, low) != 0
    }

    #[inline(always)]
    fn quic_server(&self, lookup_table: u32, server_id: u32) -> Option<Handle> {
        let server = slb_quic_server(quic_key(lookup_table, server_id));
        if server == 0 { None } else { Some(Handle(server)) }
    }

    #[inline(always)]
    fn next_hop(&self, id: u32) -> Option<&NextHop> {
        NEXT_HOPS.get(id)
    }

    #[inline(always)]
    fn flow_mask(&self) -> u32 {
        // Volatile: the loader sets the value, which the compiler does not know.
        // SAFETY: a valid static, read-only once the program is loaded.
        unsafe { (&raw const FLOW_MASK).read_volatile() }
    }

    #[inline(always)]
    fn flow(&self, slot: u32) -> Option<FlowEntry<'_>> {
        FLOWS.get(slot).map(FlowEntry::new)
    }

    #[inline(always)]
    fn source_bucket(&self, bucket: u32) -> Option<&SourceBucket> {
        SOURCES.get(bucket)
    }

    #[inline(always)]
    fn is_resizing(&self) -> bool {
        RESIZING.get(0).is_some_and(|resizing| resizing.load() != 0)
    }

    #[inline(always)]
    fn flow_seed(&self) -> u64 {
        CONTROL.get(0).map_or(0, |control| control.flow_seed)
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        // SAFETY: takes nothing and returns a number.
        unsafe { bpf_jiffies64() as u32 }
    }

    #[inline(always)]
    fn round_robin_position(&self, service: u32) -> Option<&SharedWord> {
        ROUND_ROBIN.get(service)
    }

    #[inline(always)]
    fn token_buckets(&self, number: u32) -> Option<&TokenBuckets> {
        TOKEN_BUCKETS.get(number)
    }

    #[inline(always)]
    fn nanoseconds(&self) -> u64 {
        // SAFETY: takes nothing and returns a number.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn connection_count(&self, backend: u32) -> Option<&SharedWord> {
        CONNECTIONS.get(backend)
    }

    #[inline(always)]
    fn interface_at(&self, slot: u32) -> Option<&Interface> {
        INTERFACE_TABLE.get(slot)
    }

    #[inline(always)]
    fn is_own_mac(&self, ifindex: u32, mac: u64) -> bool {
        slb_is_own_mac(interface::own_mac_key(ifindex, mac)) != 0
    }

    #[inline(always)]
    fn vlan_device(&self, ifindex: u32, vlan: Vlan) -> u32 {
        slb_vlan_device(interface::own_mac_key(ifindex, vlan.as_mac())) as u32
    }

    #[inline(always)]
    fn route_to_client(&self, packet: &Packet) -> ClientPath {
        ClientPath(opaque(slb_route_to_client(self.0, packet)))
    }

    #[inline(always)]
    fn link_of_client(&self, packet: &Packet) -> u32 {
        slb_link_of_client(self.0, packet) as u32
    }

    #[inline(always)]
    fn redirect(&self, ifindex: u32) -> bool {
        INTERFACES.redirect(ifindex, 0).is_ok()
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentRecord> {
        // SAFETY: integers. Another processor may replace the record meanwhile, by that of another packet if the map is
        // full: its server is compared with the entry of that id, and the receiver drops a fragment that is not its own.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn put_fragment(&self, key: &FragmentKey, record: &FragmentRecord) {
        // A full map replaces another record. Without a record later fragments are dropped.
        let _ = FRAGMENTS.insert(key, record, 0);
    }

    #[inline(always)]
    fn remove_fragment(&self, key: &FragmentKey) {
        // Most first fragments have no record.
        let _ = FRAGMENTS.remove(key);
    }

    #[inline(always)]
    fn count(&self, action: Action, reason: u32) {
        if let Some(totals) = TOTALS.get_ptr_mut(0) {
            let action = masked::<{ Action::ALL.len() }>(action as u64);
            let reason = masked::<REASONS>(reason.into());
            // SAFETY: this processor's own copy; XDP programs do not interrupt each other on one processor.
            unsafe { (*totals).packets[action][reason] += 1 };
        }
    }

    #[inline(always)]
    fn may_send(&self, what: GeneratedPacket, hz: u32) -> bool {
        // SAFETY: as above.
        TOTALS
            .get_ptr_mut(0)
            .is_some_and(|totals| unsafe { (*totals).limits[what as usize].allow(self.now(), hz) })
    }

    #[inline(always)]
    fn count_evicted_migrating(&self) {
        if let Some(totals) = TOTALS.get_ptr_mut(0) {
            // SAFETY: as above.
            unsafe { (*totals).evicted_migrating += 1 };
        }
    }

    #[inline(always)]
    fn count_evicted(&self, is_assured: bool) {
        if let Some(totals) = TOTALS.get_ptr_mut(0) {
            // SAFETY: as above.
            unsafe {
                (*totals).evicted += u64::from(!is_assured);
                (*totals).evicted_assured += u64::from(is_assured);
            }
        }
    }

    #[inline(always)]
    fn count_over_limit(&self, service: u32, limit: Limit) {
        if let Some(drops) = LIMIT_DROPS.get_ptr_mut(service) {
            // SAFETY: as above.
            unsafe { *(*drops).of(limit) += 1 };
        }
    }

    #[inline(always)]
    fn count_service(&self, id: u32, direction: Direction, bytes: usize, new_flow: bool) {
        add(SERVICE_COUNTERS.get_ptr_mut(id), direction, bytes, new_flow);
    }

    #[inline(always)]
    fn count_backend(&self, id: u32, direction: Direction, bytes: usize, new_flow: bool) {
        add(BACKEND_COUNTERS.get_ptr_mut(id), direction, bytes, new_flow);
    }
}

#[inline(always)]
fn add(counters: Option<*mut Counters>, direction: Direction, bytes: usize, new_flow: bool) {
    let Some(counters) = counters else { return };
    // SAFETY: this processor's own copy, as above.
    let counters = unsafe { &mut *counters };
    match direction {
        Direction::In => {
            counters.packets_in += 1;
            counters.bytes_in += bytes as u64;
        }
        Direction::Out => {
            counters.packets_out += 1;
            counters.bytes_out += bytes as u64;
        }
    }
    counters.new_flows += u64::from(new_flow);
}

// BPF subprograms, as those of the module `subprograms`.

/// Whether a key is in [`OWN_MACS`]. The key lies in a stack frame of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_is_own_mac(key: u64) -> u64 {
    // SAFETY: the value is not read.
    unsafe { OWN_MACS.get(key) }.is_some().into()
}

/// The value of a key in [`OWN_MACS`]; 0 without one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_vlan_device(key: u64) -> u64 {
    // SAFETY: a concurrent change replaces the element.
    unsafe { OWN_MACS.get(key) }.copied().unwrap_or(0)
}

/// The value of a key in [`QUIC_SERVERS`]; 0 without one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_quic_server(key: u64) -> u64 {
    // SAFETY: a concurrent change replaces the element.
    unsafe { QUIC_SERVERS.get(key) }.copied().unwrap_or(0)
}

/// Whether a network on an access list has the client. The key lies in a stack frame of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_is_listed(access_list: u64, high: u64, low: u64) -> u64 {
    let client = Address([high as u32, (high >> 32) as u32, low as u32, (low >> 32) as u32]);
    let key = AccessKey::client(access_list as u32, &client);
    // SAFETY: both types are a prefix length and the words of the same key, without padding.
    let key = unsafe { &*(&raw const key).cast::<Key<[u32; 5]>>() };
    ACCESS_LISTS.get(key).is_some().into()
}

/// [`route::to_client`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_route_to_client(ctx: *mut xdp_md, packet: *const Packet) -> u64 {
    // SAFETY: the verifier accepts only null or a pointer to memory of that size; maps hold integers.
    let packet = unsafe { packet.as_ref() };
    packet.and_then(|packet| route::to_client(ctx, packet)).unwrap_or_default().0
}

/// [`route::link_of_client`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_link_of_client(ctx: *mut xdp_md, packet: *const Packet) -> u64 {
    // SAFETY: as above.
    unsafe { packet.as_ref() }.and_then(|packet| route::link_of_client(ctx, packet)).unwrap_or(0).into()
}
