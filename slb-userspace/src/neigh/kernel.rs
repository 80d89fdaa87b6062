//! Queries the kernel's links, routes, addresses and neighbours over rtnetlink (RFC 3549).

mod ingress_filters;
mod solicited_groups;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt};
use nix::errno::Errno;
use rtnetlink::{
    Error, Handle, RouteMessageBuilder, new_connection,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
        link::{
            InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
            Prop, VlanProtocol, XdpAttached,
        },
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia},
    },
};
use slb_common::net::vlan::Vlan;
use tokio::task::JoinSet;
use tracing::debug;

use super::{Below, Link, Mac, Xdp, own_address::OwnAddress};

/// Returns the interfaces of the current network namespace.
///
/// # Errors
///
/// The query fails.
pub async fn links() -> Result<Vec<Link>> {
    Ok(Kernel::connect()?.links().await?.into_values().collect())
}

/// Returns those of these addresses that are local: on any interface or by a local route.
///
/// # Errors
///
/// The query fails.
pub async fn local_among(addresses: &BTreeSet<IpAddr>) -> Result<Vec<IpAddr>> {
    let kernel = Kernel::connect()?;
    let mut local = Vec::new();
    for address in addresses {
        if kernel.is_local(*address).await? {
            local.push(*address);
        }
    }
    Ok(local)
}

/// As [`links`], for a caller without a runtime.
///
/// # Errors
///
/// As [`links`].
pub fn links_now() -> Result<Vec<Link>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(links())
}

/// A neighbour: interface index and address.
pub(super) type NeighbourKey = (u32, IpAddr);

/// Where the kernel would send a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KernelRoute {
    /// No route.
    None,
    /// To this host.
    Local,
    /// To this neighbour.
    Via(NeighbourKey),
}

/// An entry of the neighbour table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Neighbour {
    /// Its MAC address, if the entry is usable.
    pub(super) mac: Option<Mac>,
    /// Whether the kernel maintains the entry, as opposed to a permanent or `NOARP` one.
    pub(super) dynamic: bool,
    /// Whether resolution has failed.
    pub(super) failed: bool,
}

/// A connection for queries. Notifications use another connection, so that a burst of them cannot displace a reply.
pub(super) struct Kernel {
    handle: Handle,
    connection: JoinSet<()>,
}

impl Kernel {
    pub(super) fn connect() -> Result<Self> {
        let (connection, handle, _) = new_connection().context("cannot open a netlink socket")?;
        Ok(Self { handle, connection: JoinSet::from_iter([connection]) })
    }

    /// Interfaces by index.
    pub(super) async fn links(&mut self) -> Result<HashMap<u32, Link>> {
        let replies: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.context("cannot list interfaces")?;
        self.ensure_alive()?;
        Ok(replies.into_iter().filter_map(link).map(|link| (link.index, link)).collect())
    }

    /// All neighbour entries.
    pub(super) async fn neighbours(&mut self) -> Result<HashMap<NeighbourKey, Neighbour>> {
        let replies: Vec<NeighbourMessage> =
            self.handle.neighbours().get().execute().try_collect().await.context("cannot list neighbours")?;
        self.ensure_alive()?;
        Ok(replies.iter().filter_map(neighbour).collect())
    }

    /// All local addresses.
    pub(super) async fn addresses(&mut self) -> Result<Vec<OwnAddress>> {
        let replies: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await.context("cannot list addresses")?;
        self.ensure_alive()?;
        Ok(replies.iter().filter_map(own_address).collect())
    }

    /// Proxy entries: the addresses this host may answer for, each with an interface.
    pub(super) async fn proxied(&mut self) -> Result<HashSet<NeighbourKey>> {
        Ok(self.proxy_messages().await?.iter().filter_map(key_of).collect())
    }

    async fn proxy_messages(&mut self) -> Result<Vec<NeighbourMessage>> {
        let replies: Vec<NeighbourMessage> = self
            .handle
            .neighbours()
            .get()
            .proxies()
            .execute()
            .try_collect()
            .await
            .context("cannot list proxy entries")?;
        self.ensure_alive()?;
        Ok(replies)
    }

    /// Whether packets to an address are delivered locally.
    pub(super) async fn is_local(&self, address: IpAddr) -> Result<bool> {
        Ok(self.route(address).await?.0 == KernelRoute::Local)
    }

    /// The route of a local packet to `destination`, and the route's MTU if it has one: configured, or learnt by path
    /// MTU discovery.
    pub(super) async fn route(&self, destination: IpAddr) -> Result<(KernelRoute, Option<u32>)> {
        let prefix = if destination.is_ipv4() { 32 } else { 128 };
        let question = RouteMessageBuilder::<IpAddr>::new().destination_prefix(destination, prefix)?.build();
        match self.handle.route().get(question).execute().next().await {
            Some(Ok(reply)) => Ok((route(&reply, destination), mtu(&reply))),
            // The kernel reports an error if there is no route.
            Some(Err(Error::NetlinkError(error))) => {
                debug!(%destination, error = %error.to_io(), "no route");
                Ok((KernelRoute::None, None))
            }
            Some(Err(error)) => {
                Err(error).with_context(|| format!("cannot look up the route to {destination}"))
            }
            None => anyhow::bail!("no answer to the look-up of the route to {destination}"),
        }
    }

