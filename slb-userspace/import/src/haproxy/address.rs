//! Addresses of `bind` and `server`.

use std::net::{IpAddr, Ipv6Addr};

use crate::model::{Ports, Vip};

/// What `usesrc` becomes.
pub(super) const TRANSPARENT: &str =
    "servers see the client's address in mode `nat`: they answer through this host";
/// What `source` becomes.
pub(super) const LOCAL_ADDRESS: &str = "it became one of `local_addresses`, which all listeners share";

/// Host and port of a server, `192.0.2.1:80`, `[2001:db8::1]:80`, `web.example:80`.
///
/// # Errors
/// Why SLB cannot have it.
pub(super) fn server(text: &str) -> Result<(String, Option<u16>), &'static str> {
    let text = without_family(text)?;
    let (host, port) = split(text);
    let port = match port {
        None => None,
        Some(port) if port.starts_with(['+', '-']) => {
            return Err("SLB maps ports to one port, and not by an offset");
        }
        Some(port) => Some(port.parse::<u16>().map_err(|_| "its port is no number")?),
    };
    if host.is_empty() { Err("it has no address") } else { Ok((host, port.filter(|port| *port != 0))) }
}

/// The address of `source ADDRESS[:PORTS]`, unless it is any address.
pub(super) fn source(text: &str) -> Option<IpAddr> {
    let host = text.rsplit_once(':').filter(|(host, _)| !host.contains(':')).map_or(text, |(host, _)| host);
    host.parse::<IpAddr>().ok().filter(|address| !address.is_unspecified())
}

/// Addresses and ports of a `bind`, which may be several with commas. `is_v6only` is the option `v6only`: without it
/// Linux accepts IPv4 at `::`, too.
///
/// # Errors
/// Why SLB cannot have it.
pub(super) fn bind(text: &str, is_v6only: bool) -> Result<Vec<(Vip, Ports)>, &'static str> {
    let mut found = Vec::new();
    for text in text.split(',').filter(|text| !text.is_empty()) {
        let is_v6 = text.starts_with("ipv6@");
        let (host, port) = split(without_family(text)?);
        let port = port.ok_or("it has no port")?;
        let (first, last) = port.split_once('-').unwrap_or((port, port));
        let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
        let (Some(first), Some(last)) = (number(first), number(last)) else {
            return Err("its port is no number");
        };
        if first > last {
            return Err("its range of ports is empty");
        }
        let ports = Ports { first, last };
        match (host.as_str(), host.parse::<IpAddr>()) {
            ("" | "*", _) if is_v6 => any_v6(&mut found, ports, is_v6only),
            ("" | "*" | "0.0.0.0", _) => found.push((Vip::AnyV4, ports)),
            (_, Ok(address)) if address == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
                any_v6(&mut found, ports, is_v6only);
            }
            (_, Ok(address)) => found.push((Vip::Address(address), ports)),
            _ => return Err("it is no IP address: write the VIP"),
        }
    }
    if found.is_empty() { Err("it has no address") } else { Ok(found) }
}

fn any_v6(found: &mut Vec<(Vip, Ports)>, ports: Ports, is_v6only: bool) {
    found.push((Vip::AnyV6, ports));
    if !is_v6only {
        found.push((Vip::AnyV4, ports));
    }
}

fn without_family(text: &str) -> Result<&str, &'static str> {
    match text.split_once('@') {
        Some(("ipv4" | "ipv6" | "tcp" | "tcp4" | "tcp6", rest)) => Ok(rest),
        Some(("unix" | "abns" | "abnsz" | "sockpair" | "fd", _)) => {
            Err("a socket of the host: SLB serves IP addresses")
        }
        Some(("quic4" | "quic6" | "udp" | "udp4" | "udp6", _)) => Err("QUIC and UDP of HAProxy are layer 7"),
        _ if text.starts_with('/') => Err("a socket of the host: SLB serves IP addresses"),
        _ => Ok(text),
    }
}

/// Divides at the last colon that is outside of brackets.
fn split(text: &str) -> (String, Option<&str>) {
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (host.to_owned(), rest.strip_prefix(':'));
    }
    match text.rsplit_once(':') {
        Some((host, port)) => (host.to_owned(), Some(port).filter(|port| !port.is_empty())),
        None => (text.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_have_addresses_and_ports() {
        assert_eq!(server("10.0.0.1:80"), Ok(("10.0.0.1".to_owned(), Some(80))));
        assert_eq!(server("ipv6@[2001:db8::1]:80"), Ok(("2001:db8::1".to_owned(), Some(80))));
        assert_eq!(server("2001:db8::1:80"), Ok(("2001:db8::1".to_owned(), Some(80))));
        assert_eq!(server("web.example"), Ok(("web.example".to_owned(), None)));
        assert!(server("10.0.0.1:+1000").is_err());
        assert!(server("/run/x.sock").is_err());
    }

    #[test]
    fn binds_have_several_addresses_and_ranges() {
        let port = |first, last| Ports { first, last };
        let address = Vip::Address("192.0.2.1".parse().expect("address"));
        assert_eq!(bind("*:80", false), Ok(vec![(Vip::AnyV4, port(80, 80))]));
        assert_eq!(bind(":::80", false), Ok(vec![(Vip::AnyV6, port(80, 80)), (Vip::AnyV4, port(80, 80))]));
        assert_eq!(bind("[::]:80", true), Ok(vec![(Vip::AnyV6, port(80, 80))]));
        assert_eq!(
            bind("192.0.2.1:80,:8000-8009", false),
            Ok(vec![(address, port(80, 80)), (Vip::AnyV4, port(8000, 8009))])
        );
        for text in ["web:80", "*", "*:0", "*:9-8", "unix@/x", ""] {
            assert!(bind(text, false).is_err(), "{text}");
        }
    }
}
