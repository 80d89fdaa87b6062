//! Packets for a VIP that no listener takes.

use std::{collections::BTreeMap, net::IpAddr};

use slb_common::abi::{ports::Ports, service::policy};

use crate::inputs::VipState;
use crate::{
    desired::{ObservedInputs, desired, vips_without_listeners},
    model::Desired,
};
use slb_config::{model::Config, samples::parsed};

const LOCAL: &str = "192.0.2.10";
const ROUTED: &str = "2001:db8::10";

fn config(lines: &str) -> Config {
    parsed(&format!(
        r#"
        [daemon]
        interfaces = ["eth0"]
        [[load_balancer]]
        name = "shop"
        addresses = ["{LOCAL}", "{ROUTED}"]
        {lines}
        [[load_balancer.server]]
        address = "10.0.0.1"
        [[load_balancer.listener]]
        name = "web"
        protocol = "tcp"
        port = 80
        default_group_port = 80
        "#
    ))
}

fn vip_states() -> BTreeMap<IpAddr, VipState> {
    let standing = |is_local| VipState { is_local, ..VipState::default() };
    BTreeMap::from([(LOCAL.parse().unwrap(), standing(true)), (ROUTED.parse().unwrap(), standing(false))])
}

/// Policies of the two VIPs; `None` without a service.
fn policies(desired: &Desired) -> [Option<u32>; 2] {
    [LOCAL, ROUTED].map(|vip| {
        let vip: IpAddr = vip.parse().unwrap();
        let service = desired
            .services
            .iter()
            .find(|service| service.address == vip && service.port == Ports::default())?;
        Some(service.policies.bits())
    })
}

#[test]
fn unmatched_packets_are_rejected_unless_the_vip_is_the_hosts_own() {
    use policy::{DROP_UNMATCHED as DROP, NO_ECHO, REJECT_UNMATCHED as REJECT};
    let vip_states = vip_states();
    for (lines, policies_of_vips) in [
        ("", [Some(0), Some(REJECT)]),
        ("unmatched = \"reject\"", [Some(REJECT), Some(REJECT)]),
        ("unmatched = \"drop\"", [Some(DROP), Some(DROP)]),
        ("unmatched = \"pass\"", [Some(0), Some(0)]),
        ("state = \"stopped\"", [None, Some(NO_ECHO | REJECT)]),
        ("state = \"stopped\"\nunmatched = \"drop\"", [Some(NO_ECHO | DROP), Some(NO_ECHO | DROP)]),
    ] {
        let known = ObservedInputs { vips: Some(&vip_states), ..ObservedInputs::default() };
        assert_eq!(policies(&desired(&config(lines), known)), policies_of_vips, "{lines}");
    }
    // A VIP of unknown state may be the host's own, so its packets are passed.
    assert_eq!(policies(&desired(&config(""), ObservedInputs::default())), [Some(0), Some(0)]);
}

#[test]
fn first_start_drops_packets_that_would_return_to_the_router() {
    let first = vips_without_listeners(&config(""), &vip_states());
    assert_eq!(policies(&first), [None, Some(policy::NO_ECHO | policy::DROP_UNMATCHED)]);
    assert_eq!(first.services.len(), 1, "{first:?}");
    assert!(vips_without_listeners(&config("unmatched = \"pass\""), &vip_states()).services.is_empty());
}
