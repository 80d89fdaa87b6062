//! Address families: packets of a family without a server in the group are dropped.

use std::{fmt, net::IpAddr};

/// A set of address families.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Families {
    v4: bool,
    v6: bool,
}

impl Families {
    /// The families in `self` that `other` lacks.
    pub(super) fn without(self, other: Self) -> Self {
        Self { v4: self.v4 && !other.v4, v6: self.v6 && !other.v6 }
    }

    /// Whether the set is empty.
    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl<'a> FromIterator<&'a IpAddr> for Families {
    fn from_iter<I: IntoIterator<Item = &'a IpAddr>>(addresses: I) -> Self {
        addresses.into_iter().fold(Self::default(), |families, address| match address {
            IpAddr::V4(_) => Self { v4: true, ..families },
            IpAddr::V6(_) => Self { v6: true, ..families },
        })
    }
}

impl fmt::Display for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.v4, self.v6) {
            (true, true) => "IPv4 or IPv6",
            (true, false) => "IPv4",
            (false, true) => "IPv6",
            (false, false) => "no",
        })
    }
}
