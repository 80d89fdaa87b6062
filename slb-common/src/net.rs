//! Addresses, frames, headers and checksums.

pub mod address;
pub mod checksum;
pub mod ethernet;
pub mod frame;
pub mod headers;
pub mod vlan;
pub mod vlan_tags;
