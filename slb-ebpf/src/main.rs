//! The XDP program: a thin shell around slb-common, where everything that decides anything lives.
#![no_std]
#![no_main]

mod maps;
mod runtime;
mod tables;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use slb_common::{
    datapath::{Verdict, process},
    net::frame::Frame,
};
use tables::Maps;

/// Forwards what belongs to a listener, leaves everything else to the kernel.
#[xdp]
#[expect(clippy::needless_pass_by_value, reason = "the signature is the macro's")]
fn slb(ctx: XdpContext) -> u32 {
    // SAFETY: the kernel hands the frame to this program alone until it returns.
    let mut frame = unsafe { Frame::from_raw(ctx.data(), ctx.data_end()) };
    let verdict = process(&mut frame, ctx.ingress_ifindex() as u32, &Maps);
    let action = match verdict {
        Verdict::Transmit => xdp_action::XDP_TX,
        Verdict::Redirect(_) => xdp_action::XDP_REDIRECT,
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Drop => xdp_action::XDP_DROP,
    };
    #[cfg(feature = "debug-log")]
    aya_log_ebpf::debug!(&ctx, "XDP action {}", action);
    action
}
