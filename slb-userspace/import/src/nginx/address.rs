//! Addresses of `listen` and of servers.

use std::net::IpAddr;

use crate::model::{Ports, Vip};

/// Host and port of a server.
///
/// # Errors
/// Why SLB cannot have it.
pub(super) fn server(text: &str) -> Result<(String, Option<u16>), &'static str> {
    if text.starts_with("unix:") {
        return Err("a socket of the host: SLB serves IP addresses");
    }
    if text.contains('$') {
        return Err("SLB has no variables");
    }
    let (host, port) = split(text);
    let port = port.map(|port| port.parse::<u16>().map_err(|_| "its port is no number")).transpose()?;
    if host.is_empty() || port == Some(0) { Err("it has no address and port") } else { Ok((host, port)) }
}

/// Addresses and ports of a `listen`. `is_dual` is its parameter `ipv6only=off`.
///
/// # Errors
/// Why SLB cannot have it.
pub(super) fn listen(text: &str, is_dual: bool) -> Result<(Vec<Vip>, Ports), &'static str> {
    if text.starts_with("unix:") {
        return Err("a socket of the host: SLB serves IP addresses");
    }
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let ports = Ports { first: number(first)?, last: number(last)? };
        (ports.first <= ports.last).then_some(ports)
    };
    if let Some(ports) = range(text) {
        return Ok((vec![Vip::AnyV4], ports));
    }
    let (host, port) = split(text);
    let ports = port.and_then(range).ok_or("its port is no number")?;
    let vips = match host.parse::<IpAddr>() {
        _ if host == "*" => vec![Vip::AnyV4],
        Ok(IpAddr::V4(address)) if address.is_unspecified() => vec![Vip::AnyV4],
        Ok(IpAddr::V6(address)) if address.is_unspecified() && is_dual => vec![Vip::AnyV6, Vip::AnyV4],
        Ok(IpAddr::V6(address)) if address.is_unspecified() => vec![Vip::AnyV6],
        Ok(address) => vec![Vip::Address(address)],
        Err(_) => return Err("it is no IP address: write the VIP"),
    };
    Ok((vips, ports))
}

fn split(text: &str) -> (String, Option<&str>) {
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (host.to_owned(), rest.strip_prefix(':'));
    }
    match text.rsplit_once(':') {
        Some((host, port)) => (host.to_owned(), Some(port)),
        None => (text.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listens_have_addresses_and_ranges() {
        let port = |first, last| Ports { first, last };
        assert_eq!(listen("53", false), Ok((vec![Vip::AnyV4], port(53, 53))));
        assert_eq!(listen("[::]:53", false), Ok((vec![Vip::AnyV6], port(53, 53))));
        assert_eq!(listen("[::]:53", true), Ok((vec![Vip::AnyV6, Vip::AnyV4], port(53, 53))));
        let address = Vip::Address("192.0.2.1".parse().expect("address"));
        assert_eq!(listen("192.0.2.1:7000-7009", false), Ok((vec![address], port(7000, 7009))));
        for text in ["localhost:80", "192.0.2.1", "0", "9-8", "unix:/x", ""] {
            assert!(listen(text, false).is_err(), "{text}");
        }
    }

    #[test]
    fn servers_have_hosts_and_ports() {
        assert_eq!(server("10.0.0.1:80"), Ok(("10.0.0.1".to_owned(), Some(80))));
        assert_eq!(server("[fd00::1]:80"), Ok(("fd00::1".to_owned(), Some(80))));
        assert_eq!(server("web.example"), Ok(("web.example".to_owned(), None)));
        for text in ["unix:/x", "$name:80", "a:b", ":80", "a:0"] {
            assert!(server(text).is_err(), "{text}");
        }
    }
}
