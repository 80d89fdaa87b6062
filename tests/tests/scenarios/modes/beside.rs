//! Listeners of all modes at once: `nat` as in every plan, `dsr` at the servers' own ports of the same VIPs, `ipip` at
//! other VIPs.

use std::{fmt::Write as _, net::IpAddr};

use anyhow::Result;
use slb_tests::{
    World,
    config::{Plan, health_check},
    net::Family,
    server::Service,
};

/// The VIP of listeners in mode `ipip`.
pub(crate) fn tunnel_vip(family: Family) -> IpAddr {
    match family.vip() {
        IpAddr::V4(vip) => (u32::from(vip) + 1).to_be_bytes().into(),
        IpAddr::V6(vip) => (u128::from(vip) + 1).to_be_bytes().into(),
    }
}

/// Adds listeners in modes `dsr` and `ipip`, with the plan's current servers.
pub(crate) fn plan(plan: &mut Plan) {
    let [lines, echo] = [Service::Lines, Service::Echo].map(Service::backend_port);
    let checked = |port: u16| health_check(&format!("kind = \"tcp\", port = {port}"));
    let listener = |name: &str, protocol: &str, port: u16, mode: &str, more: &str| {
        format!(
            "\n[[load_balancer.listener]]\nname = \"{name}\"\nprotocol = \"{protocol}\"\nport = {port}\nmode = \"{mode}\"\n{more}\n{}",
            checked(lines)
        )
    };
    let follow = "server_group = \"echo\"\nunknown_datagrams = \"follow\"";
    let mut text = listener("echo-dsr", "udp", echo, "dsr", follow);
    let [v4, v6] = Family::ALL.map(tunnel_vip);
    let _ = write!(text, "\n[[load_balancer]]\nname = \"tunnels\"\naddresses = [\"{v4}\", \"{v6}\"]\n");
    text += &listener("echo", "udp", echo, "ipip", follow);
    text += &listener("lines", "tcp", lines, "ipip", "server_group = \"tunnels\"");
    text += "\n[[server_group]]\nname = \"tunnels\"\nservers = [\n";
    for server in &plan.servers {
        for address in &server.addresses {
            let _ = writeln!(
                text,
                "  {{ address = \"{address}\", port = {lines}, weight = {} }},",
                server.weight
            );
        }
    }
    text += "]\n";
    plan.direct = true;
    plan.changes.clear();
    plan.append(&text);
}

/// Prepares servers for packets of all modes, except that tunnels need a decapsulator.
pub(crate) fn prepare(world: &mut World) -> Result<()> {
    world.net.route_answers()?;
    for backend in &world.net.backends {
        backend.add_vips()?;
        let [v4, v6] = Family::ALL.map(tunnel_vip);
        backend.namespace.ip(&format!("addr add {v4}/32 dev lo\naddr add {v6}/128 dev lo"))?;
    }
    world.plan.tunnel_addresses = Family::ALL.map(|family| world.net.slb_address(family)).into();
    Ok(())
}
