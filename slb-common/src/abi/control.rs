//! The one entry that says which of everything is in force.

/// Settings of the packet path.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Control {
    /// [`super::ABI_VERSION`] of the daemon that made the maps.
    pub abi_version: u32,
    /// Which of the two service indexes is in force, 0 or 1.
    pub active_index: u32,
    /// Seed of the flow hash.
    pub seed: u64,
    /// Jiffies in a second: the unit of every time on the packet path.
    pub hz: u32,
    /// The last generation given to an id; the packet path does not read it.
    pub generation: u32,
    /// Always 0, which the verifier does not know.
    pub zero: u32,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Control>() == 32);
