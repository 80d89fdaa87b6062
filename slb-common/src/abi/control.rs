//! Identity of a set of maps.

/// Version, last generation and seeds of a set of maps.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Control {
    /// [`super::ABI_VERSION`] of the daemon that made the maps.
    pub abi_version: u32,
    /// The last generation given to an id.
    pub generation: u32,
    /// Seed of the server tables.
    pub seed: u64,
    /// Secret seed of the flow table's hash.
    pub flow_seed: u64,
}

const _: () = assert!(size_of::<Control>() == 24);
