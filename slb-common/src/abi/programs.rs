//! Slots of the map `PROGRAMS`: what `slb` tail-calls.

/// The slow path.
pub const SLOW: u32 = 0;
/// How many there are.
pub const COUNT: u32 = 1;
