//! The XDP program of the decapsulator, a thin layer over `slb_common::decap`. It runs on a server.
#![no_std]
#![no_main]

mod runtime;

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, PerCpuArray},
    helpers::generated::bpf_xdp_adjust_head,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use slb_common::{
    abi::decap::{DECAP_REASONS, DecapAction, DecapCounters, DecapPolicy, DecapReason},
    decap::process,
    net::frame::Frame,
    opaque::masked,
};

#[btf_map]
static DECAP_POLICY: Array<DecapPolicy, 1> = Array::new();
#[btf_map]
static DECAP_TALLY: PerCpuArray<DecapCounters, 1> = PerCpuArray::new();

/// Decapsulates tunnel packets of allowed sources; passes everything else to the kernel, or drops it.
#[xdp]
#[expect(clippy::needless_pass_by_value, reason = "the signature is the macro's")]
fn slb_decap(ctx: XdpContext) -> u32 {
    let Some(policy) = DECAP_POLICY.get(0) else { return xdp_action::XDP_PASS };
    // SAFETY: the kernel hands the frame to this program alone until it returns; once its head is cut it is not used.
    let mut frame = unsafe { Frame::from_raw(ctx.data(), ctx.data_end()) };
    let outcome = process(&mut frame, policy);
    let mut reason = outcome.reason;
    if outcome.cut != 0 {
        // SAFETY: the context is the kernel's own.
        let failed = unsafe { bpf_xdp_adjust_head(ctx.ctx, outcome.cut as i32) } != 0;
        if failed {
            reason = DecapReason::NotCut;
        }
    }
    count(reason);
    match reason.action() {
        DecapAction::Strip | DecapAction::Pass => xdp_action::XDP_PASS,
        DecapAction::Drop => xdp_action::XDP_DROP,
    }
}

#[inline(always)]
fn count(reason: DecapReason) {
    if let Some(tally) = DECAP_TALLY.get_ptr_mut(0) {
        // SAFETY: this processor's own copy; XDP programs do not interrupt each other on one processor.
        unsafe { (*tally).frames[masked::<DECAP_REASONS>(reason as u64)] += 1 };
    }
}
