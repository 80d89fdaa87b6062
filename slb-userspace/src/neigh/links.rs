//! Says when interfaces may have changed. Which there are is asked afresh by whoever acts on it: what he has done to them
//! since must not look undone.

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

/// How long changes are gathered: one interface that comes is told of several times.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// How often there may be a change though nothing was heard.
const REFRESH: Duration = Duration::from_secs(20);

/// How far a change of interfaces has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkChange {
    /// The kernel has said something, and may say more of it: only what cannot wait should be done.
    Begun,
    /// The kernel has said nothing more for a moment.
    Settled,
}

/// Tells of changes to interfaces of the current network namespace until the receiver is dropped.
///
/// # Errors
/// A netlink socket cannot be opened. Later failures are logged, and it is opened anew.
pub fn follow() -> Result<watch::Receiver<LinkChange>> {
    let notifications = Interfaces::open()?;
    let (changed, changes) = watch::channel(LinkChange::Settled);
    tokio::spawn(follow::run(Interfaces { changed, has_failed: false }, notifications));
    Ok(changes)
}

/// Tells of changes.
struct Interfaces {
    changed: watch::Sender<LinkChange>,
    /// Whether changes may have been missed.
    has_failed: bool,
}

impl Follower for Interfaces {
    const WHAT: &'static str = "interfaces";
    type Connections = Notifications;

    fn open() -> Result<Notifications> {
        Notifications::subscribe(&[MulticastGroup::Link])
    }

    async fn follow(&mut self, mut notifications: Notifications) -> Result<()> {
        if std::mem::replace(&mut self.has_failed, true) {
            self.changed.send_replace(LinkChange::Settled);
        }
        loop {
            tokio::select! {
                () = self.changed.closed() => return Ok(()),
                heard = timeout(REFRESH, notifications.next()) => {
                    if let Ok(heard) = heard {
                        heard.context("the netlink socket was closed")?;
                        self.changed.send_replace(LinkChange::Begun);
                        sleep(DEBOUNCE).await;
                        while let Ok(heard) = timeout(Duration::ZERO, notifications.next()).await {
                            heard.context("the netlink socket was closed")?;
                        }
                    }
                    self.changed.send_replace(LinkChange::Settled);
                }
            }
        }
    }

    fn is_needed(&self) -> bool {
        !self.changed.is_closed()
    }
}
