//! Map layouts that the benchmarks share with their XDP programs (`slb-bench-ebpf`), and the code of those programs
//! that host tests reach.
#![cfg_attr(not(any(test, feature = "user")), no_std)]

pub mod packet;
pub mod pps;
