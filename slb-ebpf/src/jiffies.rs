//! Returns the low word of the kernel's jiffies, the packet path's clock. The daemon runs it with `BPF_PROG_TEST_RUN`,
//! and never attaches it.
#![no_std]
#![no_main]

mod runtime;

use aya_ebpf::{helpers::generated::bpf_jiffies64, macros::xdp, programs::XdpContext};

/// Returns jiffies as its verdict.
#[xdp]
fn slb_jiffies(_ctx: XdpContext) -> u32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_jiffies64() as u32 }
}