    /// Makes the kernel resolve a neighbour, or verify its entry, as if a packet were sent to it (`NTF_USE`).
    ///
    /// Only for dynamic entries and missing ones: recent kernels turn a permanent entry into a dynamic one. Returns
    /// false if the neighbour table is full.
    pub(super) async fn solicit(&self, (interface, address): NeighbourKey) -> Result<bool> {
        let asked = self
            .handle
            .neighbours()
            .add(interface, address)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace()
            .execute()
            .await;
        match asked {
            Err(error) if is_table_full(&error) => Ok(false),
            asked => asked.map(|()| true).with_context(|| format!("cannot solicit {address}")),
        }
    }

    /// Makes the kernel verify an entry now, even if it considers it reachable. Without an answer the entry fails
    /// within seconds; until then it stays in use. Only for dynamic entries with a MAC address.
    pub(super) async fn verify(&self, (interface, address): NeighbourKey) -> Result<()> {
        self.handle
            .neighbours()
            .add(interface, address)
            .state(NeighbourState::Probe)
            .replace()
            .execute()
            .await
            .with_context(|| format!("cannot verify {address}"))
    }

    /// Fails if the connection broke: a list may then be incomplete.
    fn ensure_alive(&mut self) -> Result<()> {
        ensure!(self.connection.try_join_next().is_none(), "the netlink socket was closed");
        Ok(())
    }
}

/// Whether an error means that the neighbour table is full.
fn is_table_full(error: &Error) -> bool {
    matches!(error, Error::NetlinkError(error) if error.to_io().raw_os_error() == Some(Errno::ENOBUFS as i32))
}

/// Parses a link message; `None` if it has no name.
pub(crate) fn link(message: LinkMessage) -> Option<Link> {
    let header = message.header;
    let mut link = Link {
        index: header.index,
        name: String::new(),
        altnames: Vec::new(),
        mac: None,
        mtu: 0,
        up: header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        is_enabled: header.flags.contains(LinkFlags::Up),
        kind: None,
        xdp: None,
        master: None,
        vlan: None,
        below: None,
    };
    let mut namespace = None;
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::PropList(properties) => {
                link.altnames.extend(properties.into_iter().filter_map(|property| match property {
                    Prop::AltIfName(name) => Some(name),
                    _ => None,
                }));
            }
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Xdp(facts) => link.xdp = xdp(&facts),
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::Link(index) => link.below = Some(Below { index, namespace: None }),
            LinkAttribute::LinkNetNsId(id) => namespace = Some(id),
            LinkAttribute::Address(address) if header.link_layer_type == LinkLayerType::Ether => {
                link.mac = Mac::try_from(address).ok();
            }
            LinkAttribute::LinkInfo(info) => {
                for info in info {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                        LinkInfo::Data(InfoData::Vlan(properties)) => link.vlan = vlan(&properties),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    link.below = link.below.map(|below| Below { namespace, ..below });
    (!link.name.is_empty()).then_some(link)
}

/// The VLAN of a VLAN device.
fn vlan(properties: &[InfoVlan]) -> Option<Vlan> {
    let (mut id, mut is_service) = (None, false);
    for property in properties {
        match property {
            InfoVlan::Id(number) => id = Some(*number),
            InfoVlan::Protocol(protocol) => is_service = *protocol == VlanProtocol::Ieee8021Ad,
            _ => {}
        }
    }
    // VLAN 0 is no VLAN.
    id.map(|id| Vlan::new(id, is_service)).filter(|vlan| vlan.id() != 0)
}

/// The XDP program on an interface, if any.
fn xdp(facts: &[LinkXdp]) -> Option<Xdp> {
    let native = facts.iter().find_map(|fact| match fact {
        LinkXdp::Attached(XdpAttached::Driver | XdpAttached::Hardware) => Some(true),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(false),
        _ => None,
    })?;
    let program = facts.iter().find_map(|fact| match fact {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    })?;
    Some(Xdp { native, program })
}

/// The neighbour of a message, if it is an IP neighbour.
fn key_of(message: &NeighbourMessage) -> Option<NeighbourKey> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })?;
    Some((message.header.ifindex, address))
}

/// Parses an address message.
fn own_address(message: &AddressMessage) -> Option<OwnAddress> {
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link, `Address` is the peer's.
            AddressAttribute::Local(own) => local = Some(*own),
            AddressAttribute::Address(own) => address = Some(*own),
            _ => {}
        }
    }
    let header = &message.header;
    let unusable = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
    Some(OwnAddress {
        interface: header.index,
        address: local.or(address)?,
        prefix: header.prefix_len,
        is_usable: !header.flags.intersects(unusable),
        // The same bit marks temporary IPv6 addresses (RFC 8981), which are preferred.
        is_secondary: header.flags.contains(AddressHeaderFlags::Secondary)
            && header.family == AddressFamily::Inet,
    })
}

