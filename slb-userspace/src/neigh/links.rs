//! Announces that interfaces may have changed. Receivers read the interfaces themselves, so that their own changes
//! since the notification are included.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use rtnetlink::MulticastGroup;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    follow::{self, Follower},
    notifications::Notifications,
};

/// Time in which notifications are merged: one new interface causes several.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// Interval of announcements without a notification.
const REFRESH: Duration = Duration::from_secs(20);

/// Progress of a change of interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkChange {
    /// A notification has arrived and more may follow: do only what is urgent.
    Started,
    /// No more notifications have arrived for a moment.
    Quiescent,
}

/// Announces changes of interfaces in the current network namespace until the receiver is dropped.
///
/// # Errors
/// A netlink socket cannot be opened. After later failures, which are logged, it is reopened.
pub fn follow() -> Result<watch::Receiver<LinkChange>> {
    let notifications = LinkFollower::open()?;
    let (changed, changes) = watch::channel(LinkChange::Quiescent);
    tokio::spawn(follow::run(LinkFollower { changed, has_failed: false }, notifications));
    Ok(changes)
}

/// The announcing task.
struct LinkFollower {
    changed: watch::Sender<LinkChange>,
    /// Whether notifications may have been missed.
    has_failed: bool,
}

impl Follower for LinkFollower {
    const WHAT: &'static str = "interfaces";
    type Connections = Notifications;

    fn open() -> Result<Notifications> {
        Notifications::subscribe(&[MulticastGroup::Link])
    }

    async fn follow(&mut self, mut notifications: Notifications) -> Result<()> {
        if std::mem::replace(&mut self.has_failed, true) {
            self.changed.send_replace(LinkChange::Quiescent);
        }
        loop {
            tokio::select! {
                () = self.changed.closed() => return Ok(()),
                heard = timeout(REFRESH, notifications.next()) => {
                    if let Ok(heard) = heard {
                        heard.context("the netlink socket was closed")?;
                        self.changed.send_replace(LinkChange::Started);
                        sleep(DEBOUNCE).await;
                        while let Ok(heard) = timeout(Duration::ZERO, notifications.next()).await {
                            heard.context("the netlink socket was closed")?;
                        }
                    }
                    self.changed.send_replace(LinkChange::Quiescent);
                }
            }
        }
    }

    fn is_needed(&self) -> bool {
        !self.changed.is_closed()
    }
}
