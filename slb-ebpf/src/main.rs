//! The XDP programs, a thin layer over slb-common, which makes all decisions.
#![no_std]
#![no_main]

mod maps;
mod route;
mod runtime;
mod subprograms;

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    helpers::{bpf_xdp_adjust_head, generated::bpf_xdp_adjust_tail},
    macros::xdp,
    programs::XdpContext,
};
use maps::{PACKET, PROGRAMS};
use slb_common::{
    abi::{
        programs,
        stats::{Action, Reason},
    },
    datapath::{
        Verdict, fast,
        frame_calls::{FrameCalls, Parsed},
        icmp_error::{self, IcmpMessage},
        maps::Maps as _,
        parse::{Packet, parse},
        reset, slow,
    },
    net::{
        ethernet,
        frame::{Frame, FrameBuffer},
    },
    opaque::opaque,
};
use subprograms::BpfMaps;

/// The kernel's context of one run, and so its frame.
struct Context(*mut xdp_md);

impl FrameBuffer for Context {
    #[inline(always)]
    fn frame(&mut self) -> Frame<'_> {
        // Volatile, so that bounds are read each time. The verifier then forgets the bounds that it has checked before,
        // which differ from path to path.
        // SAFETY: the context is the kernel's, which hands the frame to this program alone until it returns.
        unsafe {
            let (start, end) = (&raw const (*self.0).data, &raw const (*self.0).data_end);
            Frame::from_raw(start.read_volatile() as usize, end.read_volatile() as usize)
        }
    }

    #[inline(always)]
    fn grow(&mut self, bytes: usize) -> bool {
        // SAFETY: the context is the kernel's. Earlier frames borrow this value, so none is used afterwards.
        unsafe { bpf_xdp_adjust_head(self.0, -(bytes as i32)) == 0 }
    }

    #[inline(always)]
    fn shrink(&mut self, bytes: usize) -> bool {
        // SAFETY: as above.
        unsafe { bpf_xdp_adjust_head(self.0, bytes as i32) == 0 }
    }

    #[inline(always)]
    fn truncate(&mut self, bytes: usize) -> bool {
        // Opaque: the compiler would otherwise subtract halves of pointers.
        let tail = bytes as i32 - opaque(self.frame().len() as u64) as i32;
        // SAFETY: as above.
        unsafe { bpf_xdp_adjust_tail(self.0, tail) == 0 }
    }
}

impl FrameCalls for Context {
    type Packet = &'static Packet;

    #[inline(always)]
    fn parse(&mut self) -> Option<Parsed<&'static Packet>> {
        // Opaque: the compiler knows that the upper half is zero, and the verifier does not.
        let outcome = opaque(slb_parse(self.0)) as u32;
        PACKET.get(0).map(|packet| Parsed { outcome, packet })
    }

    #[inline(always)]
    fn remove_priority_tags(&mut self) -> bool {
        slb_remove_priority_tags(self.0) != 0
    }

    #[inline(always)]
    fn rewrite_to_icmp_error(&mut self, network: usize, message: IcmpMessage) -> bool {
        slb_rewrite_to_icmp_error(self.0, network as u64, message.0.into()) != 0
    }

    #[inline(always)]
    fn rewrite_to_rst(&mut self, network: usize, back: bool) -> bool {
        slb_rewrite_to_rst(self.0, network as u64, back.into()) != 0
    }
}

/// [`parse`], a BPF subprogram. It writes the packet to a map, whose values the verifier does not know. So packet kinds
/// share the code after it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_parse(ctx: *mut xdp_md) -> u64 {
    let Some(value) = PACKET.get_ptr_mut(0) else { return Reason::NotReady as u64 };
    // SAFETY: this processor's own copy; XDP programs do not interrupt each other on one processor.
    let value = unsafe { &mut *value };
    match parse(&Context(ctx).frame(), value) {
        Ok(()) => u64::from(Parsed::<()>::SOUND),
        Err(reason) => reason as u64,
    }
}

/// [`ethernet::remove_priority_tags`], a BPF subprogram.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_remove_priority_tags(ctx: *mut xdp_md) -> u64 {
    ethernet::remove_priority_tags(&mut Context(ctx)).is_some().into()
}

/// [`icmp_error::answer`], a BPF subprogram.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_rewrite_to_icmp_error(ctx: *mut xdp_md, network: u64, message: u64) -> u64 {
    icmp_error::answer(&mut Context(ctx), network as usize, IcmpMessage(message as u32)).is_some().into()
}

/// [`reset::rewrite_to_rst`], a BPF subprogram.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_rewrite_to_rst(ctx: *mut xdp_md, network: u64, back: u64) -> u64 {
    reset::rewrite_to_rst(&mut Context(ctx), network as usize, back != 0).is_some().into()
}

/// The fast path, and the entry of the XDP hook. Frames that it does not decide on go to the slow path.
#[xdp]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the signature is the macro's")]
fn slb(ctx: XdpContext) -> u32 {
    if let Some(verdict) = fast(&mut Context(ctx.ctx), ctx.ingress_ifindex() as u32, &BpfMaps(ctx.ctx)) {
        return action(&ctx, verdict);
    }
    // SAFETY: no value here needs to be dropped.
    unsafe { PROGRAMS.tail_call(&ctx, programs::SLOW) };
    // The tail call failed. The host must stay reachable, so the frame is passed.
    BpfMaps(ctx.ctx).count(Action::Pass, Reason::NotReady as u32);
    xdp_action::XDP_PASS
}

/// The slow path.
#[xdp]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the signature is the macro's")]
fn slb_slow(ctx: XdpContext) -> u32 {
    let verdict = slow(&mut Context(ctx.ctx), ctx.ingress_ifindex() as u32, &BpfMaps(ctx.ctx));
    action(&ctx, verdict)
}

#[inline(always)]
#[cfg_attr(not(feature = "debug-log"), expect(unused_variables, reason = "for the log"))]
fn action(ctx: &XdpContext, verdict: Verdict) -> u32 {
    let action = match verdict {
        Verdict::Transmit => xdp_action::XDP_TX,
        Verdict::Redirect(_) => xdp_action::XDP_REDIRECT,
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Drop => xdp_action::XDP_DROP,
    };
    #[cfg(feature = "debug-log")]
    aya_log_ebpf::debug!(ctx, "XDP action {}", action);
    action
}
