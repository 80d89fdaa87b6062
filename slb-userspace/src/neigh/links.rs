//! Says when interfaces may have changed. Which there are is asked afresh by whoever acts on it: what he has done to them
//! since must not look undone.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::{Stream, StreamExt as _};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::follow::{self, Follower};

/// How long changes are gathered: one interface that comes is told of several times.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// How often there may be a change though nothing was heard.
const REFRESH: Duration = Duration::from_secs(20);

/// Tells of changes to interfaces of the current network namespace until the receiver is dropped.
///
/// # Errors
/// A netlink socket cannot be opened. Later failures are logged, and it is opened anew.
pub fn follow() -> Result<watch::Receiver<()>> {
    let notifications = Notifications::open()?;
    let (changed, changes) = watch::channel(());
    tokio::spawn(follow::run(Interfaces { changed, has_failed: false }, notifications));
    Ok(changes)
}

/// Tells of changes.
struct Interfaces {
    changed: watch::Sender<()>,
    /// Whether changes may have been missed.
    has_failed: bool,
}

impl Follower for Interfaces {
    const WHAT: &'static str = "interfaces";
    type Connections = Notifications;

    fn open() -> Result<Notifications> {
        Notifications::open()
    }

    async fn follow(&mut self, mut notifications: Notifications) -> Result<()> {
        if std::mem::replace(&mut self.has_failed, true) {
            self.changed.send_replace(());
        }
        notifications.follow(&self.changed).await
    }

    fn is_needed(&self) -> bool {
        !self.changed.is_closed()
    }
}

struct Notifications {
    stream: Box<dyn Stream<Item = ()> + Send + Unpin>,
    _monitor: JoinSet<()>,
}

impl Notifications {
    fn open() -> Result<Self> {
        let (monitor, _, stream) = new_multicast_connection(&[MulticastGroup::Link])
            .context("cannot subscribe to netlink notifications")?;
        Ok(Self { stream: Box::new(stream.map(drop)), _monitor: JoinSet::from_iter([monitor]) })
    }

    /// Tells of changes until nobody listens any more, or the socket fails.
    async fn follow(&mut self, changed: &watch::Sender<()>) -> Result<()> {
        loop {
            tokio::select! {
                () = changed.closed() => return Ok(()),
                heard = timeout(REFRESH, self.stream.next()) => {
                    if let Ok(heard) = heard {
                        heard.context("the netlink socket was closed")?;
                        sleep(DEBOUNCE).await;
                        while let Ok(heard) = timeout(Duration::ZERO, self.stream.next()).await {
                            heard.context("the netlink socket was closed")?;
                        }
                    }
                    changed.send_replace(());
                }
            }
        }
    }
}
