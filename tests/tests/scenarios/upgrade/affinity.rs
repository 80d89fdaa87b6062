//! A listener with `session_persistence` and round robin: without its affinity entry, a client would get each server in
//! turn.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use slb_tests::{
    World,
    config::{Listener, Plan, Target},
    net::Family,
    server::Service,
};

const NAME: &str = "affinity";
const PORT: u16 = 8099;
/// New connections that must all go to the same server.
const CONNECTIONS: usize = 6;

/// Adds the group, with the plan's current servers.
pub(super) fn plan_group(plan: &mut Plan) {
    plan.put_group(plan.group(NAME, Service::Http.backend_port()));
}

/// Adds the listener.
pub(super) fn plan_listener(plan: &mut Plan) {
    plan.additional_listeners.push(Listener {
        scheduler: Some("rr"),
        session_persistence: Some("1h"),
        ..Listener::new(NAME, "tcp", PORT, Target::Group(NAME.to_owned()))
    });
}

/// A client address of each family, and its server.
pub(super) struct Affinity([String; 2]);

impl Affinity {
    /// Makes the affinity entries by one connection per family.
    pub(super) fn begin(world: &World) -> Result<Self> {
        let [v4, v6] = Family::ALL.map(|family| connect(world, family));
        Ok(Self([v4?, v6?]))
    }

    /// Fails if a new connection of one of the clients goes to another server.
    pub(super) fn expect_kept(&self, world: &World) -> Result<()> {
        for (family, server) in Family::ALL.into_iter().zip(&self.0) {
            for _ in 0..CONNECTIONS {
                let now = connect(world, family)?;
                ensure!(now == *server, "{family:?}: {now} in place of {server}");
            }
        }
        Ok(())
    }
}

/// Makes an exchange from the first client address; returns the server.
fn connect(world: &World, family: Family) -> Result<String> {
    world.client().exchange(Service::Http, SocketAddr::new(family.vip(), PORT))
}
