//! Tracks the next hop of each server, and logs its changes.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use slb_common::{
    abi::{MacPair, backend::NextHop},
    net::vlan::Vlan,
};

use super::Observations;
use crate::neigh::{NextHop as ResolvedHop, Resolution, Resolutions};
use slb_control::{
    dataplane::state::mac,
    listener_index::{LogNames, join_names},
    model::ServerRoute,
};

/// A change of a server's next hop, and where its packets leave now. Servers with equal changes share a log line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum NextHopChange {
    /// There is no next hop any more.
    Lost { why: String },
    /// There is a next hop again.
    Restored(Egress),
    /// Packets leave by another interface, or to another hardware address.
    Replaced(Egress),
    /// The path MTU has changed.
    Mtu(Egress),
    /// The server is now reached through a router and was not, or the reverse.
    Gateway(Egress, bool),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Egress {
    interface: Option<String>,
    mac: String,
}

/// A server whose next hop has changed.
struct ChangedServer {
    server: IpAddr,
    /// How long the server had, or had not, a next hop before, if that has changed.
    lasted: Option<Duration>,
    mtu: Option<u32>,
    /// The previous MTU, if it differs.
    before: Option<u32>,
}

impl Observations {
    /// Records the kernel's next hops. Returns whether a server has a new or changed one.
    pub(in crate::daemon) fn on_next_hops(&mut self, neighbours: &Resolutions, now: Duration) -> bool {
        let mut has_new = false;
        let mut changes: BTreeMap<NextHopChange, Vec<ChangedServer>> = BTreeMap::new();
        for (address, resolution) in neighbours.iter() {
            let hop = self.next_hop(address, resolution);
            let lasted = self.next_hop_durations.note(*address, hop.is_ok(), now);
            let before = self.next_hops.get(address);
            if let Some(change) = self.change(before, &hop) {
                let mtu = |hop: &Result<ServerRoute, _>| hop.as_ref().ok().map(|hop| hop.hop.mtu);
                let (mtu, mtu_before) = (mtu(&hop), before.and_then(mtu));
                let before = mtu_before.filter(|_| mtu.is_some() && mtu != mtu_before);
                let changed = ChangedServer { server: *address, lasted, mtu, before };
                changes.entry(change).or_default().push(changed);
            }
            match &hop {
                Ok(_) => {
                    has_new |= before != Some(&hop);
                    self.lost.remove(address);
                }
                Err(_) if matches!(before, Some(Ok(_))) && is_unresolved(resolution) => {
                    self.lost.insert(*address, now);
                }
                Err(_) => {}
            }
            self.next_hops.insert(*address, hop);
        }
        self.next_hops.retain(|address, _| neighbours.contains_key(address));
        self.lost.retain(|address, _| neighbours.contains_key(address));
        self.next_hop_durations.retain(|address| neighbours.contains_key(address));
        changes.iter().for_each(|(change, servers)| self.log_next_hops(change, servers));
        has_new
    }

    /// Compares the next hop of a server with the previous one. Returns `None` if there is nothing to log.
    fn change(
        &self,
        before: Option<&Result<ServerRoute, String>>,
        hop: &Result<ServerRoute, String>,
    ) -> Option<NextHopChange> {
        let now = match hop {
            Ok(reached) => reached,
            Err(why) => return (before != Some(hop)).then(|| NextHopChange::Lost { why: why.clone() }),
        };
        let exit = || Egress {
            interface: self.interfaces.get(&now.hop.ifindex).map(|name| shown(name, now.hop.macs.vlan)),
            mac: mac(now.hop.macs.receiver()),
        };
        let link_and_macs = |hop: &NextHop| (hop.ifindex, hop.macs);
        match before? {
            Err(_) => Some(NextHopChange::Restored(exit())),
            Ok(before) if link_and_macs(&before.hop) != link_and_macs(&now.hop) => {
                Some(NextHopChange::Replaced(exit()))
            }
            Ok(before) if before.through_gateway != now.through_gateway => {
                Some(NextHopChange::Gateway(exit(), now.through_gateway))
            }
            Ok(before) => (before.hop.mtu != now.hop.mtu).then(|| NextHopChange::Mtu(exit())),
        }
    }

