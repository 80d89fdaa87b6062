//! Frames, headers and checksums: everything that knows how packets are laid out.

pub mod checksum;
pub mod ethernet;
pub mod frame;
pub mod headers;
pub mod parse;
