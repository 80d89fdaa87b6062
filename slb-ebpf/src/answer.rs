//! Answers ARP requests and neighbour solicitations for VIPs, at the ingress of the interface that has an address of
//! their subnet. It is no XDP program: here bonds, bridges and VLAN devices have already received the frame, so that one
//! interface answers once.
#![no_std]
#![no_main]

mod runtime;

use aya_ebpf::{
    bindings::__sk_buff,
    btf_maps::{HashMap, PerCpuArray},
    helpers::generated::{
        bpf_ktime_get_ns, bpf_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
        bpf_skb_vlan_pop,
    },
    macros::{btf_map, classifier},
    programs::TcContext,
};
use slb_common::{
    abi::{
        Address,
        announce::{AnnouncedVip, Announcement, MAX_ANNOUNCED},
        rate_limit::RateLimiter,
        shared_word::SharedWord,
    },
    answer::{
        ADVERTISEMENT_LENGTH, ARP_LENGTH, ArpFrame, DiscoveryFrame, MAX_OPTION_UNITS, OPTION_UNIT,
        SOLICITATION_LENGTH,
    },
    net::headers::ether_type,
};

#[btf_map]
static ANNOUNCED: HashMap<AnnouncedVip, Announcement, MAX_ANNOUNCED> = HashMap::new();

/// The frame that is read and written. The stack of BPF would have to be accessed by aligned words.
#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Answers a second: a host cannot make this one send without bound.
#[btf_map]
static LIMIT: PerCpuArray<RateLimiter, 1> = PerCpuArray::new();

#[repr(C)]
#[derive(Clone, Copy)]
struct Scratch {
    arp: ArpFrame,
    discovery: DiscoveryFrame,
}

/// `TC_ACT_UNSPEC`: the next filter, and then the kernel.
const NEXT: i32 = -1;
/// `TC_ACT_SHOT`.
const DROP: i32 = 2;
/// `PACKET_OTHERHOST`: a frame for another host.
const OTHER_HOST: u32 = 3;
const VLAN_ID: u32 = 0xfff;
/// Bits by which nanoseconds are shifted for the rate limit, and the units of that in a second.
const TICK: u32 = 20;
const TICKS_PER_SECOND: u32 = (1_000_000_000_u64 >> TICK) as u32;
/// `BPF_F_RECOMPUTE_CSUM`.
const RECOMPUTE: u64 = 1;

/// A frame at the ingress of an interface.
#[derive(Clone, Copy)]
struct Received {
    skb: *mut __sk_buff,
    /// Index of the interface. It is read once: the verifier refuses a pointer to this field.
    interface: u32,
    /// Whether it has a priority tag.
    is_tagged: bool,
}

/// Answers for an announced VIP; leaves every other frame to the kernel.
#[classifier]
#[expect(clippy::needless_pass_by_value, reason = "the signature is the macro's")]
fn slb_answer(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the context is the kernel's own.
    let (protocol, packet_type, present, tag, interface) =
        unsafe { ((*skb).protocol, (*skb).pkt_type, (*skb).vlan_present, (*skb).vlan_tci, (*skb).ifindex) };
    // Frames of another VLAN are those of its device. A priority tag is none.
    if packet_type == OTHER_HOST || (present != 0 && tag & VLAN_ID != 0) {
        return NEXT;
    }
    let received = Received { skb, interface, is_tagged: present != 0 };
    if protocol == u32::from(ether_type::ARP) {
        return arp(received);
    }
    if protocol == u32::from(ether_type::IPV6) {
        return discovery(received);
    }
    NEXT
}

#[inline(always)]
fn arp(received: Received) -> i32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return NEXT };
    // SAFETY: this processor's own buffer; the program does not interrupt itself at the ingress of interfaces.
    let frame = unsafe { &mut (*scratch).arp };
    if !load(received.skb, 0, &mut frame.0, ARP_LENGTH) {
        return NEXT;
    }
    let Some(announcement) = frame.requested().and_then(|vip| announced(vip, received.interface)) else {
        return NEXT;
    };
    let Some(mac) = count(announcement) else { return DROP };
    frame.answer(mac);
    send(received, &frame.0)
}

