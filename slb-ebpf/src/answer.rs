//! Answers ARP requests and neighbour solicitations for VIPs, at the ingress of the interface that has an address of
//! their subnet. It is no XDP program: here bonds, bridges and VLAN devices have already received the frame, so that one
//! interface answers once.
#![no_std]
#![no_main]

mod runtime;

use aya_ebpf::{
    bindings::__sk_buff,
    btf_maps::HashMap,
    helpers::generated::{bpf_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes, bpf_skb_vlan_pop},
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

/// `TC_ACT_UNSPEC`: the next filter, and then the kernel.
const NEXT: i32 = -1;
/// `TC_ACT_SHOT`.
const DROP: i32 = 2;
/// `PACKET_OTHERHOST`: a frame for another host.
const OTHER_HOST: u32 = 3;
const VLAN_ID: u32 = 0xfff;
/// `BPF_F_RECOMPUTE_CSUM`.
const RECOMPUTE: u64 = 1;

/// Answers for an announced VIP; leaves every other frame to the kernel.
#[classifier]
#[expect(clippy::needless_pass_by_value, reason = "the signature is the macro's")]
fn slb_answer(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the context is the kernel's own.
    let (protocol, packet_type, present, tag) =
        unsafe { ((*skb).protocol, (*skb).pkt_type, (*skb).vlan_present, (*skb).vlan_tci) };
    // Frames of another VLAN are those of its device. A priority tag is none.
    if packet_type == OTHER_HOST || (present != 0 && tag & VLAN_ID != 0) {
        return NEXT;
    }
    if protocol == u32::from(ether_type::ARP) {
        return arp(skb, present != 0);
    }
    if protocol == u32::from(ether_type::IPV6) {
        return discovery(skb, present != 0);
    }
    NEXT
}

#[inline(always)]
fn arp(skb: *mut __sk_buff, tagged: bool) -> i32 {
    let mut frame = ArpFrame([0; ARP_LENGTH]);
    if !load(skb, &mut frame.0, ARP_LENGTH) {
        return NEXT;
    }
    let Some(mac) = frame.requested().and_then(|vip| announced(skb, vip)) else { return NEXT };
    frame.answer(mac);
    send(skb, &frame.0, tagged)
}

#[inline(always)]
fn discovery(skb: *mut __sk_buff, tagged: bool) -> i32 {
    let mut frame = DiscoveryFrame([0; ADVERTISEMENT_LENGTH]);
    if !load(skb, &mut frame.0, SOLICITATION_LENGTH) {
        return NEXT;
    }
    let Some(mac) = frame.solicited().and_then(|vip| announced(skb, vip)) else { return NEXT };
    frame.advertise(mac);
    // SAFETY: the context is the kernel's own; no pointer into the packet is kept.
    if unsafe { bpf_skb_change_tail(skb, ADVERTISEMENT_LENGTH as u32, 0) } != 0 {
        return DROP;
    }
    send(skb, &frame.0, tagged)
}

/// The hardware address of an announced VIP. Counts its answer.
#[inline(always)]
fn announced(skb: *mut __sk_buff, vip: Address) -> Option<[u8; 6]> {
    // SAFETY: the context is the kernel's own.
    let interface = unsafe { (*skb).ifindex };
    let entry = ANNOUNCED.get_ptr_mut(AnnouncedVip::new(vip, interface))?;
    // SAFETY: entries stay where they are while the program runs; the counter is aligned, and written by atomic
    // additions alone.
    unsafe {
        (*(&raw mut (*entry).answers).cast::<SharedWord>()).add(1);
        Some((*entry).mac)
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
fn send(skb: *mut __sk_buff, frame: &[u8], tagged: bool) -> i32 {
    // SAFETY: the context is the kernel's own; the helper reads `frame.len()` bytes.
    unsafe {
        if tagged && bpf_skb_vlan_pop(skb) != 0 {
            return DROP;
        }
        if bpf_skb_store_bytes(skb, 0, frame.as_ptr().cast(), frame.len() as u32, RECOMPUTE) != 0 {
            return DROP;
        }
        bpf_redirect((*skb).ifindex, 0) as i32
    }
}
