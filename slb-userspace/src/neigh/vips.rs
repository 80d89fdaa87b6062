//! State of VIPs and local addresses on this host: whether they are local, whether the host answers ARP and neighbour
//! discovery for them, and whether it opens connections from them. Follows the kernel's tables as [`super::Resolver`] does.

mod answers;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::{
    follow::{self, Follower},
    kernel::Kernel,
    notifications::{self, Notifications},
};
use answers::HostAddresses;
use slb_control::inputs::VipState;

/// Time in which notifications are merged before the tables are read.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Interval at which everything is read without a notification.
const REFRESH: Duration = Duration::from_secs(20);
/// Longest time of one pass.
const PASS_TIMEOUT: Duration = Duration::from_secs(10);
/// Reading takes at most 1/5 of the time, however often routes change.
const MAX_SHARE_OF_TIME: u32 = 5;

/// State of every watched VIP.
pub type VipStates = Arc<BTreeMap<IpAddr, VipState>>;

/// Follows the state of VIPs until dropped.
#[derive(Debug)]
pub struct VipWatcher {
    watched: watch::Sender<BTreeSet<IpAddr>>,
}

impl VipWatcher {
    /// Reads the state of VIPs in the current network namespace, and follows it.
    ///
    /// The receiver gets a new map after each change. The task ends when either half is dropped.
    ///
    /// # Errors
    /// The kernel cannot be queried. After later failures, which are logged, the query is repeated.
    pub async fn spawn(vips: BTreeSet<IpAddr>) -> Result<(Self, watch::Receiver<VipStates>)> {
        // Subscribe before the first reading, so that later changes are noticed.
        let notifications = Notifications::subscribe(&notifications::ROUTES)?;
        let first = read(&vips).await?;
        let (watched, watched_set) = watch::channel(vips);
        let (published, vip_states) = watch::channel(Arc::new(first));
        tokio::spawn(follow::run(VipWorker { watched_set, published }, notifications));
        Ok((Self { watched }, vip_states))
    }

    /// Replaces the watched VIPs.
    pub fn watch(&self, vips: BTreeSet<IpAddr>) {
        self.watched.send_if_modified(|watched| {
            let changed = *watched != vips;
            *watched = vips;
            changed
        });
    }
}

/// The current state of VIPs.
///
/// # Errors
/// The kernel cannot be queried, or does not answer in time.
pub async fn read(vips: &BTreeSet<IpAddr>) -> Result<BTreeMap<IpAddr, VipState>> {
    let reading = async {
        let mut kernel = Kernel::connect()?;
        let mut host = HostAddresses::read(&mut kernel).await?;
        let mut vip_states = BTreeMap::new();
        for &vip in vips {
            let is_local = host.has_address(vip) || kernel.is_local(vip).await?;
            let (unanswered, own_ports_from) = (host.unanswered(vip, is_local), host.own_ports_from(vip));
            vip_states.insert(vip, VipState { is_local, unanswered, own_ports_from });
        }
        Ok(vip_states)
    };
    timeout(PASS_TIMEOUT, reading).await.context("the kernel did not answer in time")?
}

struct VipWorker {
    watched_set: watch::Receiver<BTreeSet<IpAddr>>,
    published: watch::Sender<VipStates>,
}

impl Follower for VipWorker {
    const WHAT: &'static str = "VIPs";
    type Connections = Notifications;

    fn open() -> Result<Notifications> {
        Notifications::subscribe(&notifications::ROUTES)
    }

    /// Publishes until either half is dropped or a socket fails.
    async fn follow(&mut self, mut notifications: Notifications) -> Result<()> {
        let mut pass_at = Instant::now();
        let mut next_pass_at = pass_at;
        loop {
            tokio::select! {
                biased;
                () = self.published.closed() => return Ok(()),
                changed = self.watched_set.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    pass_at = Instant::now();
                }
                () = sleep_until(pass_at) => {
                    let begun = Instant::now();
                    let vips = self.watched_set.borrow().clone();
                    let vip_states = read(&vips).await?;
                    next_pass_at = Instant::now() + begun.elapsed() * (MAX_SHARE_OF_TIME - 1);
                    self.published.send_if_modified(|published| {
                        let changed = **published != vip_states;
                        if changed {
                            *published = Arc::new(vip_states);
                        }
                        changed
                    });
                    pass_at = Instant::now() + REFRESH;
                }
                notification = notifications.next() => {
                    notification.context("the netlink socket was closed")?;
                    pass_at = pass_at.min(next_pass_at.max(Instant::now() + DEBOUNCE));
                }
            }
        }
    }

    fn is_needed(&self) -> bool {
        self.watched_set.has_changed().is_ok() && !self.published.is_closed()
    }
}
