//! Frames, headers and checksums.

pub mod checksum;
pub mod ethernet;
pub mod frame;
pub mod headers;
pub mod parse;
