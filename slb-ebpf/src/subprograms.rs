//! The BPF subprograms, and the traits of the packet path that call them: [`FlowCalls`], [`ScheduleCalls`],
//! [`PathCalls`].

use aya_ebpf::bindings::xdp_md;
use slb_common::{
    abi::{
        Address, Handle,
        flow::{Client, ClientPath, FlowTag},
        service::{IndexEntry, NO_SLOT, ServiceIndex},
        stats::Reason,
        token_bucket::Limit,
    },
    datapath::{
        access, cookie_mark,
        flow_calls::FlowCalls,
        flows::{self, Allocation, Query},
        fragment_record::{self, FragmentFlow},
        insert::{self, NewFlow},
        limits,
        parse::Packet,
        path_calls::PathCalls,
        quic::NamedServer,
        schedule::{self, SchedulerResult},
        schedule_calls::ScheduleCalls,
        tracked::{self, EntryQuestion, PackedDisposition},
        unmatched::{self, UnmatchedDecision},
    },
    opaque::opaque,
};

use crate::bpf_maps::{BPF_MAPS, BpfMaps};

const BANDWIDTH_IN: u64 = Limit::BandwidthIn as u64;
const BANDWIDTH_OUT: u64 = Limit::BandwidthOut as u64;

impl FlowCalls for BpfMaps {
    #[inline(always)]
    fn find_flow(&self, query: &Query, tag: FlowTag) -> u32 {
        let [high, low, end] = query.client.words();
        slb_find_flow(high, low, end, query.home.into(), tag.0) as u32
    }

    #[inline(always)]
    fn find_answered_flow(&self, query: &Query, endpoint: u32) -> u32 {
        let [high, low, end] = query.client.words();
        slb_find_answered(high, low, end, query.home.into(), endpoint.into()) as u32
    }

    #[inline(always)]
    fn conflicting_flows(&self, query: &Query, tag: FlowTag) -> u64 {
        let [high, low, end] = query.client.words();
        slb_conflicting_flows(high, low, end, query.home.into(), tag.0)
    }

    #[inline(always)]
    fn mark_tuples_reused(&self, query: &Query, tag: FlowTag, endpoint: u32) {
        let [high, low, end] = query.client.words();
        // A subprogram takes five words.
        slb_mark_tuples_reused(high, low, end, u64::from(query.home) | u64::from(endpoint) << 32, tag.0);
    }

    #[inline(always)]
    fn slot_for_flow(&self, home: u32) -> u32 {
        slb_slot_for_flow(home.into()) as u32
    }

    #[inline(always)]
    fn allocate_source(&self, slot: u32, server: u64, request: Allocation) -> bool {
        slb_allocate_source(slot.into(), server, request.0) != 0
    }

    #[inline(always)]
    fn release_source_word(&self, bucket: u32, n: u32, was: u64, is_scarce: bool) -> bool {
        slb_release_source_word(bucket.into(), n.into(), was, is_scarce.into()) != 0
    }

    #[inline(always)]
    fn unfair_slot(&self, home: u32, prefix: u64) -> u32 {
        slb_unfair_slot(home.into(), prefix) as u32
    }
}

// Opaque: the compiler knows the range of these functions' results, and the verifier does not.

impl ScheduleCalls for BpfMaps {
    #[inline(always)]
    fn server_by_hash(&self, packet: &Packet, service: &IndexEntry, conflicts: u64) -> SchedulerResult {
        SchedulerResult(opaque(slb_server_by_hash(packet, service, conflicts)))
    }

    #[inline(always)]
    fn server_by_round_robin(
        &self,
        packet: &Packet,
        service: &IndexEntry,
        conflicts: u64,
    ) -> SchedulerResult {
        SchedulerResult(opaque(slb_server_by_round_robin(packet, service, conflicts)))
    }

    #[inline(always)]
    fn server_by_connection_id(
        &self,
        packet: &Packet,
        service: &IndexEntry,
        conflicts: u64,
        named: NamedServer,
    ) -> SchedulerResult {
        SchedulerResult(opaque(slb_server_by_connection_id(packet, service, conflicts, named.0)))
    }

    #[inline(always)]
    fn affinity_server(&self, packet: &Packet, service: &IndexEntry, conflicts: u64) -> SchedulerResult {
        SchedulerResult(opaque(slb_affinity_server(packet, service, conflicts)))
    }

    #[inline(always)]
    fn set_affinity(
        &self,
        packet: &Packet,
        service: &IndexEntry,
        conflicts: u64,
        chosen: SchedulerResult,
    ) -> SchedulerResult {
        SchedulerResult(opaque(slb_set_affinity(packet, service, conflicts, chosen.0)))
    }
}

impl PathCalls for BpfMaps {
    #[inline(always)]
    fn listener_slot(&self, index: &ServiceIndex, address: &Address, port: u16, protocol: u8) -> u32 {
        let [high, low] = address.halves();
        let end = u64::from(port) | u64::from(protocol) << 16;
        opaque(slb_listener_slot(index, high, low, end)) as u32
    }

