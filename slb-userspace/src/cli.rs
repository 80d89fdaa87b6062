//! The commands of `slbd`, `slb` and `slb-decap`: one file each.

pub mod change;
pub mod check;
mod claimant;
pub mod decap;
pub mod detach;
mod drain;
pub mod flows;
pub mod run;
pub mod server;
pub mod status;
pub mod table;
