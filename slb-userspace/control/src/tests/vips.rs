//! Packets for a VIP that no listener takes.

use std::{collections::BTreeMap, net::IpAddr};

use slb_common::abi::service::policy;

use crate::desired::{Desired, Known, desired, vips_alone};
use crate::inputs::Standing;
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
        backend_port = 80
        "#
    ))
}

fn standings() -> BTreeMap<IpAddr, Standing> {
    let standing = |is_local| Standing { is_local, ..Standing::default() };
    BTreeMap::from([(LOCAL.parse().unwrap(), standing(true)), (ROUTED.parse().unwrap(), standing(false))])
}

/// Policies of the two VIPs; `None` without a service.
fn policies(desired: &Desired) -> [Option<u32>; 2] {
    [LOCAL, ROUTED].map(|vip| {
        let vip: IpAddr = vip.parse().unwrap();
        let service = desired.services.iter().find(|service| service.address == vip && service.port == 0)?;
        Some(service.policy)
    })
}

#[test]
fn unmatched_packets_are_rejected_unless_the_vip_is_the_hosts_own() {
    use policy::{DROP_UNMATCHED as DROP, NO_ECHO, REJECT_UNMATCHED as REJECT};
    let standings = standings();
    for (lines, policies_of_vips) in [
        ("", [Some(0), Some(REJECT)]),
        ("unmatched = \"reject\"", [Some(REJECT), Some(REJECT)]),
        ("unmatched = \"drop\"", [Some(DROP), Some(DROP)]),
        ("unmatched = \"pass\"", [Some(0), Some(0)]),
        ("state = \"stopped\"", [None, Some(NO_ECHO | REJECT)]),
        ("state = \"stopped\"\nunmatched = \"drop\"", [Some(NO_ECHO | DROP), Some(NO_ECHO | DROP)]),
    ] {
        let known = Known { vips: Some(&standings), ..Known::default() };
        assert_eq!(policies(&desired(&config(lines), known)), policies_of_vips, "{lines}");
    }
    // A VIP of unknown standing may be the host's own, so its packets are passed.
    assert_eq!(policies(&desired(&config(""), Known::default())), [Some(0), Some(0)]);
}

#[test]
fn a_first_start_drops_what_would_go_back_to_the_router() {
    let first = vips_alone(&config(""), &standings());
    assert_eq!(policies(&first), [None, Some(policy::NO_ECHO | policy::DROP_UNMATCHED)]);
    assert_eq!(first.services.len(), 1, "{first:?}");
    assert!(vips_alone(&config("unmatched = \"pass\""), &standings()).services.is_empty());
}