    /// Logs one line for all servers with the same change, and at level `debug` one line for each server.
    fn log_next_hops(&self, change: &NextHopChange, servers: &[ChangedServer]) {
        let addresses: Vec<_> = servers.iter().map(|changed| changed.server).collect();
        let LogNames { load_balancer, listener, server_group, check } = self.users.of_servers(&addresses);
        let (one, several) = match &addresses[..] {
            [one] => (Some(one), None),
            all => (None, Some(all.len())),
        };
        let server = one.map(tracing::field::display);
        let named = several.and_then(|_| join_names(&addresses.iter().collect()));
        let lasted = servers.iter().filter_map(|changed| changed.lasted).max().map(tracing::field::debug);
        let sizes = |of: fn(&ChangedServer) -> Option<u32>| {
            let sizes = servers.iter().filter_map(of).collect();
            join_names(&sizes).map(tracing::field::display)
        };
        let (mtu, before) = (sizes(|changed| changed.mtu), sizes(|changed| changed.before));
        /// Logs with the fields that identify the servers and their listeners.
        macro_rules! log {
            ($level:ident, $($what:tt)*) => {
                tracing::$level!(
                    server, count = several, servers = named, load_balancer, listener, server_group, check, lasted, $($what)*
                )
            };
        }
        match change {
            NextHopChange::Lost { why } => log!(warn, why, "gets no packets"),
            NextHopChange::Restored(Egress { interface, mac }) => {
                log!(info, interface = interface.as_deref(), mac, mtu, before, "gets packets again");
            }
            NextHopChange::Replaced(Egress { interface, mac }) => {
                log!(info, interface = interface.as_deref(), mac, mtu, before, "next hop changed");
            }
            NextHopChange::Mtu(Egress { interface, mac }) => {
                log!(info, interface = interface.as_deref(), mac, mtu, before, "path MTU changed");
            }
            NextHopChange::Gateway(Egress { interface, mac }, through) => {
                let how = if *through { "through" } else { "without" };
                log!(info, interface = interface.as_deref(), mac, mtu, before, "reached {how} a gateway now");
            }
        }
        for ChangedServer { server, lasted, mtu, before } in servers.iter().filter(|_| several.is_some()) {
            let lasted = lasted.map(tracing::field::debug);
            tracing::debug!(%server, lasted, mtu, before, ?change, "next hop");
        }
    }

    pub(in crate::daemon) fn has_restored_next_hops(&self) -> bool {
        !self.restored.is_empty()
    }

    /// Drops next hops of an earlier run. From now on a server without a next hop in the kernel receives no packets.
    pub(in crate::daemon) fn drop_restored_next_hops(&mut self) {
        self.restored.clear();
    }

    /// The interface by which packets to a next hop leave, and their VLAN there.
    fn exit(&self, hop: &ResolvedHop) -> (u32, Vlan) {
        let vlan = self.vlans.get(&hop.interface_index);
        vlan.map_or((hop.interface_index, Vlan::NONE), |exit| (exit.below, exit.vlan))
    }

    fn next_hop(&self, address: &IpAddr, resolution: &Resolution) -> Result<ServerRoute, String> {
        match resolution {
            Resolution::Resolved(hop) if self.interfaces.contains_key(&self.exit(hop).0) => {
                let (ifindex, vlan) = self.exit(hop);
                let macs = MacPair::new(hop.destination_mac, hop.source_mac).in_vlan(vlan);
                let next_hop = NextHop { ifindex, mtu: hop.mtu, macs };
                Ok(ServerRoute { hop: next_hop, through_gateway: hop.through_gateway })
            }
            Resolution::Resolved(hop) if self.refused.contains_key(&hop.interface_index) => {
                let why = &self.refused[&hop.interface_index];
                Err(format!("it is reached through {}, which does not forward: {why}", hop.interface))
            }
            Resolution::Resolved(hop) if self.absent.contains(&hop.interface) => {
                Err(format!("it was reached through {}, which is gone", hop.interface))
            }
            Resolution::Resolved(hop) => Err(match self.advice.get(&hop.interface) {
                Some(advice) => format!("it is reached through {}: {advice}", hop.interface),
                None => {
                    format!("it is reached through {}, which is not in [daemon] interfaces", hop.interface)
                }
            }),
            Resolution::Unresolved(why) => {
                // Traffic has used this next hop, and the kernel has not contradicted it yet.
                let hop = self.restored.get(address).filter(|_| !why.is_conclusive()).copied();
                Ok(ServerRoute { hop: hop.ok_or_else(|| why.to_string())?, through_gateway: false })
            }
        }
    }
}

/// An interface and the VLAN in which frames leave.
fn shown(interface: &str, vlan: Vlan) -> String {
    if vlan.is_none() { interface.to_owned() } else { format!("{interface}, VLAN {}", vlan.id()) }
}

fn is_unresolved(resolution: &Resolution) -> bool {
    matches!(resolution, Resolution::Unresolved(_))
}
