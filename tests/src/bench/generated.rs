//! Generates configurations with many listeners.

use std::net::Ipv4Addr;

use crate::config::{Listener, LoadBalancer, Target};

/// Maximum number of listeners of a load balancer.
const LISTENERS: u32 = 50;

/// Load balancers with `count` listeners without health checks, and with VIPs that begin at `first_vip`. Each listener
/// has a server group, and so a server table, named `name` plus the listener's number.
pub(super) fn load_balancers(name: &str, first_vip: Ipv4Addr, count: u32) -> Vec<LoadBalancer> {
    let listener = |number: u32| {
        let (place, target) = (number % LISTENERS, Target::Group(format!("{name}{number}")));
        Listener { check: None, ..Listener::new(format!("l{place}"), "tcp", 1000 + place as u16, target) }
    };
    let balancer = |number: u32| LoadBalancer {
        name: format!("{name}{number}"),
        addresses: vec![Ipv4Addr::from(u32::from(first_vip) + number).into()],
        listeners: (number * LISTENERS..count.min((number + 1) * LISTENERS)).map(listener).collect(),
    };
    (0..count.div_ceil(LISTENERS)).map(balancer).collect()
}
