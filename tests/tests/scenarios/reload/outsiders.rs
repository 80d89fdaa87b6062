//! Servers that may have no flows, because they are in neither the old nor the new configuration of a reload.

use std::collections::BTreeMap;

use anyhow::Result;
use slb_tests::{
    World,
    client::PATIENCE,
    config::Plan,
    eligible_servers::{ServerState, may_have_flows},
    wait::wait_for,
};

/// The state of a server whose checks succeed, in a configuration without drain.
pub(super) fn state(plan: &Plan, name: &str) -> ServerState {
    match plan.servers.iter().find(|server| server.name == name) {
        Some(server) => ServerState { is_in_service: server.weight > 0, ..ServerState::SERVING },
        None => ServerState::REMOVED,
    }
}

/// Packets that servers receive while they may have no flows.
#[derive(Default)]
pub(super) struct Outsiders {
    /// For each such server, the number of packets that it had received before.
    since: BTreeMap<usize, u64>,
    packets: u64,
}

impl Outsiders {
    /// A reload will replace the plan `before`: from now on, servers of either plan may have flows.
    pub(super) fn change(&mut self, world: &World, before: &Plan) -> Result<()> {
        for (index, backend) in world.net.backends.iter().enumerate() {
            let states = [before, &world.plan].map(|plan| state(plan, &backend.name));
            if let Some(since) = self.since.get(&index).copied().filter(|_| may_have_flows(&states)) {
                self.packets += backend.received()? - since;
                self.since.remove(&index);
            }
        }
        Ok(())
    }

    /// The reload is complete: only servers of the plan may have flows.
    pub(super) fn settled(&mut self, world: &World) -> Result<()> {
        for (index, backend) in world.net.backends.iter().enumerate() {
            if !may_have_flows(&[state(&world.plan, &backend.name)]) && !self.since.contains_key(&index) {
                self.since.insert(index, quiet(world, index)?);
            }
        }
        Ok(())
    }

    /// All of these packets.
    pub(super) fn packets(self, world: &World) -> Result<u64> {
        let backends = &world.net.backends;
        let of = |(index, since): (usize, u64)| Ok(backends[index].received()? - since);
        self.since.into_iter().map(of).try_fold(self.packets, |sum, packets: Result<u64>| Ok(sum + packets?))
    }
}

/// Waits until no probe or other packet is on its way to a server; returns the number of packets that it has received.
fn quiet(world: &World, index: usize) -> Result<u64> {
    let (mut last, mut same) = (None, 0);
    wait_for("a server that gets nothing", PATIENCE, || {
        let received = world.net.backends[index].received()?;
        same = if last == Some(received) { same + 1 } else { 0 };
        last = Some(received);
        Ok((same == 10).then_some(received))
    })
}
