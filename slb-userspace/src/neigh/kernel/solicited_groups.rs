//! Membership in the multicast groups in which hosts solicit the IPv6 addresses that SLB answers for.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use rtnetlink::{
    Error,
    packet_route::{
        neighbour::{NeighbourAttribute, NeighbourFlags},
        route::RouteProtocol,
    },
};

use super::{Kernel, NeighbourKey, key_of};

/// Marks proxy entries as SLB's, as `protocol` in `ip neighbour show proxy`.
const PROTOCOL: u8 = 0x5b;

impl Kernel {
    /// Makes interfaces members of the multicast groups in which hosts solicit these IPv6 addresses (RFC 4291, 2.7.1),
    /// also after this process: by proxy entries, marked as SLB's. Without the sysctl `proxy_ndp` they have no other
    /// effect. An entry that exists has the same effect, and stays as it is.
    pub(in crate::neigh) async fn add_solicited_groups(
        &mut self,
        wanted: &BTreeSet<NeighbourKey>,
    ) -> Result<()> {
        let existing = self.proxied().await?;
        for (interface, address) in wanted.iter().filter(|key| !existing.contains(key)) {
            let mut request = self.handle.neighbours().add(*interface, *address).flags(NeighbourFlags::Proxy);
            let attributes = &mut request.message_mut().attributes;
            attributes.push(NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
            request
                .execute()
                .await
                .with_context(|| format!("cannot receive neighbour solicitations for {address}"))?;
        }
        Ok(())
    }

    /// Removes what [`Self::add_solicited_groups`] has added for these addresses.
    pub(in crate::neigh) async fn remove_solicited_groups(
        &mut self,
        gone: &BTreeSet<NeighbourKey>,
    ) -> Result<()> {
        for message in self.proxy_messages().await? {
            let is_ours = message.attributes.iter().any(|attribute| {
                matches!(attribute, NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)))
            });
            let Some(key) = key_of(&message).filter(|key| is_ours && gone.contains(key)) else { continue };
            match self.handle.neighbours().del(message).execute().await {
                Err(Error::NetlinkError(error))
                    if error.to_io().raw_os_error() == Some(Errno::ENOENT as i32) => {}
                removed => removed.with_context(|| format!("cannot remove the proxy entry of {}", key.1))?,
            }
        }
        Ok(())
    }
}
