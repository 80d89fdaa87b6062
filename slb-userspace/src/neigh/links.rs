//! Follows the interfaces: which there are, and what runs on them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use futures_util::{Stream, StreamExt as _};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::warn;

use super::{Link, kernel::Kernel};

/// Interfaces by name.
pub type Links = Arc<BTreeMap<String, Link>>;

/// How long changes are gathered before the interfaces are read: one that comes is told of several times.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// How often they are read though nothing was heard.
const REFRESH: Duration = Duration::from_secs(20);
/// Pause before the netlink sockets are opened anew.
const RECONNECT: Duration = Duration::from_secs(1);

/// Follows the interfaces of the current network namespace until the receiver is dropped.
///
/// # Errors
/// The kernel cannot be asked. Later failures are logged, and it is asked again.
pub async fn follow() -> Result<watch::Receiver<Links>> {
    let mut connections = Connections::open()?;
    let (published, links) = watch::channel(connections.read().await?);
    tokio::spawn(async move {
        loop {
            match connections.follow(&published).await {
                Ok(()) => return,
                Err(error) => {
                    warn!(error = format!("{error:#}"), "interfaces are not followed; will try again");
                }
            }
            connections = loop {
                sleep(RECONNECT).await;
                if published.is_closed() {
                    return;
                }
                if let Ok(connections) = Connections::open() {
                    break connections;
                }
            };
        }
    });
    Ok(links)
}

struct Connections {
    kernel: Kernel,
    notifications: Box<dyn Stream<Item = ()> + Send + Unpin>,
    _monitor: JoinSet<()>,
}

impl Connections {
    fn open() -> Result<Self> {
        let (monitor, _, notifications) = new_multicast_connection(&[MulticastGroup::Link])
            .context("cannot subscribe to netlink notifications")?;
        Ok(Self {
            kernel: Kernel::connect()?,
            notifications: Box::new(notifications.map(drop)),
            _monitor: JoinSet::from_iter([monitor]),
        })
    }

    async fn read(&mut self) -> Result<Links> {
        let links = self.kernel.links().await?.into_values();
        Ok(Arc::new(links.map(|link| (link.name.clone(), link)).collect()))
    }

    /// Publishes until nobody listens any more, or a socket fails.
    async fn follow(&mut self, published: &watch::Sender<Links>) -> Result<()> {
        loop {
            let links = self.read().await?;
            published.send_if_modified(|known| {
                let changed = *known != links;
                *known = links;
                changed
            });
            tokio::select! {
                () = published.closed() => return Ok(()),
                heard = timeout(REFRESH, self.notifications.next()) => {
                    if let Ok(heard) = heard {
                        heard.context("the netlink socket was closed")?;
                        sleep(DEBOUNCE).await;
                        // Those gathered meanwhile: what is read next has all of them in it.
                        while let Ok(heard) = timeout(Duration::ZERO, self.notifications.next()).await {
                            heard.context("the netlink socket was closed")?;
                        }
                    }
                }
            }
        }
    }
}
