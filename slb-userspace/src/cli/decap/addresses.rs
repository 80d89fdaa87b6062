//! Converts addresses of the command line into a policy.

use std::net::IpAddr;

use anyhow::{Result, bail};
use slb_common::abi::decap::{DecapPolicy, MAX_ADDRESSES};

use crate::cli::arguments::host_addresses;

use slb_control::dataplane::state::to_address;

/// Inner destinations that a decapsulator accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vips {
    /// Only these.
    Only(Vec<IpAddr>),
    /// Any destination.
    Any,
}

/// The policy for these outer sources and inner destinations, and this UDP port of GUE packets.
///
/// # Errors
/// There is no source or no destination, an address is not that of one host, or there are too many.
pub(super) fn policy(from: &[IpAddr], vips: &Vips, gue_port: Option<u16>) -> Result<DecapPolicy> {
    if from.is_empty() {
        bail!(
            "no source given: name the addresses the load balancers send from, for instance `--from 192.0.2.1`; \
             a decapsulator that takes packets from anyone is open to the whole network"
        );
    }
    let vips = match vips {
        Vips::Any => Vec::new(),
        Vips::Only(vips) if vips.is_empty() => bail!(
            "no VIP given: name the inner destinations to accept, for instance `--vip 198.51.100.10`; `--any-vip` \
             accepts every one, and lets a forged source reach whatever this server routes to"
        ),
        Vips::Only(vips) => host_addresses("--vip", vips)?,
    };
    let from = host_addresses("--from", from)?;
    let addresses = |list: &[IpAddr]| list.iter().copied().map(to_address).collect::<Vec<_>>();
    let Some(policy) = DecapPolicy::new(&addresses(&from), &addresses(&vips)) else {
        bail!(
            "{} addresses in --from and {} in --vip: {MAX_ADDRESSES} each is the most",
            from.len(),
            vips.len()
        )
    };
    Ok(gue_port.map_or(policy, |port| policy.with_gue_port(port)))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn only(vips: &[IpAddr]) -> Vips {
        Vips::Only(vips.to_vec())
    }

    #[test]
    fn decap_without_source_is_refused_with_an_example() {
        let error = policy(&[], &only(&[ip("192.0.2.1")]), None).unwrap_err().to_string();
        assert!(error.contains("--from 192.0.2.1"), "{error}");
    }

    #[test]
    fn decap_without_vip_is_refused_unless_any_vip_is_set() {
        let from = [ip("192.0.2.1")];
        let error = policy(&from, &only(&[]), None).unwrap_err().to_string();
        assert!(error.contains("`--vip 198.51.100.10`") && error.contains("`--any-vip`"), "{error}");
        let any = policy(&from, &Vips::Any, None).unwrap();
        assert!(any.destinations().is_empty() && any.accepts(&to_address(ip("203.0.113.9"))));
    }

    #[test]
    fn decap_refuses_addresses_that_no_machine_has() {
        for wrong in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "127.0.0.1", "::1", "255.255.255.255"] {
            let error = policy(&[ip(wrong)], &Vips::Any, None).unwrap_err().to_string();
            assert!(error.contains(&format!("--from {wrong}")), "{error}");
            let error = policy(&[ip("192.0.2.1")], &only(&[ip(wrong)]), None).unwrap_err().to_string();
            assert!(error.contains(&format!("--vip {wrong}")), "{error}");
        }
        let error = policy(&[ip("::ffff:192.0.2.1")], &Vips::Any, None).unwrap_err().to_string();
        assert!(error.contains("write --from 192.0.2.1"), "{error}");
    }

    #[test]
    fn no_gue_port_decapsulates_no_udp() {
        let port = |port| policy(&[ip("192.0.2.1")], &Vips::Any, port).unwrap();
        assert_eq!(port(None).gue_port(), None);
        assert!(!port(None).is_gue(0) && !port(None).is_gue(6080_u16.to_be()));
        assert_eq!(port(Some(6080)).gue_port(), Some(6080));
        assert!(port(Some(6080)).is_gue(6080_u16.to_be()) && !port(Some(6080)).is_gue(6081_u16.to_be()));
    }

    #[test]
    fn duplicate_decap_addresses_count_once() {
        let four = ip("192.0.2.1");
        let policy = policy(&[four; 100], &only(&[ip("2001:db8::1"), four]), None).unwrap();
        assert_eq!(policy.sources(), [to_address(four)]);
        assert_eq!(policy.destinations(), [to_address(ip("2001:db8::1")), to_address(four)]);
    }

    #[test]
    fn more_than_64_decap_addresses_are_refused() {
        let many: Vec<_> = (0..65).map(|n| Ipv4Addr::new(192, 0, 2, n).into()).collect();
        let error = policy(&many, &Vips::Any, None).unwrap_err().to_string();
        assert!(error.contains("65 addresses in --from"), "{error}");
    }
}
