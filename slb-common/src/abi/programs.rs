//! Slots of the map `PROGRAMS`, whose programs `slb` tail-calls.

/// The slow path.
pub const SLOW: u32 = 0;
/// Number of slots.
pub const COUNT: u32 = 1;
