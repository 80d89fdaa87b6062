//! SYN cookies by the kernel's helpers, and the map of sequence offsets: [`CookieCalls`].
//!
//! The helpers read addresses, ports, numbers and the segment size alone. So they get headers made of the parsed packet,
//! and no pointers into the frame.

use aya_ebpf::helpers::generated::{
    bpf_tcp_raw_check_syncookie_ipv4, bpf_tcp_raw_check_syncookie_ipv6, bpf_tcp_raw_gen_syncookie_ipv4,
    bpf_tcp_raw_gen_syncookie_ipv6,
};
use slb_common::{
    abi::{
        stats::CookieEvent,
        syn_cookie::{OffsetKey, SequenceOffset},
    },
    datapath::{cookie_calls::CookieCalls, parse::Packet},
};

use crate::{
    bpf_maps::{BPF_MAPS, BpfMaps},
    maps::{LIMIT_DROPS, SEQUENCE_OFFSETS},
};

/// Length of a TCP header with the option of a segment size.
const TCP_LEN: u32 = 24;
/// Header length of that and the flag SYN.
const SYN: u32 = (TCP_LEN / 4) << 28 | 2 << 16;
/// Header length without options and the flag ACK.
const ACK: u32 = 5 << 28 | 16 << 16;
/// There is an offset.
const KNOWN: u64 = 1 << 32;
/// Kind and length of the option.
const MSS: u32 = 0x0204 << 16;

impl CookieCalls for BpfMaps {
    #[inline(always)]
    fn generate_cookie(&self, packet: &Packet, sequence: u32, mss: u32) -> Option<u32> {
        let cookie = slb_generate_cookie(packet, sequence.into(), mss.into()) as i64;
        if cookie < 0 { None } else { Some(cookie as u32) }
    }

    #[inline(always)]
    fn is_cookie(&self, packet: &Packet, sequence: u32) -> bool {
        slb_is_cookie(packet, sequence.into()) != 0
    }

    #[inline(always)]
    fn sequence_offset(&self, key: &OffsetKey) -> Option<SequenceOffset> {
        // SAFETY: integers. The memory of a value that is replaced meanwhile may hold that of another flow: the receiver
        // then drops one segment with a wrong number.
        unsafe { SEQUENCE_OFFSETS.get(key) }.copied()
    }

    #[inline(always)]
    fn offset_of(&self, key: OffsetKey) -> Option<u32> {
        let OffsetKey([high, low, end, tag]) = key;
        let known = slb_offset_of(high, low, end, tag);
        if known & KNOWN == 0 { None } else { Some(known as u32) }
    }

    #[inline(always)]
    fn put_sequence_offset(&self, key: &OffsetKey, offset: &SequenceOffset) -> bool {
        SEQUENCE_OFFSETS.insert(key, offset, 0).is_ok()
    }

    #[inline(always)]
    fn erase_sequence_offset(&self, key: &OffsetKey) {
        // Most flows have none.
        let _ = SEQUENCE_OFFSETS.remove(key);
    }

    #[inline(always)]
    fn count_cookie(&self, service: u32, event: CookieEvent) {
        if let Some(drops) = LIMIT_DROPS.get_ptr_mut(service) {
            // SAFETY: this processor's own copy; XDP programs do not interrupt each other on one processor.
            unsafe { *(*drops).of_cookie(event) += 1 };
        }
    }
}

// BPF subprograms, as those of the module `subprograms`.

/// [`CookieCalls::offset_of`], with [`KNOWN`]. The key lies in a stack frame of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_offset_of(high: u64, low: u64, end: u64, tag: u64) -> u64 {
    let known = BPF_MAPS.sequence_offset(&OffsetKey([high, low, end, tag]));
    known.map_or(0, |known| u64::from(known.offset) | KNOWN)
}

/// [`CookieCalls::generate_cookie`]; negative without cookies.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_generate_cookie(packet: *const Packet, sequence: u64, mss: u64) -> u64 {
    // SAFETY: the verifier accepts only null or a pointer to memory of that size; maps hold integers.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return u64::MAX };
    let mut tcp = tcp(packet, sequence as u32, 0, SYN, MSS | mss as u32);
    let tcp = tcp.as_mut_ptr().cast();
    if packet.source.is_v4() {
        let mut ip = ipv4(packet);
        // SAFETY: both headers are as long as the helper reads.
        unsafe { bpf_tcp_raw_gen_syncookie_ipv4(ip.as_mut_ptr().cast(), tcp, TCP_LEN) as u64 }
    } else {
        let mut ip = ipv6(packet);
        // SAFETY: as above.
        unsafe { bpf_tcp_raw_gen_syncookie_ipv6(ip.as_mut_ptr().cast(), tcp, TCP_LEN) as u64 }
    }
}

/// [`CookieCalls::is_cookie`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_is_cookie(packet: *const Packet, sequence: u64) -> u64 {
    // SAFETY: as above.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return 0 };
    let next = (sequence as u32).wrapping_add(1);
    let mut tcp = tcp(packet, next, packet.acknowledges, ACK, 0);
    let tcp = tcp.as_mut_ptr().cast();
    let refused = if packet.source.is_v4() {
        let mut ip = ipv4(packet);
        // SAFETY: as above.
        unsafe { bpf_tcp_raw_check_syncookie_ipv4(ip.as_mut_ptr().cast(), tcp) }
    } else {
        let mut ip = ipv6(packet);
        // SAFETY: as above.
        unsafe { bpf_tcp_raw_check_syncookie_ipv6(ip.as_mut_ptr().cast(), tcp) }
    };
    (refused == 0).into()
}

// The headers are made of words of 64 bits: the compiler would write halves of two as one, which BPF's stack allows only
// where that is aligned.

/// A TCP header with one option.
#[inline(always)]
const fn tcp(packet: &Packet, sequence: u32, acknowledged: u32, flags: u32, option: u32) -> [u64; 3] {
    let ports = packet.source_port as u32 | (packet.destination_port as u32) << 16;
    [pair(ports, sequence.to_be()), pair(acknowledged.to_be(), flags.to_be()), pair(0, option.to_be())]
}

/// An IPv4 header of which only the addresses count, and four bytes.
#[inline(always)]
const fn ipv4(packet: &Packet) -> [u64; 3] {
    [0, pair(0, packet.source.0[3]), pair(packet.destination.0[3], 0)]
}

/// An IPv6 header of which only the addresses count.
#[inline(always)]
const fn ipv6(packet: &Packet) -> [u64; 5] {
    let ([a, b], [c, d]) = (packet.source.halves(), packet.destination.halves());
    [0, a, b, c, d]
}

#[inline(always)]
const fn pair(first: u32, second: u32) -> u64 {
    first as u64 | (second as u64) << 32
}
