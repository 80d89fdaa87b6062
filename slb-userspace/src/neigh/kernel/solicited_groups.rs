//! Membership in the multicast groups in which hosts solicit the IPv6 addresses that SLB answers for.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use rtnetlink::packet_route::{
    neighbour::{NeighbourAttribute, NeighbourFlags},
    route::RouteProtocol,
};

use super::{Kernel, NeighbourKey, key_of};

/// Marks proxy entries as SLB's, as `protocol` in `ip neighbour show proxy`.
const PROTOCOL: u8 = 0x5b;

impl Kernel {
    /// Makes an interface a member of the multicast group in which hosts solicit an IPv6 address (RFC 4291, 2.7.1), also
    /// after this process: by a proxy entry, marked as SLB's. Without the sysctl `proxy_ndp` it has no other effect.
    pub(in crate::neigh) async fn add_solicited_group(
        &self,
        (interface, address): NeighbourKey,
    ) -> Result<()> {
        let mut request =
            self.handle.neighbours().add(interface, address).flags(NeighbourFlags::Proxy).replace();
        request.message_mut().attributes.push(NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
        request
            .execute()
            .await
            .with_context(|| format!("cannot receive neighbour solicitations for {address}"))
    }

    /// Removes what [`Self::add_solicited_group`] has added at these interfaces, but for the addresses in `keep`.
    pub(in crate::neigh) async fn remove_solicited_groups(
        &mut self,
        interfaces: &BTreeSet<u32>,
        keep: &BTreeSet<NeighbourKey>,
    ) -> Result<()> {
        for message in self.proxy_messages().await? {
            let is_ours = |attribute: &NeighbourAttribute| {
                matches!(attribute, NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)))
            };
            let Some(key) = key_of(&message).filter(|_| message.attributes.iter().any(is_ours)) else {
                continue;
            };
            if interfaces.contains(&key.0) && !keep.contains(&key) {
                self.handle
                    .neighbours()
                    .del(message)
                    .execute()
                    .await
                    .with_context(|| format!("cannot remove the proxy entry of {}", key.1))?;
            }
        }
        Ok(())
    }
}
