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
        bpf_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes, bpf_skb_vlan_pop,
    },
    macros::{btf_map, classifier},
    programs::TcContext,
};
use slb_common::{
    abi::{
        Address,
        announce::{AnnouncedVip, Announcement, MAX_ANNOUNCED},
        shared_word::SharedWord,
    },
    answer::{ADVERTISEMENT_LENGTH, ARP_LENGTH, ArpFrame, DiscoveryFrame, SOLICITATION_LENGTH},
    net::headers::ether_type,
};

#[btf_map]
static ANNOUNCED: HashMap<AnnouncedVip, Announcement, MAX_ANNOUNCED> = HashMap::new();

/// The frame that is read and written. The stack of BPF would have to be accessed by aligned words.
#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

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
    if !load(received.skb, &mut frame.0, ARP_LENGTH) {
        return NEXT;
    }
    let Some(mac) = frame.requested().and_then(|vip| announced(vip, received.interface)) else { return NEXT };
    frame.answer(mac);
    send(received, &frame.0)
}

#[inline(always)]
fn discovery(received: Received) -> i32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return NEXT };
    // SAFETY: as above.
    let frame = unsafe { &mut (*scratch).discovery };
    if !load(received.skb, &mut frame.0, SOLICITATION_LENGTH) {
        return NEXT;
    }
    let Some(mac) = frame.solicited().and_then(|vip| announced(vip, received.interface)) else { return NEXT };
    frame.advertise(mac);
    // SAFETY: the context is the kernel's own; no pointer into the packet is kept.
    if unsafe { bpf_skb_change_tail(received.skb, ADVERTISEMENT_LENGTH as u32, 0) } != 0 {
        return DROP;
    }
    send(received, &frame.0)
}

/// The hardware address of a VIP that is announced at an interface. Counts its answer.
#[inline(always)]
fn announced<'map>(vip: Address, interface: u32) -> Option<&'map [u8; 6]> {
    let entry = ANNOUNCED.get_ptr_mut(AnnouncedVip::new(vip, interface))?;
    // SAFETY: entries stay where they are while the program runs; the counter is aligned, and written by atomic
    // additions alone.
    unsafe {
        (*(&raw mut (*entry).answers).cast::<SharedWord>()).add(1);
        Some(&(*entry).mac)
    }
}

/// Reads the first bytes of a frame; false if it is shorter.
#[inline(always)]
fn load(skb: *mut __sk_buff, frame: &mut [u8], length: usize) -> bool {
    // SAFETY: the helper writes `length` bytes, which `frame` has.
    unsafe { bpf_skb_load_bytes(skb.cast(), 0, frame.as_mut_ptr().cast(), length as u32) == 0 }
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
