//! The commands of `slbd` and `slb`: one file each.

pub mod check;
pub mod detach;
pub mod run;
pub mod status;
