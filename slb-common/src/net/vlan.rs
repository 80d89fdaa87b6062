//! The VLAN of a frame (IEEE 802.1Q), in map layouts and in parsed packets.

/// The VLAN of a frame as a number: id in the lower 12 bits, then the kind of its tag. 0 is no VLAN.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vlan(pub u32);

impl Vlan {
    /// No VLAN: the frame has no tag, or priority tags alone.
    pub const NONE: Self = Self(0);
    /// Several tags. Next hops have one tag at most, so this is the VLAN of no next hop.
    pub const STACKED: Self = Self(1 << 13);

    const ID: u32 = 0x0fff;
    /// The tag is a service tag (802.1ad).
    const SERVICE: u32 = 1 << 12;

    /// The VLAN with this id, 1 to 4094. `is_service` tells a service tag (802.1ad) from a customer tag (802.1Q).
    #[inline(always)]
    pub const fn new(id: u16, is_service: bool) -> Self {
        Self(id as u32 & Self::ID | if is_service { Self::SERVICE } else { 0 })
    }

    /// Whether it is no VLAN.
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The VLAN id.
    #[inline(always)]
    pub const fn id(self) -> u16 {
        (self.0 & Self::ID) as u16
    }

    /// Whether its tag is a service tag (802.1ad).
    #[inline(always)]
    pub const fn is_service(self) -> bool {
        self.0 & Self::SERVICE != 0
    }

    /// Stands for the VLAN in place of a hardware address in a key of `OWN_MACS`. It is a group address, which no
    /// interface has as its own.
    #[inline(always)]
    pub const fn as_mac(self) -> u64 {
        (self.0 as u64) << 8 | 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::ethernet::is_group;

    #[test]
    fn vlan_holds_id_and_kind_of_tag() {
        for (id, is_service) in [(1, false), (100, true), (4094, false)] {
            let vlan = Vlan::new(id, is_service);
            assert_eq!((vlan.id(), vlan.is_service(), vlan.is_none()), (id, is_service, false));
            assert!(is_group(vlan.as_mac()) && vlan != Vlan::STACKED);
        }
        assert!(Vlan::NONE.is_none() && !Vlan::STACKED.is_none());
        assert_ne!(Vlan::new(7, true).as_mac(), Vlan::new(7, false).as_mac());
    }
}
