//! The commands of `slb-toa`.

pub mod attach;
mod cgroup;
pub mod detach;
mod listeners;
pub mod status;
