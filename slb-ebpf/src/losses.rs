//! Counts frames that the kernel drops after the XDP verdict, which the XDP program does not see.
//!
//! - Failed redirects (`xdp_redirect_err`).
//! - Frames that the driver of the outgoing interface dropped (`xdp_devmap_xmit`).
//! - Failed verdicts (`xdp_exception`).
#![no_std]
#![no_main]

mod runtime;

use aya_ebpf::{
    btf_maps::{Array, HashMap},
    helpers::bpf_probe_read_kernel,
    macros::{btf_map, raw_tracepoint},
    programs::RawTracePointContext,
};
use slb_common::abi::{
    losses::{KernelLayout, Losses, MAX_INTERFACES},
    shared_word::SharedWord,
};

#[btf_map]
static LOSSES_LAYOUT: Array<KernelLayout, 1> = Array::new();
/// Losses of the watched interfaces, by index. All are in one network namespace.
#[btf_map]
static LOSSES: HashMap<u32, Losses, { MAX_INTERFACES as usize }> = HashMap::new();

/// `xdp_redirect_err(dev, program, target, error, map_type, map_id, index)`.
#[raw_tracepoint(tracepoint = "xdp_redirect_err")]
#[expect(clippy::needless_pass_by_value, reason = "the signature is the macro's")]
fn slb_redirect_err(ctx: RawTracePointContext) -> i32 {
    let (device, target) = (ctx.arg::<u64>(0), ctx.arg::<u64>(6) as u32);
    if watched_ifindex(device).is_some()
        && let Some(losses) = LOSSES.get_ptr_mut(target)
    {
        // SAFETY: entries of the map stay where they are while the program runs.
        add(unsafe { &raw mut (*losses).redirect }, 1);
    }
    0
}

/// `xdp_devmap_xmit(from_dev, to_dev, sent, drops, error)`: called once per bulk of frames, nearly always without
/// drops.
#[raw_tracepoint(tracepoint = "xdp_devmap_xmit")]
#[expect(clippy::needless_pass_by_value, reason = "the signature is the macro's")]
fn slb_devmap_xmit(ctx: RawTracePointContext) -> i32 {
    let drops = ctx.arg::<u64>(3) as i32;
    if drops > 0
        && let Some(index) = watched_ifindex(ctx.arg::<u64>(1))
        && let Some(losses) = LOSSES.get_ptr_mut(index)
    {
        // SAFETY: as above.
        add(unsafe { &raw mut (*losses).transmit }, drops as u64);
    }
    0
}

/// `xdp_exception(dev, program, action)`.
#[raw_tracepoint(tracepoint = "xdp_exception")]
#[expect(clippy::needless_pass_by_value, reason = "the signature is the macro's")]
fn slb_exception(ctx: RawTracePointContext) -> i32 {
    if let Some(index) = watched_ifindex(ctx.arg::<u64>(0))
        && let Some(losses) = LOSSES.get_ptr_mut(index)
    {
        // SAFETY: as above.
        add(unsafe { &raw mut (*losses).exception }, 1);
    }
    0
}

/// The index of a `net_device`; `None` if it is not in the watched network namespace.
#[inline(always)]
fn watched_ifindex(device: u64) -> Option<u32> {
    let layout = LOSSES_LAYOUT.get(0)?;
    // SAFETY: the helper fails where there is nothing to read.
    unsafe {
        let namespace: u64 = bpf_probe_read_kernel((device + layout.namespace) as *const u64).ok()?;
        let cookie: u64 = bpf_probe_read_kernel((namespace + layout.cookie) as *const u64).ok()?;
        if cookie != layout.watched {
            return None;
        }
        bpf_probe_read_kernel((device + layout.ifindex) as *const u32).ok()
    }
}

#[inline(always)]
fn add(counter: *mut u64, value: u64) {
    // SAFETY: the counter is aligned, and written by atomic additions alone.
    unsafe { (*counter.cast::<SharedWord>()).add(value) };
}
