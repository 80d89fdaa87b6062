//! The packet path on the host: the product's code over tables in memory, and its comparison with the oracle.

mod access_lists;
mod buffer;
mod cookies;
pub mod fuzz;
pub mod host;
pub mod locals;
