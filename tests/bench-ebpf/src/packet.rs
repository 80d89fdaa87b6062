//! The benchmark wrapper: writes a frame, takes the time and calls the program under test.
//!
//! `BPF_PROG_TEST_RUN` repeats a program over one frame and does not restore the frame in between. So it repeats
//! [`measure`], which undoes the changes of the previous run and writes the head of the next flow. Then it calls the
//! program under test, which returns to the kernel. Every result contains the cost of the wrapper; [`floor_return`]
//! measures that cost.
#![no_std]
#![no_main]
// The target has locked instructions, but core has no atomic operations for it.
#![feature(asm_experimental_arch)]

mod runtime;

use core::arch::asm;

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action,
    btf_maps::{Array, ProgramArray},
    helpers::{bpf_ktime_get_ns, bpf_xdp_adjust_head},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use slb_bench_common::packet::{BenchControl, CHUNK, MAX_PROGRAMS, MAX_STAMPS, Stamps, write_head};
use slb_common::net::frame::{Frame, Header};

#[btf_map]
static CONTROL: Array<BenchControl, 1> = Array::new();
#[btf_map]
static STAMPS: Array<Stamps, 1> = Array::new();
#[btf_map]
static PROGRAMS: ProgramArray<MAX_PROGRAMS> = ProgramArray::new();

/// Length of an outer IPv4 header.
const OUTER_HEADER: i32 = 20;

/// Sends one packet to the program under test. Returns `XDP_ABORTED` on failure, which no workload expects.
#[xdp]
#[expect(clippy::needless_pass_by_value, reason = "the signature is the macro's")]
fn measure(ctx: XdpContext) -> u32 {
    if let Some(program) = prepare(&ctx) {
        // SAFETY: no value here needs to be dropped.
        unsafe { PROGRAMS.tail_call(&ctx, program) };
    }
    xdp_action::XDP_ABORTED
}

/// Writes the next frame. Returns the slot of the program under test.
#[inline(always)]
fn prepare(ctx: &XdpContext) -> Option<u32> {
    let control = CONTROL.get_ptr_mut(0)?;
    // SAFETY: an element of a map stays where it is; the host writes it only while no packet flows, and packets flow
    // on one processor.
    let control = unsafe { &mut *control };
    if control.sequence % CHUNK == 0 {
        let stamps = STAMPS.get_ptr_mut(0)?;
        let index = (control.sequence / CHUNK) as usize & (MAX_STAMPS - 1);
        // SAFETY: as above; the place is masked.
        unsafe { (*stamps).at[index] = bpf_ktime_get_ns() };
    }
    control.sequence += 1;

    let found = (ctx.data_end() - ctx.data()) as u64;
    // Through memory on purpose: the compiler would join this subtraction and the next to one of 32 bits. The verifier
    // allows packet pointers to be subtracted as 64-bit numbers only.
    // SAFETY: a reference to an aligned word.
    let found = unsafe {
        (&raw mut control.found).write_volatile(found);
        (&raw const control.found).read_volatile()
    };
    // Called even if there is nothing to undo, so that all programs have the same cost.
    if !adjust_head(ctx, found.wrapping_sub(control.length) as i32) {
        return None;
    }
    write_head(&mut frame(ctx), control)?;
    control.counter += 1;
    // SAFETY: an aligned word of the map.
    unsafe { drain_stores(&raw mut control.fence) };
    Some(control.program)
}

/// Waits until all stores have reached the cache. Otherwise the program under test would load just-stored words in
/// other sizes, and stall.
///
/// # Safety
///
/// `word` is valid for reads and writes, and aligned.
#[inline(always)]
unsafe fn drain_stores(word: *mut u64) {
    // SAFETY: by the contract.
    unsafe { asm!("lock *(u64 *)({word} + 0) += {one}", word = in(reg) word, one = in(reg) 1_u64) };
}

/// The least that a program can do.
#[xdp]
fn floor_return(_: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// The least that a forwarding program can do: exchanges the hardware addresses.
#[xdp]
#[expect(clippy::needless_pass_by_value, reason = "the signature is the macro's")]
fn floor_mac_swap(ctx: XdpContext) -> u32 {
    if swap(&mut frame(&ctx), 0).is_some() { xdp_action::XDP_TX } else { xdp_action::XDP_ABORTED }
}

/// The least that an encapsulating program can do. It makes room for an outer header, which it does not write, and
/// writes the Ethernet header before it.
#[xdp]
#[expect(clippy::needless_pass_by_value, reason = "the signature is the macro's")]
fn floor_grow(ctx: XdpContext) -> u32 {
    if adjust_head(&ctx, -OUTER_HEADER) && swap(&mut frame(&ctx), OUTER_HEADER as usize).is_some() {
        xdp_action::XDP_TX
    } else {
        xdp_action::XDP_ABORTED
    }
}

/// An Ethernet header in words: the compiler would access address arrays byte by byte.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Ethernet {
    destination_head: u32,
    destination_tail: u16,
    source_head: u32,
    source_tail: u16,
    ether_type: u16,
}

// SAFETY: packed, so its alignment is 1; integers.
unsafe impl Header for Ethernet {}

/// Writes the Ethernet header at `from` to the start of the frame, with its addresses exchanged.
#[inline(always)]
fn swap(frame: &mut Frame<'_>, from: usize) -> Option<()> {
    let old = *frame.header::<Ethernet>(from)?;
    let new = frame.header_mut::<Ethernet>(0)?;
    new.destination_head = old.source_head;
    new.destination_tail = old.source_tail;
    new.source_head = old.destination_head;
    new.source_tail = old.destination_tail;
    if from != 0 {
        new.ether_type = old.ether_type;
    }
    Some(())
}

#[inline(always)]
fn frame(ctx: &XdpContext) -> Frame<'_> {
    // SAFETY: the kernel hands the frame to this program alone until it returns.
    unsafe { Frame::from_raw(ctx.data(), ctx.data_end()) }
}

#[inline(always)]
fn adjust_head(ctx: &XdpContext, by: i32) -> bool {
    // SAFETY: the context is the kernel's; no reference into the frame is alive.
    unsafe { bpf_xdp_adjust_head(ctx.as_ptr().cast(), by) == 0 }
}
