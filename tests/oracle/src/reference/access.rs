//! Access lists: a scan of the networks.

use std::net::IpAddr;

use super::{Reference, Refusal, Slots};
use crate::{
    outcome::Reason,
    world::{Access, Network},
};

impl<S: Slots> Reference<'_, S> {
    /// A client that the listener's list denies receives nothing, whatever flows it has.
    pub(super) fn check_access(&self, client: IpAddr, listener: usize) -> Result<(), Refusal> {
        let Some(Access { list, admits }) = self.world.listening(listener).access else { return Ok(()) };
        let is_listed = self.world.access_lists[list].iter().any(|network| contains(*network, client));
        if is_listed == admits { Ok(()) } else { Err(Refusal::Drop(Reason::AccessDenied)) }
    }
}

fn contains((address, length): Network, client: IpAddr) -> bool {
    let is_same = |a: &[u8], b: &[u8]| {
        let whole = usize::from(length / 8);
        let rest = length % 8;
        a[..whole] == b[..whole] && (rest == 0 || (a[whole] ^ b[whole]) >> (8 - rest) == 0)
    };
    match (address, client) {
        (IpAddr::V4(a), IpAddr::V4(b)) => is_same(&a.octets(), &b.octets()),
        (IpAddr::V6(a), IpAddr::V6(b)) => is_same(&a.octets(), &b.octets()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_contains_addresses_of_its_family_with_its_first_bits() {
        let contains = |network: (&str, u8), client: &str| {
            contains((network.0.parse().unwrap(), network.1), client.parse().unwrap())
        };
        assert!(contains(("192.0.2.0", 24), "192.0.2.255") && !contains(("192.0.2.0", 24), "192.0.3.0"));
        assert!(contains(("192.0.2.6", 31), "192.0.2.7") && !contains(("192.0.2.6", 31), "192.0.2.8"));
        assert!(contains(("192.0.2.6", 32), "192.0.2.6") && !contains(("192.0.2.6", 32), "192.0.2.7"));
        assert!(contains(("0.0.0.0", 0), "192.0.2.7") && !contains(("0.0.0.0", 0), "2001:db8::7"));
        assert!(contains(("::", 0), "2001:db8::7") && !contains(("::", 0), "192.0.2.7"));
        assert!(
            contains(("2001:db8::", 33), "2001:db8:7fff::")
                && !contains(("2001:db8::", 33), "2001:db8:8000::")
        );
    }
}
