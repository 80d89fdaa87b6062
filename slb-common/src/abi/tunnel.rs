//! Source addresses of tunnels.

use super::Address;

/// Source addresses of outer headers.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// IPv4, mapped. Its bits in [`Self::by_flow_v4`] are 0.
    pub v4: Address,
    /// IPv6. Its bits in [`Self::by_flow_v6`] are 0.
    pub v6: Address,
    /// Bits of the last word of IPv4 sources that vary by flow, in network byte order.
    pub by_flow_v4: u32,
    /// Bits of the last word of IPv6 sources that vary by flow, in network byte order.
    pub by_flow_v6: u32,
}

impl Tunnel {
    /// Whether an address is a source of outer headers.
    #[inline(always)]
    pub const fn has(&self, address: &Address) -> bool {
        let [a, b, c, d] = address.0;
        self.v4.same(&Address([a, b, c, d & !self.by_flow_v4]))
            | self.v6.same(&Address([a, b, c, d & !self.by_flow_v6]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnel_has_its_sources_alone() {
        let v6 = |last| Address::v6([0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        let one = Tunnel { v4: Address::v4([10, 9, 0, 0]), v6: v6(0), ..Tunnel::default() };
        let by_flow = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
        let many = Tunnel { by_flow_v4: by_flow, by_flow_v6: by_flow, ..one };
        for (address, of_one, of_many) in [
            (Address::v4([10, 9, 0, 0]), true, true),
            (Address::v4([10, 9, 255, 1]), false, true),
            (Address::v4([10, 8, 0, 0]), false, false),
            (v6(0), true, true),
            (v6(7), false, true),
            (Address::v6([0xfd, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]), false, false),
        ] {
            assert_eq!((one.has(&address), many.has(&address)), (of_one, of_many), "{address:?}");
        }
    }
}
