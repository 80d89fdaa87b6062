//! Checks of IP addresses: syntax, and addresses that packets cannot be forwarded to.

use std::net::{IpAddr, SocketAddr};

use super::Checker;
use crate::{diagnostic::Diagnostic, raw::Value, suggest::quoted};

impl Checker {
    /// Checks an address of a VIP or a server.
    pub(crate) fn address(&mut self, key: &str, value: &Value) -> Option<IpAddr> {
        let text = self.text(key, value, "an IP address in quotes")?;
        let Ok(address) = text.parse::<IpAddr>() else {
            let message = format!("{} is not an IP address", quoted(text));
            let label = "expected an address such as \"192.0.2.10\" or \"2001:db8::10\"";
            let problem = Diagnostic::error(value.span(), message, label);
            return self.refuse(match address_hint(text) {
                Some(help) => problem.help(help),
                None => problem,
            });
        };
        match unusable(address) {
            Some((kind, reason)) => {
                let message = format!("`{address}` is {kind}");
                self.refuse(Diagnostic::error(value.span(), message, reason))
            }
            None => Some(address),
        }
    }
}

/// Guesses what was meant by text that is not an IP address.
fn address_hint(text: &str) -> Option<String> {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Some(format!("write \"{}\": ports have a field of their own", socket.ip()));
    }
    if let Some((address, _)) = text.split_once('/')
        && let Ok(address) = address.parse::<IpAddr>()
    {
        return Some(format!("write \"{address}\", without a prefix length"));
    }
    if let Some((address, _)) = text.split_once('%')
        && address.parse::<IpAddr>().is_ok()
    {
        return Some("link-local addresses, with their interface, cannot be used".to_owned());
    }
    let name = !text.contains(':') && text.contains(|c: char| c.is_ascii_alphabetic());
    name.then(|| "host names are not looked up: write the address".to_owned())
}

/// The kind of an address that packets cannot be forwarded to, and the reason. `None` if a VIP or a server may have it.
pub fn unusable(address: IpAddr) -> Option<(&'static str, &'static str)> {
    if address.is_unspecified() {
        return Some(("the unspecified address", "it names no machine: write the address itself"));
    }
    if address.is_multicast() {
        return Some(("a multicast address", "connections have one address at each end"));
    }
    if address.is_loopback() {
        return Some(("a loopback address", "packets to it never leave a machine"));
    }
    match address {
        IpAddr::V4(v4) if v4.is_broadcast() => {
            Some(("the broadcast address", "connections have one address at each end"))
        }
        // RFC 4291, section 2.5.6: routers must not forward packets with link-local addresses.
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some((
            "a link-local address",
            "it is valid on one link only and never forwarded: write a global or unique local address",
        )),
        // RFC 4291, section 2.5.5.2: IPv4 addresses in programs, not on the wire.
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some(("an IPv4-mapped address", "write the IPv4 address itself"))
        }
        _ => None,
    }
}
