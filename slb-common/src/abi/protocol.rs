//! Protocols of services.

use super::family::Family;
use crate::net::headers::protocol;

/// IP protocol of a service.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IpProtocol {
    /// ICMP: an IPv4 VIP itself.
    Icmp = protocol::ICMP,
    /// TCP.
    Tcp = protocol::TCP,
    /// UDP.
    Udp = protocol::UDP,
    /// ICMPv6: an IPv6 VIP itself.
    Icmpv6 = protocol::ICMPV6,
}

impl IpProtocol {
    /// The protocol with this IP protocol number; `None` for one that no service has.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            protocol::ICMP => Some(Self::Icmp),
            protocol::TCP => Some(Self::Tcp),
            protocol::UDP => Some(Self::Udp),
            protocol::ICMPV6 => Some(Self::Icmpv6),
            _ => None,
        }
    }

    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The protocol of a VIP of this family itself.
    pub const fn icmp(family: Family) -> Self {
        match family {
            Family::V4 => Self::Icmp,
            Family::V6 => Self::Icmpv6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_of_services_keep_their_ip_numbers() {
        let numbers = [1, 6, 17, 58];
        let protocols = [IpProtocol::Icmp, IpProtocol::Tcp, IpProtocol::Udp, IpProtocol::Icmpv6];
        assert_eq!(numbers.map(IpProtocol::from_number), protocols.map(Some));
        assert_eq!(protocols.map(IpProtocol::number), numbers);
        assert_eq!([0, 4, 41].map(IpProtocol::from_number), [None; 3], "free slots and tunnels");
    }
}
