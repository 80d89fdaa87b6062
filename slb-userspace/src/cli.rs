//! The commands of `slbd`, `slb`, `slb-decap` and `slb-toa`: one file each.

mod arguments;
pub mod change;
pub mod check;
pub mod decap;
pub mod detach;
mod drain;
pub mod flows;
pub mod import;
mod lock_holder;
pub mod metrics;
pub mod objects;
pub mod run;
pub mod server;
pub mod status;
pub mod table;
pub mod toa;