    #[inline(always)]
    fn find_range(&self, index: &ServiceIndex, address: &Address, port: u16, protocol: u8) -> u32 {
        let [high, low] = address.halves();
        let end = u64::from(port) | u64::from(protocol) << 16;
        opaque(slb_find_range(index, high, low, end)) as u32
    }

    #[inline(always)]
    fn record_fragment(&self, packet: &Packet, server: Handle, client: ClientPath, flow: FragmentFlow) {
        slb_record_fragment(packet, server.0, client.0, flow.word());
    }

    #[inline(always)]
    fn mark_cookie_flow(&self, packet: &Packet, service: &IndexEntry) {
        slb_mark_cookie_flow(packet, service);
    }

    #[inline(always)]
    fn source_refusal(&self, packet: &Packet, service: &IndexEntry) -> u32 {
        opaque(slb_source_refusal(packet, service)) as u32
    }

    #[inline(always)]
    fn unmatched(&self, packet: &Packet, reason: u32) -> UnmatchedDecision {
        UnmatchedDecision(opaque(slb_unmatched(packet, reason.into())))
    }

    #[inline(always)]
    fn take_tokens(&self, service: u32, limit: Limit, amount: u32) -> bool {
        slb_take_tokens(service.into(), limit as u64, amount.into()) != 0
    }

    #[inline(always)]
    fn flow_disposition(
        &self,
        packet: &Packet,
        service: &IndexEntry,
        arrival: ClientPath,
        question: EntryQuestion,
    ) -> PackedDisposition {
        PackedDisposition(opaque(slb_flow_disposition(self.0, packet, service, arrival.0, question.0)))
    }

    #[inline(always)]
    fn insert_flow(&self, packet: &Packet, service: &IndexEntry, arrival: ClientPath, new: NewFlow) -> bool {
        slb_insert_flow(self.0, packet, service, arrival.0, new.0) != 0
    }
}

// BPF subprograms: global functions, which the verifier follows once for any arguments, not once for each caller. Their
// names are exported for that reason alone.

/// [`flows::find`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_find_flow(high: u64, low: u64, end: u64, home: u64, tag: u64) -> u64 {
    flows::find(&query(high, low, end, home), FlowTag(tag), &BPF_MAPS).into()
}

/// [`flows::find_answered`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_find_answered(high: u64, low: u64, end: u64, home: u64, endpoint: u64) -> u64 {
    flows::find_answered(&query(high, low, end, home), endpoint as u32, &BPF_MAPS).into()
}

/// [`flows::conflicts`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_conflicting_flows(high: u64, low: u64, end: u64, home: u64, tag: u64) -> u64 {
    flows::conflicts(&query(high, low, end, home), FlowTag(tag), &BPF_MAPS)
}

/// [`flows::mark_tuple_reused`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_mark_tuples_reused(high: u64, low: u64, end: u64, home_and_endpoint: u64, tag: u64) -> u64 {
    let (query, endpoint) = (query(high, low, end, home_and_endpoint), (home_and_endpoint >> 32) as u32);
    flows::mark_tuple_reused(&query, FlowTag(tag), endpoint, &BPF_MAPS);
    // A global function must return a number.
    0
}

/// Defines a subprogram that takes the packet, its service and numbers.
macro_rules! scheduling {
    ($name:ident($($number:ident),+) = $function:path, $($argument:expr),+) => {
        #[doc = concat!("[`", stringify!($function), "`].")]
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $name(packet: *const Packet, service: *const IndexEntry, $($number: u64),+) -> u64 {
            // SAFETY: the verifier accepts only null or a pointer to memory of that size; maps hold integers.
            match unsafe { (packet.as_ref(), service.as_ref()) } {
                (Some(packet), Some(service)) => $function(packet, service, $($argument),+, &BPF_MAPS).0,
                _ => SchedulerResult::NO_SERVER.0,
            }
        }
    };
}

scheduling!(slb_server_by_hash(conflicts) = schedule::by_hash, conflicts);
scheduling!(slb_server_by_round_robin(conflicts) = schedule::by_round_robin, conflicts);
scheduling!(
    slb_server_by_connection_id(conflicts, named) = schedule::by_connection_id,
    conflicts,
    NamedServer(named)
);
scheduling!(slb_affinity_server(conflicts) = schedule::affinity_server, conflicts);
scheduling!(slb_set_affinity(conflicts, chosen) = schedule::set_affinity, conflicts, SchedulerResult(chosen));

/// [`ServiceIndex::listener_slot`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_listener_slot(index: *const ServiceIndex, high: u64, low: u64, end: u64) -> u64 {
    let address = Address([high as u32, (high >> 32) as u32, low as u32, (low >> 32) as u32]);
    // SAFETY: the verifier accepts only null or a pointer to memory of that size; maps hold integers.
    let index = unsafe { index.as_ref() };
    index.map_or(NO_SLOT, |index| index.listener_slot(&address, end as u16, (end >> 16) as u8)).into()
}