/// Parses a neighbour message; `None` if it is about no IP neighbour.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<(NeighbourKey, Neighbour)> {
    let header = &message.header;
    if header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let key = key_of(message)?;
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(address) => Mac::try_from(address.as_slice()).ok(),
        _ => None,
    });
    use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
    // While the kernel verifies a stale, delay or probe entry, it still sends to it.
    let usable = matches!(header.state, Reachable | Stale | Delay | Probe | Noarp | Permanent);
    let dynamic = !matches!(header.state, Noarp | Permanent);
    let failed = header.state == NeighbourState::Failed;
    Some((key, Neighbour { mac: mac.filter(|_| usable), dynamic, failed }))
}

/// Parses the reply to a route look-up.
fn route(reply: &RouteMessage, destination: IpAddr) -> KernelRoute {
    match reply.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return KernelRoute::Local,
        _ => return KernelRoute::None,
    }
    let mut interface = None;
    let mut next_hop = destination;
    for attribute in &reply.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(address))
            | RouteAttribute::Via(RouteVia::Inet(address)) => {
                next_hop = IpAddr::V4(*address);
            }
            RouteAttribute::Gateway(RouteAddress::Inet6(address))
            | RouteAttribute::Via(RouteVia::Inet6(address)) => next_hop = IpAddr::V6(*address),
            _ => {}
        }
    }
    interface.map_or(KernelRoute::None, |index| KernelRoute::Via((index, next_hop)))
}

/// The MTU in the reply to a route look-up. 0 means none.
fn mtu(reply: &RouteMessage) -> Option<u32> {
    let metrics = reply.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => Some(metrics),
        _ => None,
    })?;
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) if *mtu != 0 => Some(*mtu),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::neighbour::NeighbourHeader;

    use super::*;

    #[test]
    fn only_usable_entries_have_an_address() {
        use NeighbourState::{Delay, Failed, Incomplete, Noarp, Permanent, Probe, Reachable, Stale};
        let read = |state| {
            let mut message = NeighbourMessage::default();
            message.header = NeighbourHeader { ifindex: 3, state, ..NeighbourHeader::default() };
            message.attributes = vec![
                NeighbourAttribute::Destination(NeighbourAddress::Inet([192, 0, 2, 1].into())),
                NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 1]),
            ];
            let (key, neighbour) = neighbour(&message).unwrap();
            assert_eq!(key, (3, IpAddr::from([192, 0, 2, 1])));
            assert_eq!(neighbour.failed, state == Failed, "{state}");
            (neighbour.mac.is_some(), neighbour.dynamic)
        };
        for state in [Reachable, Stale, Delay, Probe] {
            assert_eq!(read(state), (true, true), "{state}");
        }
        for state in [Incomplete, Failed, NeighbourState::None] {
            assert_eq!(read(state), (false, true), "{state}");
        }
        for state in [Noarp, Permanent] {
            assert_eq!(read(state), (true, false), "{state}");
        }
    }

    #[test]
    fn full_neighbour_table_is_recognised_by_its_errno() {
        let error = |errno: Errno| {
            let mut message = rtnetlink::packet_core::ErrorMessage::default();
            message.code = std::num::NonZeroI32::new(-(errno as i32));
            is_table_full(&Error::NetlinkError(message))
        };
        assert!(error(Errno::ENOBUFS));
        assert!(!error(Errno::ENETDOWN));
        assert!(!is_table_full(&Error::RequestFailed));
    }

    #[test]
    fn gateway_of_either_family_is_the_next_hop() {
        let destination = IpAddr::from([198, 51, 100, 1]);
        let reply = |kind, attributes| {
            let mut message = RouteMessage::default();
            message.header.kind = kind;
            message.attributes = attributes;
            route(&message, destination)
        };
        let gateway = [192, 0, 2, 1];
        let gateway6 = "2001:db8::1".parse().unwrap();
        let on_link = vec![RouteAttribute::Oif(2)];
        let via = vec![RouteAttribute::Oif(2), RouteAttribute::Gateway(RouteAddress::Inet(gateway.into()))];
        let via6 = vec![RouteAttribute::Oif(2), RouteAttribute::Via(RouteVia::Inet6(gateway6))];
        assert_eq!(reply(RouteType::Unicast, on_link.clone()), KernelRoute::Via((2, destination)));
        assert_eq!(reply(RouteType::Unicast, via), KernelRoute::Via((2, gateway.into())));
        assert_eq!(reply(RouteType::Unicast, via6), KernelRoute::Via((2, gateway6.into())));
        assert_eq!(reply(RouteType::Local, on_link.clone()), KernelRoute::Local);
        for kind in [RouteType::Multicast, RouteType::Broadcast, RouteType::Unreachable, RouteType::BlackHole]
        {
            assert_eq!(reply(kind, on_link.clone()), KernelRoute::None);
        }
        assert_eq!(reply(RouteType::Unicast, vec![]), KernelRoute::None);
    }
}
