//! The map layouts of SLB and its whole packet path, as ordinary Rust.
//!
//! The same code is compiled into the XDP program and into host tests. It calls no BPF helper and allocates nothing on
//! the packet path. It depends on aya only with the `user` feature, which marks the map layouts as plain data.
#![cfg_attr(not(any(test, feature = "user")), no_std)]
#![cfg_attr(
    target_arch = "bpf",
    feature(asm_experimental_arch, core_intrinsics),
    expect(internal_features, reason = "the only way to a compare-and-exchange; abi::word alone uses it")
)]

pub mod abi;
pub mod answer;
pub mod datapath;
pub mod decap;
pub mod hash;
#[cfg(any(test, feature = "user"))]
pub mod maglev;
pub mod net;
pub mod opaque;
#[cfg(any(test, feature = "user"))]
pub mod round_robin;