/// [`ServiceIndex::find_range`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_find_range(index: *const ServiceIndex, high: u64, low: u64, end: u64) -> u64 {
    let address = Address([high as u32, (high >> 32) as u32, low as u32, (low >> 32) as u32]);
    // SAFETY: the verifier accepts only null or a pointer to memory of that size; maps hold integers.
    let index = unsafe { index.as_ref() };
    index.map_or(NO_SLOT, |index| index.find_range(&address, end as u16, (end >> 16) as u8)).into()
}

/// [`fragment_record::record`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_record_fragment(packet: *const Packet, server: u64, client: u64, flow: u64) -> u64 {
    // SAFETY: the verifier accepts only null or a pointer to memory of that size; maps hold integers.
    if let Some(packet) = unsafe { packet.as_ref() } {
        let flow = FragmentFlow::of_word(flow);
        fragment_record::record(packet, Handle(server), ClientPath(client), flow, &BPF_MAPS);
    }
    // A global function must return a number.
    0
}

/// [`cookie_mark::mark_flow`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_mark_cookie_flow(packet: *const Packet, service: *const IndexEntry) -> u64 {
    // SAFETY: the verifier accepts only null or a pointer to memory of that size; maps hold integers.
    if let (Some(packet), Some(service)) = unsafe { (packet.as_ref(), service.as_ref()) } {
        cookie_mark::mark_flow(packet, service, &BPF_MAPS);
    }
    // A global function must return a number.
    0
}

/// [`unmatched::decide`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_unmatched(packet: *const Packet, reason: u64) -> u64 {
    // SAFETY: the verifier accepts only null or a pointer to memory of that size; maps hold integers.
    unsafe { packet.as_ref() }.map_or(0, |packet| unmatched::decide(packet, reason as u32, &BPF_MAPS).0)
}

/// [`access::source_refusal`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_source_refusal(packet: *const Packet, service: *const IndexEntry) -> u64 {
    // SAFETY: the verifier accepts only null or a pointer to memory of that size; maps hold integers.
    match unsafe { (packet.as_ref(), service.as_ref()) } {
        (Some(packet), Some(service)) => access::source_refusal(packet, service, &BPF_MAPS).into(),
        _ => Reason::NotReady as u64,
    }
}

/// [`limits::take`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_take_tokens(service: u64, limit: u64, amount: u64) -> u64 {
    let limit = match limit {
        BANDWIDTH_IN => Limit::BandwidthIn,
        BANDWIDTH_OUT => Limit::BandwidthOut,
        _ => Limit::NewConnections,
    };
    limits::take(service as u32, limit, amount as u32, &BPF_MAPS).into()
}

/// [`flows::find_slot`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_slot_for_flow(home: u64) -> u64 {
    flows::find_slot(home as u32, &BPF_MAPS).into()
}

/// [`tracked::disposition`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_flow_disposition(
    ctx: *mut xdp_md,
    packet: *const Packet,
    service: *const IndexEntry,
    arrival: u64,
    question: u64,
) -> u64 {
    // SAFETY: the verifier accepts only null or a pointer to memory of that size; maps hold integers.
    match unsafe { (packet.as_ref(), service.as_ref()) } {
        (Some(packet), Some(service)) => {
            let question = EntryQuestion(question);
            tracked::disposition(packet, service, ClientPath(arrival), question, &BpfMaps(ctx)).0
        }
        _ => PackedDisposition::NO_ENTRY.0,
    }
}

/// [`insert::insert`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_insert_flow(
    ctx: *mut xdp_md,
    packet: *const Packet,
    service: *const IndexEntry,
    arrival: u64,
    new: u64,
) -> u64 {
    // SAFETY: the verifier accepts only null or a pointer to memory of that size; maps hold integers.
    match unsafe { (packet.as_ref(), service.as_ref()) } {
        (Some(packet), Some(service)) => {
            insert::insert(packet, service, ClientPath(arrival), NewFlow(new), &BpfMaps(ctx)).into()
        }
        _ => 0,
    }
}

/// [`flows::allocate_source`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_allocate_source(slot: u64, server: u64, request: u64) -> u64 {
    flows::allocate_source(slot as u32, server, Allocation(request), &BPF_MAPS).into()
}

/// [`flows::release_word`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_release_source_word(bucket: u64, n: u64, was: u64, is_scarce: u64) -> u64 {
    flows::release_word(bucket as u32, n as u32, was, is_scarce != 0, &BPF_MAPS).into()
}

/// [`flows::find_unfair_slot`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_unfair_slot(home: u64, prefix: u64) -> u64 {
    flows::find_unfair_slot(home as u32, prefix, &BPF_MAPS).into()
}

#[inline(always)]
const fn query(high: u64, low: u64, end: u64, home: u64) -> Query {
    Query { client: Client::from_words([high, low, end]), home: home as u32 }
}
