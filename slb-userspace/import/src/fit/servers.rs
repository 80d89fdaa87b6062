//! Servers of a group: addresses, weights, number.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use crate::{
    ledger::Ledger,
    model::{Server, Service, Vip},
};

/// Most servers of a group.
const MAX_SERVERS: usize = 1_024;
/// The largest weight.
const MAX_WEIGHT: u64 = 100;

/// A server group as SLB has it.
#[derive(Debug)]
pub(crate) struct FittedGroup {
    pub(crate) name: String,
    /// The name in the source.
    pub(super) proposed: String,
    pub(crate) servers: Vec<FittedServer>,
    pub(crate) slow_start: Option<Duration>,
}

/// A server, or the host name of one whose address must be filled in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FittedServer {
    pub(crate) host: String,
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: Option<u16>,
    pub(crate) weight: u64,
}

/// The address of a server, or why SLB cannot use it.
pub(super) fn address(server: &Server, vips: &HashSet<Vip>) -> Result<IpAddr, String> {
    let host = &server.host;
    let Ok(address) = host.parse::<IpAddr>() else {
        return Err(format!("`{host}` is no IP address, and SLB looks up no host names: write its address"));
    };
    if let Some((kind, why)) = slb_config::unusable_address(address) {
        return Err(format!("{address} is {kind}: {why}"));
    }
    if vips.contains(&Vip::Address(address)) {
        return Err(format!("{address} is a VIP: a server needs an address of its own"));
    }
    Ok(address)
}

/// Fits servers into a group. Each address and port is once in it.
pub(super) fn fit(
    ledger: &mut Ledger,
    service: &Service,
    servers: &[Server],
    vips: &HashSet<Vip>,
) -> Vec<FittedServer> {
    let weights = scaled(ledger, servers);
    let mut fitted: Vec<FittedServer> = Vec::new();
    let mut count = 0;
    for (server, weight) in servers.iter().zip(weights) {
        let address = match address(server, vips) {
            Ok(address) => Some(address),
            Err(why) => {
                ledger.left_out(server.at, why);
                None
            }
        };
        let is_double = |other: &FittedServer| match address {
            Some(_) => other.address == address && other.port == server.port,
            None => other.host == server.host && other.port == server.port,
        };
        if address.is_some() && fitted.iter().any(is_double) {
            ledger.left_out(server.at, "a server before it has this address and port");
            continue;
        }
        count += usize::from(address.is_some());
        if count > MAX_SERVERS {
            ledger.left_out(server.at, format!("a group of `{}` has at most 1,024 servers", service.name));
            continue;
        }
        fitted.push(FittedServer { host: server.host.clone(), address, port: server.port, weight });
    }
    fitted
}

/// Weights of at most 100 in the same proportions. Equal ones become 100.
fn scaled(ledger: &mut Ledger, servers: &[Server]) -> Vec<u64> {
    let weights: Vec<u64> = servers.iter().map(|server| server.weight).collect();
    let mut serving = weights.iter().copied().filter(|weight| *weight > 0);
    let first = serving.next();
    if serving.all(|weight| Some(weight) == first) {
        return weights.iter().map(|weight| if *weight > 0 { MAX_WEIGHT } else { 0 }).collect();
    }
    let most = weights.iter().copied().max().unwrap_or_default();
    if most <= MAX_WEIGHT {
        return weights;
    }
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    if most / divisor <= MAX_WEIGHT {
        return weights.iter().map(|weight| weight / divisor).collect();
    }
    let scale = |weight: u64| {
        let rounded = (u128::from(weight) * u128::from(MAX_WEIGHT) + u128::from(most) / 2) / u128::from(most);
        u64::try_from(rounded).unwrap_or(MAX_WEIGHT).max(u64::from(weight > 0))
    };
    let note = |server: &Server| {
        let fitted = scale(server.weight);
        ledger.changed(server.at, format!("weights are 0 to 100 in SLB: {} became {fitted}", server.weight));
        fitted
    };
    servers.iter().map(note).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Lines;

    fn weights(of: &[u64]) -> Vec<u64> {
        let server = |weight: &u64| Server {
            at: Lines::one(0, 1),
            host: "10.0.0.1".to_owned(),
            port: None,
            weight: *weight,
        };
        scaled(&mut Ledger::default(), &of.iter().map(server).collect::<Vec<_>>())
    }

    #[test]
    fn weights_keep_their_proportions() {
        assert_eq!(weights(&[1, 1, 0]), [100, 100, 0]);
        assert_eq!(weights(&[1, 2]), [1, 2]);
        assert_eq!(weights(&[200, 100]), [2, 1]);
        assert_eq!(weights(&[256, 1]), [100, 1]);
        assert_eq!(weights(&[65535, 32768, 0]), [100, 50, 0]);
        assert_eq!(weights(&[u64::MAX, 1]), [100, 1]);
        assert_eq!(weights(&[]), []);
    }
}
