//! Observations that the control plane decides by. Others make them: health checks, netlink, counters.

mod next_hop;
mod target;
mod vip;

pub use next_hop::{Mac, NextHop, Resolution, Resolutions, Unresolved};
pub use target::{Target, Via};
pub use vip::VipState;
