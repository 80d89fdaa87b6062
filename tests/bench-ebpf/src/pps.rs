//! XDP programs for `slb-bench pps`: a source of frames, a sink that counts them, and two minimal forwarders.
#![no_std]
#![no_main]

mod runtime;

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, PerCpuArray},
    helpers::bpf_redirect,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use slb_bench_common::pps::{ExpectedFrames, FRAME_WORDS, SERVERS, SinkCounters, Source};

#[btf_map]
static SOURCE: Array<Source, 1> = Array::new();
#[btf_map]
static EXPECTED: Array<ExpectedFrames, 1> = Array::new();
#[btf_map]
static ARRIVED: PerCpuArray<SinkCounters, 1> = PerCpuArray::new();
/// Index of the interface that [`swap_redirect`] sends through.
#[btf_map]
static OUT: Array<u32, 1> = Array::new();

/// First client address: 198.18.0.0/15 is for benchmarks.
const CLIENTS: u32 = 0xc612_0000;
/// First client port.
const FIRST_PORT: u32 = 1024;
/// Length of Ethernet, IPv4 and TCP headers.
const HEADERS: usize = 14 + 20 + 20;
/// Ethernet type of IPv4, in network byte order.
const IPV4: u16 = 0x0800_u16.to_be();

/// Writes the whole frame and redirects it. The buffer holds what an earlier frame became.
#[xdp]
#[expect(clippy::needless_pass_by_value, reason = "the signature is the macro's")]
fn source(ctx: XdpContext) -> u32 {
    let Some(source) = SOURCE.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: one processor runs the source, and the benchmark writes the map only while it does not.
    let source = unsafe { &mut *source };
    let start = ctx.data();
    if start + FRAME_WORDS * 8 > ctx.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    let flow = (source.sent as u32).wrapping_mul(source.stride) & source.mask;
    source.sent += 1;
    // Flow numbers select 256 addresses, then 32,768 ports, then more addresses.
    let address = (CLIENTS + (flow & 0xff) + (flow >> 23 << 8)).to_be();
    let port = u32::from(((FIRST_PORT + (flow >> 8 & 0x7fff)) as u16).to_be());
    let varying = (address & 0xffff) + (address >> 16);
    let ip_checksum = checksum(source.ip_sum + varying);
    let tcp_checksum = checksum(source.tcp_sum + varying + port);
    let words = start as *mut u64;
    // Varying fields are merged into whole words: a small store before a large load of the same bytes stalls.
    for (n, template) in source.frame.iter().enumerate() {
        let word = match n {
            // Bytes 24 and 25: the IPv4 header checksum. Bytes 26 to 29: the source address.
            3 => template | ip_checksum | u64::from(address) << 16,
            // Bytes 34 and 35: the source port.
            4 => template | u64::from(port) << 16,
            // Bytes 50 and 51: the TCP checksum.
            6 => template | tcp_checksum << 16,
            _ => *template,
        };
        // SAFETY: the length was checked above; the target allows unaligned access to frames.
        unsafe { words.add(n).write_unaligned(word) };
    }
    // SAFETY: takes and returns numbers.
    unsafe { bpf_redirect(source.ifindex, 0) as u32 }
}

#[inline(always)]
fn checksum(sum: u32) -> u64 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    u64::from(!(sum as u16))
}

/// Counts and drops IPv4 frames; passes all others to the kernel, which must answer ARP.
#[xdp]
#[expect(clippy::needless_pass_by_value, reason = "the signature is the macro's")]
fn sink(ctx: XdpContext) -> u32 {
    match count(&ctx) {
        Some(Frame::Expected | Frame::Unexpected) => xdp_action::XDP_DROP,
        Some(Frame::NotIpv4) => xdp_action::XDP_PASS,
        None => xdp_action::XDP_ABORTED,
    }
}

/// Counts and drops the expected frames; passes all others to the kernel, whose hosts take part.
#[xdp]
#[expect(clippy::needless_pass_by_value, reason = "the signature is the macro's")]
fn sieve(ctx: XdpContext) -> u32 {
    match count(&ctx) {
        Some(Frame::Expected) => xdp_action::XDP_DROP,
        Some(Frame::Unexpected | Frame::NotIpv4) => xdp_action::XDP_PASS,
        None => xdp_action::XDP_ABORTED,
    }
}

/// What a frame at the end of its way is.
enum Frame {
    Expected,
    Unexpected,
    NotIpv4,
}

/// Compares a frame with `EXPECTED`, and counts it if it is IPv4. `None` without the maps.
#[inline(always)]
fn count(ctx: &XdpContext) -> Option<Frame> {
    let start = ctx.data();
    if start + HEADERS > ctx.data_end() {
        return Some(Frame::NotIpv4);
    }
    // SAFETY: here and below, offsets are less than the length that was checked.
    if unsafe { load::<u16>(start, 12) } != IPV4 {
        return Some(Frame::NotIpv4);
    }
    let (expected, arrived) = (EXPECTED.get(0)?, ARRIVED.get_ptr_mut(0)?);
    // SAFETY: as above.
    let (protocol, address, port) =
        unsafe { (load::<u8>(start, 23), load::<u32>(start, 30), load::<u16>(start, 36)) };
    // SAFETY: as above.
    let server = unsafe { load::<u8>(start, 5) };
    // SAFETY: this processor's own copy.
    let arrived = unsafe { &mut *arrived };
    if u32::from(protocol) == expected.protocol
        && address & expected.mask == expected.address
        && (expected.port == 0 || u32::from(port) == expected.port)
    {
        arrived.expected += 1;
        arrived.servers[usize::from(server) & (SERVERS - 1)] += 1;
        Some(Frame::Expected)
    } else {
        arrived.unexpected += 1;
        Some(Frame::Unexpected)
    }
}

/// Exchanges the hardware addresses and sends the frame back.
#[xdp]
#[expect(clippy::needless_pass_by_value, reason = "the signature is the macro's")]
fn swap_back(ctx: XdpContext) -> u32 {
    if swap(&ctx) { xdp_action::XDP_TX } else { xdp_action::XDP_ABORTED }
}

/// Exchanges the hardware addresses and sends the frame through another interface.
#[xdp]
#[expect(clippy::needless_pass_by_value, reason = "the signature is the macro's")]
fn swap_redirect(ctx: XdpContext) -> u32 {
    match OUT.get(0) {
        // SAFETY: takes and returns numbers.
        Some(out) if swap(&ctx) => unsafe { bpf_redirect(*out, 0) as u32 },
        _ => xdp_action::XDP_ABORTED,
    }
}

#[inline(always)]
fn swap(ctx: &XdpContext) -> bool {
    let start = ctx.data();
    if start + HEADERS > ctx.data_end() {
        return false;
    }
    // SAFETY: the length was checked above.
    unsafe {
        let destination = (load::<u32>(start, 0), load::<u16>(start, 4));
        let source = (load::<u32>(start, 6), load::<u16>(start, 10));
        (start as *mut u32).write_unaligned(source.0);
        ((start + 4) as *mut u16).write_unaligned(source.1);
        ((start + 6) as *mut u32).write_unaligned(destination.0);
        ((start + 10) as *mut u16).write_unaligned(destination.1);
    }
    true
}

/// Reads a value at `offset` of the frame that begins at `start`.
///
/// # Safety
///
/// The frame must reach beyond the value.
#[inline(always)]
unsafe fn load<T: Copy>(start: usize, offset: usize) -> T {
    // SAFETY: the caller's promise.
    unsafe { ((start + offset) as *const T).read_unaligned() }
}
