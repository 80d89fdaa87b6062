//! Listeners of all modes at once: `nat` as in every plan, `dsr` at the servers' own ports of the same VIPs, `ipip` at
//! other VIPs.

use std::net::IpAddr;

use anyhow::Result;
use slb_tests::{
    World,
    config::{HealthCheck, Listener, LoadBalancer, Mode, Plan, Target},
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
    // An echo server is probed at its server of lines.
    let check = Some(HealthCheck::new(format!("kind = \"tcp\", port = {lines}")));
    let echoes = |name: &str, mode| Listener {
        mode,
        check: check.clone(),
        unknown_datagrams: Some("follow"),
        ..Listener::new(name, "udp", echo, Target::Group("echo".to_owned()))
    };
    let tunnels = Listener {
        mode: Mode::Ipip,
        check: check.clone(),
        ..Listener::new("lines", "tcp", lines, Target::Group("tunnels".to_owned()))
    };
    plan.direct = true;
    plan.additional_listeners = vec![echoes("echo-dsr", Mode::Dsr)];
    plan.additional_load_balancers = vec![LoadBalancer {
        name: "tunnels".to_owned(),
        addresses: Family::ALL.map(tunnel_vip).into(),
        listeners: vec![echoes("echo", Mode::Ipip), tunnels],
    }];
    plan.put_group(plan.group("tunnels", lines));
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
