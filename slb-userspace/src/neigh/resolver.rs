//! Follows the kernel's tables, and publishes the next hops of the watched destinations.
//!
//! A notification only shows *that* something has changed. Published next hops always come from tables that are read
//! afterwards. A notification that is lost, late or reordered can therefore leave a wrong address only until the next
//! periodic pass.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures_util::StreamExt;
use rtnetlink::MulticastGroup;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, warn};

use super::{
    Resolution, Resolutions,
    follow::{self, Follower},
    kernel::Kernel,
    notifications::{self, Notifications},
    tunnel_errors::TunnelErrors,
    view::{KernelView, Staleness},
};

/// Time in which notifications are merged before the tables are read. After a link regains carrier, packets are lost
/// for this time, and for it again once its neighbours answer. [`KernelView::next_pass_at`] bounds the work.
const DEBOUNCE: Duration = Duration::from_millis(10);

/// Longest time of one pass, after which the netlink sockets are reopened.
const PASS_TIMEOUT: Duration = Duration::from_secs(10);

/// Capacity of the queue of doubts. Further doubts are dropped; a server that stays silent is doubted again.
const DOUBTS: usize = 1_024;

/// Resolves destinations until dropped.
#[derive(Debug)]
pub struct Resolver {
    watched: watch::Sender<BTreeSet<IpAddr>>,
    tunnels: watch::Sender<BTreeSet<(IpAddr, u8)>>,
    doubts: mpsc::Sender<IpAddr>,
}

impl Resolver {
    /// Starts to resolve in the current network namespace, without destinations.
    ///
    /// The receiver gets a new map after each change. The task ends when either half is dropped.
    ///
    /// # Errors
    ///
    /// Netlink sockets cannot be opened. After later failures, which are logged, they are reopened.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime. The namespace is that of the calling thread, which the runtime's threads must share.
    pub fn spawn() -> Result<(Self, watch::Receiver<Resolutions>)> {
        let (watched, watched_set) = watch::channel(BTreeSet::new());
        let (tunnels, followed_tunnels) = watch::channel(BTreeSet::new());
        let (published, resolutions) = watch::channel(Resolutions::default());
        let connections = Connections::open()?;
        let (doubts, doubted) = mpsc::channel(DOUBTS);
        tokio::spawn(follow::run(
            ResolverWorker { watched_set, followed_tunnels, doubted, published, view: KernelView::default() },
            connections,
        ));
        Ok((Self { watched, tunnels, doubts }, resolutions))
    }

    /// Channel for watched destinations that do not answer. Their next hops are verified at once, even if the kernel
    /// has no reason to.
    pub fn doubts(&self) -> mpsc::Sender<IpAddr> {
        self.doubts.clone()
    }

    /// Replaces the watched destinations.
    pub fn watch(&self, destinations: BTreeSet<IpAddr>) {
        self.watched.send_if_modified(|watched| {
            let changed = *watched != destinations;
            *watched = destinations;
            changed
        });
    }

    /// Replaces source addresses and IP protocols of tunnel packets. Path MTUs are learned from ICMP errors about such
    /// packets.
    pub fn follow_tunnels(&self, tunnels: BTreeSet<(IpAddr, u8)>) {
        self.tunnels.send_if_modified(|followed| {
            let changed = *followed != tunnels;
            *followed = tunnels;
            changed
        });
    }
}

/// Both sockets. Dropping it closes them.
struct Connections {
    kernel: Kernel,
    notifications: Notifications,
}

impl Connections {
    fn open() -> Result<Self> {
        let groups = [notifications::ROUTES.as_slice(), &[MulticastGroup::Neigh]].concat();
        Ok(Self { kernel: Kernel::connect()?, notifications: Notifications::subscribe(&groups)? })
    }
}

struct ResolverWorker {
    watched_set: watch::Receiver<BTreeSet<IpAddr>>,
    followed_tunnels: watch::Receiver<BTreeSet<(IpAddr, u8)>>,
    doubted: mpsc::Receiver<IpAddr>,
    published: watch::Sender<Resolutions>,
    view: KernelView,
}

impl Follower for ResolverWorker {
    const WHAT: &'static str = "next hops";
    type Connections = Connections;

    fn open() -> Result<Connections> {
        Connections::open()
    }

    /// Publishes until either half is dropped or a socket fails.
    async fn follow(&mut self, mut connections: Connections) -> Result<()> {
        let mut outdated = Staleness::Everything;
        let mut pass_at = Instant::now();
        let mut tunnel_errors = self.tunnel_errors();
        loop {
            tokio::select! {
                biased;
                () = self.published.closed() => return Ok(()),
                changed = self.watched_set.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    (outdated, pass_at) = (Staleness::Everything, Instant::now());
                }
                () = sleep_until(pass_at) => {
                    let destinations = self.watched_set.borrow().clone();
                    let everything = self.view.reads_everything(outdated, Instant::now());
                    timeout(PASS_TIMEOUT, self.view.read(&mut connections.kernel, &destinations, everything))
                        .await
                        .context("the kernel did not answer in time")??;
                    let resolutions = self.view.resolutions();
                    self.publish(resolutions);
                    let has_changed = timeout(PASS_TIMEOUT, self.view.solicit(&connections.kernel))
                        .await
                        .context("the kernel did not answer in time")?;
                    if has_changed {
                        let resolutions = self.view.resolutions();
                        self.publish(resolutions);
                    }
                    outdated = Staleness::Nothing;
                    pass_at = self.view.next_pass(Instant::now());
                }
                changed = self.followed_tunnels.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    tunnel_errors = self.tunnel_errors();
                }
                Some(destination) = self.doubted.recv() => {
                    timeout(PASS_TIMEOUT, self.view.doubt(&connections.kernel, destination))
                        .await
                        .context("the kernel did not answer in time")?;
                }
                notification = connections.notifications.next() => {
                    let notification = notification.context("the netlink socket was closed")?;
                    let newly = self.view.on_notification(&notification);
                    (outdated, pass_at) = self.postpone(outdated, pass_at, newly);
                }
                // Last: a flood of such errors must not delay the others.
                () = tunnel_errors.arrive() => {
                    (outdated, pass_at) = self.postpone(outdated, pass_at, Staleness::Everything);
                }
            }
        }
    }

    fn is_needed(&self) -> bool {
        self.watched_set.has_changed().is_ok() && !self.published.is_closed()
    }
}

impl ResolverWorker {
    /// What is outdated, and when the next pass is due, after another change of the kernel's tables.
    fn postpone(&self, outdated: Staleness, pass_at: Instant, newly: Staleness) -> (Staleness, Instant) {
        let is_first = newly != Staleness::Nothing && outdated == Staleness::Nothing;
        let soon = self.view.next_pass_at.max(Instant::now() + DEBOUNCE).min(pass_at);
        (outdated.max(newly), if is_first { soon } else { pass_at })
    }

    fn tunnel_errors(&mut self) -> TunnelErrors {
        let tunnels = self.followed_tunnels.borrow_and_update();
        TunnelErrors::open(&tunnels).unwrap_or_else(|error| {
            warn!(%error, "path MTUs of tunnels are learned from routes alone: no socket for ICMP errors");
            TunnelErrors::default()
        })
    }

    fn publish(&self, resolutions: BTreeMap<IpAddr, Resolution>) {
        self.published.send_if_modified(|published| {
            let changed = **published != resolutions;
            if changed {
                debug!(destinations = resolutions.len(), "next hops changed");
                *published = Arc::new(resolutions);
            }
            changed
        });
    }
}
