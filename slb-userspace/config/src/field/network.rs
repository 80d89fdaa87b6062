//! Checks of networks of clients.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Checker;
use crate::{diagnostic::Diagnostic, raw::Value, suggest::quoted};

impl Checker {
    /// Checks a network: an address and a prefix length without host bits, or a single address.
    pub(crate) fn network(&mut self, key: &str, value: &Value) -> Option<IpNet> {
        let expected = "a network such as \"192.0.2.0/24\" or \"2001:db8::/32\", or a single address";
        let text = self.text(key, value, expected)?;
        let single = text.parse::<IpAddr>().map(IpNet::from);
        let Ok(network) = text.parse::<IpNet>().or(single) else {
            let message = format!("{} is not a network", quoted(text));
            let problem = Diagnostic::error(value.span(), message, format!("expected {expected}"));
            return self.refuse(match hint(text) {
                Some(help) => problem.help(help),
                None => problem,
            });
        };
        if let IpAddr::V6(address) = network.addr()
            && address.to_ipv4_mapped().is_some()
        {
            let message = format!("{} is an IPv4-mapped network", quoted(text));
            return self.refuse(Diagnostic::error(value.span(), message, "write the IPv4 network itself"));
        }
        if network.addr() != network.network() {
            let message = format!("{} has bits set after its prefix", quoted(text));
            let single = IpNet::from(network.addr());
            return self.refuse(
                Diagnostic::error(value.span(), message, format!("the network is \"{}\"", network.trunc()))
                    .help(format!("write \"{}\", or \"{single}\" for this address alone", network.trunc())),
            );
        }
        Some(network)
    }
}

/// Guesses what was meant by text that is not a network.
fn hint(text: &str) -> Option<String> {
    let (address, length) = text.split_once('/')?;
    let address = address.parse::<IpAddr>().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    if let Ok(IpAddr::V4(mask)) = length.parse() {
        let bits = u32::from(mask);
        let is_mask = bits.leading_ones() + bits.trailing_zeros() >= u32::BITS;
        return is_mask
            .then(|| format!("write the length of the mask: \"{address}/{}\"", bits.leading_ones()));
    }
    Some(format!("the prefix length after \"{address}/\" is a number from 0 to {most}"))
}
