//! The data plane in the kernel; the only module that uses aya.
//!
//! Maps and links are pinned under `PIN_DIR/v<ABI_VERSION>/{maps,links}`. Forwarding needs only the pins and continues
//! without this process. A process that opens the pins sees the active state. The decapsulator has pins of its own.

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the flow table relies on the order of loads and stores of x86-64: see slb_common::abi::flow");

mod access_lists;
pub mod answers;
mod bpffs;
mod btf;
mod counters;
pub mod decap;
pub mod flow_table;
pub mod flows;
mod inner_maps;
mod instructions;
pub mod interfaces;
mod jiffies;
pub mod lifetime;
pub mod link;
pub mod loader;
pub mod losses;
mod map_shapes;
mod mapped_array;
pub mod maps;
mod pinned_map;
pub mod pins;
mod program_maps;
mod quic_servers;
pub mod resize;
pub mod seeds;
mod sequence_offsets;
mod sources;
mod syscall;
pub mod toa;
pub mod upgrade;
pub mod xdp;
