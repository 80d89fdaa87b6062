//! The XDP program: a thin shell around slb-common, where everything that decides anything lives.
#![no_std]
#![no_main]

mod maps;
mod runtime;
mod tables;

use aya_ebpf::{bindings::xdp_action, helpers::bpf_xdp_adjust_head, macros::xdp, programs::XdpContext};
use slb_common::{
    datapath::{Verdict, process},
    net::frame::{Frame, Growing},
};
use tables::Maps;

/// The frame of this run of the program.
struct Head<'a>(&'a XdpContext);

impl Growing for Head<'_> {
    #[inline(always)]
    fn frame(&mut self) -> Frame<'_> {
        // Read afresh each time, hence volatile: the verifier then forgets what it has found of the frame so far, which
        // differs from path to path.
        // SAFETY: the context is the kernel's, which hands the frame to this program alone until it returns.
        unsafe {
            let (start, end) = (&raw const (*self.0.ctx).data, &raw const (*self.0.ctx).data_end);
            Frame::from_raw(start.read_volatile() as usize, end.read_volatile() as usize)
        }
    }

    #[inline(always)]
    fn grow(&mut self, bytes: usize) -> bool {
        // SAFETY: the context is the kernel's. Frames made before borrow this value, so none is used after.
        unsafe { bpf_xdp_adjust_head(self.0.ctx, -(bytes as i32)) == 0 }
    }
}

/// Forwards what belongs to a listener, leaves everything else to the kernel.
#[xdp]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the signature is the macro's")]
fn slb(ctx: XdpContext) -> u32 {
    let verdict = process(&mut Head(&ctx), ctx.ingress_ifindex() as u32, &Maps);
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
