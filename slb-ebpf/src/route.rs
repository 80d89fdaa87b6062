//! Looks up the kernel's route to a client.

use aya_ebpf::{
    bindings::xdp_md, btf_maps::PerCpuArray, helpers::generated::bpf_fib_lookup, macros::btf_map,
};
use slb_common::{
    abi::{Address, flow::ClientPath, interface::slot},
    datapath::parse::Packet,
};

use crate::maps::INTERFACE_TABLE;

/// Index of `lo` in each network namespace: the lookup is that of a packet of this host. The kernel answers lookups
/// only for interfaces with forwarding, which the daemon enables for this one.
const LOOPBACK: u32 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `BPF_FIB_LKUP_RET_SUCCESS`.
const SUCCESS: i64 = 0;
/// `BPF_FIB_LKUP_RET_NO_NEIGH`: there is a route, and its neighbour is not resolved.
const NO_NEIGHBOUR: i64 = 7;

/// `struct bpf_fib_lookup`: argument and result of the lookup.
#[repr(C)]
struct FibLookup {
    family: u8,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
    /// 0: the lookup compares no MTU.
    total_length: u16,
    /// Before the lookup the incoming interface, after it the outgoing one.
    ifindex: u32,
    /// Traffic class and flow label of IPv6, TOS of IPv4.
    flow_info: u32,
    /// Source address; of IPv4 the first word.
    source: [u32; 4],
    destination: [u32; 4],
    vlan: u32,
    _source_mac: [u16; 3],
    destination_mac: [u16; 3],
}

const _: () = assert!(size_of::<FibLookup>() == 64);

/// Argument and result of a route lookup, per processor.
#[btf_map]
static ROUTE: PerCpuArray<FibLookup, 1> = PerCpuArray::new();

/// The client path for replies to a packet, as
/// [`Maps::route_to_client`](slb_common::datapath::maps::Maps::route_to_client) returns it; `None` for 0.
#[inline(always)]
pub(crate) fn to_client(ctx: *mut xdp_md, packet: &Packet) -> Option<ClientPath> {
    let (outcome, lookup) = look_up(ctx, packet)?;
    INTERFACE_TABLE.get(slot(lookup.ifindex)).filter(|out| out.ifindex() == lookup.ifindex)?;
    let [a, b, c] = lookup.destination_mac.map(u64::from);
    let mac = match outcome {
        SUCCESS => a | b << 16 | c << 32,
        NO_NEIGHBOUR => 0,
        _ => return None,
    };
    Some(ClientPath::new(lookup.ifindex, mac))
}

/// The interface on whose link the sender of a packet is, as
/// [`Maps::link_of_client`](slb_common::datapath::maps::Maps::link_of_client) returns it; `None` for 0.
#[inline(always)]
pub(crate) fn link_of_client(ctx: *mut xdp_md, packet: &Packet) -> Option<u32> {
    let (outcome, lookup) = look_up(ctx, packet)?;
    // The kernel has put a gateway in place of the destination.
    let is_v4 = packet.source.is_v4();
    let [a, b, c, d] = words(&packet.source, is_v4);
    let [e, f, g, h] = lookup.destination;
    let rest = if is_v4 { 0 } else { (b ^ f) | (c ^ g) | (d ^ h) };
    if matches!(outcome, SUCCESS | NO_NEIGHBOUR) && (a ^ e) | rest == 0 { Some(lookup.ifindex) } else { None }
}

/// Looks up the route to the sender of a packet. Returns what the kernel answers.
#[inline(always)]
fn look_up(ctx: *mut xdp_md, packet: &Packet) -> Option<(i64, &'static FibLookup)> {
    let value = ROUTE.get_ptr_mut(0)?;
    // SAFETY: this processor's own copy; XDP programs do not interrupt each other on one processor.
    let lookup = unsafe { &mut *value };
    let is_v4 = packet.source.is_v4();
    lookup.family = if is_v4 { AF_INET } else { AF_INET6 };
    lookup.protocol = packet.protocol;
    lookup.source_port = packet.destination_port;
    lookup.destination_port = packet.source_port;
    lookup.total_length = 0;
    lookup.ifindex = LOOPBACK;
    lookup.flow_info = 0;
    lookup.source = words(&packet.destination, is_v4);
    lookup.destination = words(&packet.source, is_v4);
    lookup.vlan = 0;
    // SAFETY: the context is the kernel's, and the structure has the size that is given.
    let outcome = unsafe { bpf_fib_lookup(ctx.cast(), value.cast(), size_of::<FibLookup>() as i32, 0) };
    // SAFETY: as above.
    Some((outcome, unsafe { &*value }))
}

/// An address as in [`FibLookup::source`]: the kernel reads nothing behind the first word of an IPv4 address.
#[inline(always)]
const fn words(address: &Address, is_v4: bool) -> [u32; 4] {
    let [a, b, c, d] = address.0;
    [if is_v4 { d } else { a }, b, c, d]
}
