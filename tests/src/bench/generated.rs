//! Generates configurations with many listeners.

use std::{fmt::Write as _, net::Ipv4Addr};

/// Maximum number of listeners of a load balancer.
const LISTENERS: u32 = 50;

/// `count` listeners without health checks, in load balancers whose VIPs begin at `first_vip`. Each has a server group,
/// and so a server table, named `name` plus the listener's number.
pub(super) fn listeners(name: &str, first_vip: Ipv4Addr, count: u32) -> String {
    let mut text = String::new();
    for listener in 0..count {
        let (balancer, number) = (listener / LISTENERS, listener % LISTENERS);
        if number == 0 {
            let vip = Ipv4Addr::from(u32::from(first_vip) + balancer);
            let _ = write!(text, "[[load_balancer]]\nname = \"{name}{balancer}\"\naddresses = [\"{vip}\"]\n");
        }
        let _ = write!(
            text,
            "[[load_balancer.listener]]\nname = \"l{number}\"\nprotocol = \"tcp\"\nport = {}\nserver_group = \"{name}{listener}\"\n\
             health_check = {{ kind = \"none\" }}\n",
            1000 + number
        );
    }
    text
}
