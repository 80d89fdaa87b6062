//! The interfaces of this host with their addresses, followed as [`super::vips`] does.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use rtnetlink::MulticastGroup;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Link,
    follow::{self, Follower},
    kernel::Kernel,
    notifications::Notifications,
    own_address::OwnAddress,
};

const GROUPS: [MulticastGroup; 3] =
    [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
/// Time in which notifications are merged before the interfaces are read.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// Interval at which everything is read without a notification.
const REFRESH: Duration = Duration::from_secs(20);
/// Longest time of one pass.
const PASS_TIMEOUT: Duration = Duration::from_secs(10);

/// The interfaces of this host, and their addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostInterfaces {
    /// Interfaces in the order of their indexes.
    pub links: Vec<Link>,
    /// Addresses in no order.
    addresses: Vec<OwnAddress>,
}

impl HostInterfaces {
    /// Indexes of the interfaces with an address whose on-link subnet contains `address`.
    pub fn on_link_with(&self, address: IpAddr) -> impl Iterator<Item = u32> {
        self.addresses.iter().filter(move |own| own.contains(address)).map(|own| own.interface)
    }

    /// The link-local address of an interface (RFC 4291, 2.5.6), once it is usable.
    pub fn link_local(&self, interface: u32) -> Option<Ipv6Addr> {
        self.addresses.iter().find_map(|own| match own.address {
            IpAddr::V6(address)
                if own.interface == interface && own.is_usable && address.is_unicast_link_local() =>
            {
                Some(address)
            }
            _ => None,
        })
    }

    /// Of these interfaces and addresses, each with an interface's index and a prefix length.
    #[cfg(test)]
    pub(crate) fn sample(links: Vec<Link>, addresses: &[(u32, &str, u8)]) -> Self {
        let own = |(interface, address, prefix): &(u32, &str, u8)| OwnAddress {
            interface: *interface,
            address: address.parse().unwrap(),
            prefix: *prefix,
            is_usable: true,
            is_secondary: false,
        };
        Self { links, addresses: addresses.iter().map(own).collect() }
    }
}

/// Follows the interfaces of the current network namespace until the receiver is dropped. It is empty at first.
///
/// # Errors
/// A netlink socket cannot be opened. After later failures, which are logged, it is reopened.
pub fn follow() -> Result<watch::Receiver<Arc<HostInterfaces>>> {
    let notifications = InterfaceFollower::open()?;
    let (published, interfaces) = watch::channel(Arc::default());
    tokio::spawn(follow::run(InterfaceFollower { published }, notifications));
    Ok(interfaces)
}

struct InterfaceFollower {
    published: watch::Sender<Arc<HostInterfaces>>,
}

impl Follower for InterfaceFollower {
    const WHAT: &'static str = "subnets";
    type Connections = Notifications;

    fn open() -> Result<Notifications> {
        Notifications::subscribe(&GROUPS)
    }

    /// Publishes until the receiver is dropped or a socket fails.
    async fn follow(&mut self, mut notifications: Notifications) -> Result<()> {
        let mut pass_at = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = self.published.closed() => return Ok(()),
                () = sleep_until(pass_at) => {
                    let read = timeout(PASS_TIMEOUT, read()).await.context("the kernel did not answer in time")??;
                    self.published.send_if_modified(|published| {
                        let changed = **published != read;
                        if changed {
                            *published = Arc::new(read);
                        }
                        changed
                    });
                    pass_at = Instant::now() + REFRESH;
                }
                notification = notifications.next() => {
                    notification.context("the netlink socket was closed")?;
                    pass_at = pass_at.min(Instant::now() + DEBOUNCE);
                }
            }
        }
    }

    fn is_needed(&self) -> bool {
        !self.published.is_closed()
    }
}

/// Reads the interfaces of the current network namespace.
///
/// # Errors
/// The query fails.
pub async fn read() -> Result<HostInterfaces> {
    let mut kernel = Kernel::connect()?;
    let mut links: Vec<Link> = kernel.links().await?.into_values().collect();
    links.sort_by_key(|link| link.index);
    Ok(HostInterfaces { links, addresses: kernel.addresses().await? })
}

/// A BPF filter at the ingress of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IngressFilter {
    /// Its priority.
    pub priority: u16,
    /// Its handle.
    pub handle: u32,
    /// Id of its program.
    pub program: u32,
}

/// BPF filters at the ingress of an interface.
///
/// # Errors
/// The query fails.
pub async fn ingress_filters(interface: u32) -> Result<Vec<IngressFilter>> {
    Kernel::connect()?.ingress_filters(interface).await
}

/// Makes interfaces receive neighbour solicitations for the IPv6 addresses of `wanted`, and no more for those of `gone`
/// that this function has added. It lasts beyond this process.
///
/// # Errors
/// The kernel refuses it.
pub async fn set_solicited_groups(
    gone: &BTreeSet<(u32, IpAddr)>,
    wanted: &BTreeSet<(u32, IpAddr)>,
) -> Result<()> {
    let mut kernel = Kernel::connect()?;
    let wanted = wanted.iter().filter(|(_, address)| address.is_ipv6()).copied().collect();
    kernel.remove_solicited_groups(gone).await?;
    kernel.add_solicited_groups(&wanted).await
}