#[inline(always)]
fn discovery(received: Received) -> i32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return NEXT };
    // SAFETY: as above.
    let frame = unsafe { &mut (*scratch).discovery };
    if !load(received.skb, 0, &mut frame.0, SOLICITATION_LENGTH) || !load_options(received.skb, frame) {
        return NEXT;
    }
    let Some(announcement) = frame.solicited().and_then(|vip| announced(vip, received.interface)) else {
        return NEXT;
    };
    let Some(mac) = count(announcement) else { return DROP };
    frame.advertise(mac);
    // SAFETY: the context is the kernel's own; no pointer into the packet is kept.
    if unsafe { bpf_skb_change_tail(received.skb, ADVERTISEMENT_LENGTH as u32, 0) } != 0 {
        return DROP;
    }
    send(received, &frame.0[..ADVERTISEMENT_LENGTH])
}

/// Reads the options of a solicitation; false if the frame ends before them, or there are too many.
#[inline(always)]
fn load_options(skb: *mut __sk_buff, frame: &mut DiscoveryFrame) -> bool {
    let Some(units) = frame.option_units() else { return false };
    let (options, _) = frame.0[SOLICITATION_LENGTH..].as_chunks_mut::<OPTION_UNIT>();
    let mut unit = 0;
    while unit < MAX_OPTION_UNITS {
        let at = SOLICITATION_LENGTH + unit * OPTION_UNIT;
        if unit >= units {
            options[unit] = [0; OPTION_UNIT];
        } else if !load(skb, at, &mut options[unit], OPTION_UNIT) {
            return false;
        }
        unit += 1;
    }
    true
}

/// The entry of a VIP that is announced at an interface.
#[inline(always)]
fn announced(vip: Address, interface: u32) -> Option<*mut Announcement> {
    ANNOUNCED.get_ptr_mut(AnnouncedVip::new(vip, interface))
}

/// Counts an answer. Returns its hardware address; `None` if this processor has sent too many.
#[inline(always)]
fn count<'map>(announcement: *mut Announcement) -> Option<&'map [u8; 6]> {
    let limit = LIMIT.get_ptr_mut(0)?;
    // SAFETY: the limit is this processor's own. Entries stay where they are while the program runs; the counter is
    // aligned, and written by atomic additions alone.
    unsafe {
        let now = (bpf_ktime_get_ns() >> TICK) as u32;
        if !(*limit).allow(now, TICKS_PER_SECOND) {
            return None;
        }
        (*(&raw mut (*announcement).answers).cast::<SharedWord>()).add(1);
        Some(&(*announcement).mac)
    }
}

/// Reads `length` bytes of a frame at an offset; false if it is shorter.
#[inline(always)]
fn load(skb: *mut __sk_buff, at: usize, frame: &mut [u8], length: usize) -> bool {
    // SAFETY: the helper writes `length` bytes, which `frame` has.
    unsafe { bpf_skb_load_bytes(skb.cast(), at as u32, frame.as_mut_ptr().cast(), length as u32) == 0 }
}

/// Sends the frame out of the interface that it came in by.
#[inline(always)]
fn send(received: Received, frame: &[u8]) -> i32 {
    let Received { skb, interface, is_tagged } = received;
    // SAFETY: the context is the kernel's own; the helper reads `frame.len()` bytes.
    unsafe {
        if is_tagged && bpf_skb_vlan_pop(skb) != 0 {
            return DROP;
        }
        if bpf_skb_store_bytes(skb, 0, frame.as_ptr().cast(), frame.len() as u32, RECOMPUTE) != 0 {
            return DROP;
        }
        bpf_redirect(interface, 0) as i32
    }
}
