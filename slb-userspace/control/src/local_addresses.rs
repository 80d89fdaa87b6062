//! Local addresses of the configuration, with the ports that flows of mode `full-nat` may have there. Pure.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive};

use slb_config::model::Config;

use crate::{inputs::VipState, model::DesiredLocalAddress};

/// First port of flows: lower ones are those of well-known services, which servers may trust (RFC 6335).
const FIRST_PORT: u16 = 1024;
/// Where Linux begins to choose ports for its own connections, unless `ip_local_port_range` says otherwise.
const OWN_PORTS_FROM: u16 = 32_768;
/// Fewest ports that an address gives. If the host leaves fewer, flows share the host's.
const FEWEST_PORTS: u16 = 1024;

/// The local addresses of a configuration, sorted. `states` is the state of each on this host; a missing one may be an
/// address from which the host opens connections.
pub fn desired_local_addresses(
    config: &Config,
    states: Option<&BTreeMap<IpAddr, VipState>>,
) -> Vec<DesiredLocalAddress> {
    let unknown = VipState { own_ports_from: Some(OWN_PORTS_FROM), ..VipState::default() };
    let of = |address: &IpAddr| {
        let state = states.and_then(|states| states.get(address)).unwrap_or(&unknown);
        DesiredLocalAddress { address: *address, ports: ports(state.own_ports_from) }
    };
    let mut locals: Vec<_> = config.daemon.local_addresses.iter().map(of).collect();
    locals.sort_by_key(|local| local.address);
    locals
}

/// Whether the host leaves so few ports that flows may have those of its own connections.
pub fn shares_ports(state: &VipState) -> bool {
    state.own_ports_from.is_some_and(|from| from < FIRST_PORT + FEWEST_PORTS)
}

/// Ports of flows. The host's own connections, among them health checks, keep theirs.
fn ports(own_ports_from: Option<u16>) -> RangeInclusive<u16> {
    match own_ports_from {
        Some(from) if from >= FIRST_PORT + FEWEST_PORTS => FIRST_PORT..=from - 1,
        _ => FIRST_PORT..=u16::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slb_config::samples::forwarding;

    #[test]
    fn flows_leave_the_hosts_ports_alone_where_the_host_may_use_them() {
        let config =
            forwarding("local_addresses = [\"192.0.2.9\", \"192.0.2.8\", \"2001:db8::8\", \"192.0.2.7\"]");
        let state = |own_ports_from| VipState { own_ports_from, ..VipState::default() };
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let states = BTreeMap::from([
            (address("192.0.2.7"), state(None)),
            (address("192.0.2.8"), state(Some(40_000))),
            (address("2001:db8::8"), state(Some(1024))),
        ]);
        let desired = desired_local_addresses(&config, Some(&states));
        let expected = [
            ("192.0.2.7", 1024..=65_535),
            ("192.0.2.8", 1024..=39_999),
            ("192.0.2.9", 1024..=32_767),
            ("2001:db8::8", 1024..=65_535),
        ];
        let expected = expected.map(|(text, ports)| DesiredLocalAddress { address: address(text), ports });
        assert_eq!(desired, expected);
        assert_eq!(
            [None, Some(2047), Some(2048)].map(|from| shares_ports(&state(from))),
            [false, true, false]
        );
    }
}
