//! Sets of policies.

/// Policies of a service or a VIP: bits of [`policy`](super::service::policy).
#[repr(transparent)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PolicySet(u32);

impl PolicySet {
    /// The set with these bits.
    pub const fn new(bits: u32) -> Self {
        Self(bits)
    }

    /// The bits in the maps.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether it has any of these bits.
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits != 0
    }

    /// The set with these bits too.
    #[must_use]
    pub const fn with(self, bits: u32) -> Self {
        Self(self.0 | bits)
    }
}
