//! Short lists of addresses in maps.

use super::Address;

/// Most addresses in a list.
pub const MAX_ADDRESSES: usize = 64;

/// A list of addresses.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressList {
    len: u32,
    reserved: u32,
    entries: [Address; MAX_ADDRESSES],
}

impl AddressList {
    /// The list of these addresses; `None` if there are more than [`MAX_ADDRESSES`].
    pub fn new(addresses: &[Address]) -> Option<Self> {
        let mut entries = [Address::default(); MAX_ADDRESSES];
        entries.get_mut(..addresses.len())?.copy_from_slice(addresses);
        Some(Self { len: addresses.len() as u32, reserved: 0, entries })
    }

    /// The addresses.
    pub fn as_slice(&self) -> &[Address] {
        &self.entries[..MAX_ADDRESSES.min(self.len as usize)]
    }

    /// Whether there is none.
    #[inline(always)]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the list has this address.
    #[inline(always)]
    pub fn contains(&self, address: &Address) -> bool {
        for (i, entry) in self.entries.iter().enumerate() {
            if i as u32 >= self.len {
                break;
            }
            if entry.same(address) {
                return true;
            }
        }
        false
    }
}
