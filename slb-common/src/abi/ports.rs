//! Ports of a listener: one port, a port range, or any port.

use core::{cmp::Ordering, fmt, net::SocketAddr};

/// Ports of a listener, in host byte order. The default is no port, as that of a VIP itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// All ports, 1 to 65,535.
    pub const ANY: Self = Self { first: 1, last: u16::MAX };

    /// One port; 0 for the VIP itself.
    pub const fn single(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// The ports from `first`, at least 1, to `last`; `None` if that is no range of two ports or more.
    pub const fn range(first: u16, last: u16) -> Option<Self> {
        if first >= 1 && first < last { Some(Self { first, last }) } else { None }
    }

    /// The first port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// The port, if it is a single one.
    pub const fn as_single(self) -> Option<u16> {
        if self.is_range() { None } else { Some(self.first) }
    }

    /// Whether it has more than one port.
    pub const fn is_range(self) -> bool {
        self.first != self.last
    }

    /// Whether it has all ports.
    pub const fn is_any(self) -> bool {
        self.first == Self::ANY.first && self.last == Self::ANY.last
    }

    /// Whether it has this port.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether both have a port in common.
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// What identifies its service among those of a VIP and protocol: a range that grows or shrinks at its end keeps it.
    pub const fn key(self) -> PortsKey {
        PortsKey(self.first as u32 | (self.is_range() as u32) << 16 | (self.is_any() as u32) << 17)
    }
}

impl From<u16> for Ports {
    fn from(port: u16) -> Self {
        Self::single(port)
    }
}

impl Ord for Ports {
    /// The narrower one first: it takes a packet for which both are listening.
    fn cmp(&self, other: &Self) -> Ordering {
        (self.last - self.first, self.first).cmp(&(other.last - other.first, other.first))
    }
}

impl PartialOrd for Ports {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Ports {
    /// As in a configuration: `80`, `8000-8999`, `any`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_any() {
            f.write_str("any")
        } else if self.is_range() {
            write!(f, "{}-{}", self.first, self.last)
        } else {
            self.first.fmt(f)
        }
    }
}

/// An endpoint as a text: the address alone where it has no port, as that of a server behind a port range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointText(pub SocketAddr);

impl fmt::Display for EndpointText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.port() == 0 { self.0.ip().fmt(f) } else { self.0.fmt(f) }
    }
}

/// [`Ports::key`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortsKey(u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_know_what_they_hold_and_how_they_are_written() {
        let range = Ports::range(8000, 8999).unwrap();
        assert_eq!([Ports::range(5, 5), Ports::range(6, 5), Ports::range(0, 5)], [None; 3]);
        assert!(
            range.contains(8000) && range.contains(8999) && !range.contains(7999) && !range.contains(9000)
        );
        assert!(range.overlaps(Ports::range(8999, 9000).unwrap()) && range.overlaps(Ports::ANY));
        assert!(!range.overlaps(Ports::range(9000, 9001).unwrap()) && range.overlaps(Ports::single(8500)));
        let texts = [Ports::single(80), range, Ports::ANY].map(|ports| ports.to_string());
        assert_eq!(texts, ["80", "8000-8999", "any"]);
        assert_eq!(Ports::range(1, 65_535), Some(Ports::ANY));
        assert_eq!((Ports::single(80).as_single(), range.as_single()), (Some(80), None));
    }

    #[test]
    fn endpoint_without_port_is_shown_as_an_address() {
        let texts = ["10.0.0.1:80", "10.0.0.1:0", "[fd00::1]:80", "[fd00::1]:0"];
        let texts = texts.map(|text| EndpointText(text.parse().unwrap()).to_string());
        assert_eq!(texts, ["10.0.0.1:80", "10.0.0.1", "[fd00::1]:80", "fd00::1"]);
    }

    #[test]
    fn narrower_ports_come_first_and_a_longer_range_keeps_its_key() {
        let range = |first, last| Ports::range(first, last).unwrap();
        let mut all = [Ports::ANY, range(1, 9), Ports::single(4), range(2, 3)];
        all.sort();
        assert_eq!(all, [Ports::single(4), range(2, 3), range(1, 9), Ports::ANY]);
        assert_eq!(range(1, 9).key(), range(1, 90).key());
        let keys = [Ports::single(1).key(), range(1, 9).key(), Ports::ANY.key(), range(2, 9).key()];
        assert!(keys.iter().enumerate().all(|(n, key)| !keys[..n].contains(key)));
    }
}
