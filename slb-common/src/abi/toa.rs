//! The TCP option that carries a client endpoint to a server (TCP Option Address, TOA), and the layouts of the maps of
//! its reader on servers, `slb-toa`. They share nothing with those of the daemon.

use super::Address;

/// Kind of the option: the second one for experiments (RFC 4727, 4.2), which readers of TOA expect.
pub const KIND: u8 = 254;
/// Length of the option with an IPv4 address in bytes.
pub const IPV4_LEN: usize = 8;
/// Length of the option with an IPv6 address in bytes.
pub const IPV6_LEN: usize = 20;
/// Bytes before the address: kind, length, port.
const BEFORE_ADDRESS: usize = 4;

/// A client endpoint as the option carries it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientOption {
    /// Address of the client.
    pub address: Address,
    /// Port of the client, in network byte order.
    pub port: u16,
}

impl ClientOption {
    /// Writes the option. `LEN` is [`IPV4_LEN`] or [`IPV6_LEN`], and decides on the family.
    #[inline(always)]
    pub const fn write<const LEN: usize>(&self, option: &mut [u8; LEN]) {
        const { assert!(LEN == IPV4_LEN || LEN == IPV6_LEN) };
        let port = self.port.to_ne_bytes();
        option[0] = KIND;
        option[1] = LEN as u8;
        option[2] = port[0];
        option[3] = port[1];
        let (address, skipped) = (self.address.v6_bytes(), size_of::<Address>() + BEFORE_ADDRESS - LEN);
        let mut n = BEFORE_ADDRESS;
        while n < LEN {
            option[n] = address[n - BEFORE_ADDRESS + skipped];
            n += 1;
        }
    }

    /// The client endpoint of an option behind its kind and length: `port`, and the address of an option of
    /// [`IPV4_LEN`] bytes.
    #[inline(always)]
    pub const fn of_v4(port: [u8; 2], address: [u8; 4]) -> Self {
        Self { address: Address::v4(address), port: u16::from_ne_bytes(port) }
    }

    /// As [`Self::of_v4`], for an option of [`IPV6_LEN`] bytes.
    #[inline(always)]
    pub const fn of_v6(port: [u8; 2], address: [u8; 16]) -> Self {
        Self { address: Address::v6(address), port: u16::from_ne_bytes(port) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_has_the_layout_that_readers_expect() {
        let mut option = [0; IPV4_LEN];
        let port = 443_u16.to_be();
        ClientOption { address: Address::v4([192, 0, 2, 1]), port }.write(&mut option);
        assert_eq!(option, [254, 8, 1, 187, 192, 0, 2, 1]);
        let mut option = [0; IPV6_LEN];
        let address: [u8; 16] = core::array::from_fn(|n| n as u8 + 32);
        ClientOption { address: Address::v6(address), port }.write(&mut option);
        assert_eq!(option[..4], [254, 20, 1, 187]);
        assert_eq!(option[4..], address);
    }
}
