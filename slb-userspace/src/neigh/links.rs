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
use tracing::warn;

/// How long changes are gathered: one interface that comes is told of several times.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// How often there may be a change though nothing was heard.
const REFRESH: Duration = Duration::from_secs(20);
/// Pause before the netlink socket is opened anew.
const RECONNECT: Duration = Duration::from_secs(1);

/// Tells of changes to interfaces of the current network namespace until the receiver is dropped.
///
/// # Errors
/// A netlink socket cannot be opened. Later failures are logged, and it is opened anew.
pub fn follow() -> Result<watch::Receiver<()>> {
    let mut notifications = Notifications::open()?;
    let (changed, changes) = watch::channel(());
    tokio::spawn(async move {
        loop {
            match notifications.follow(&changed).await {
                Ok(()) => return,
                Err(error) => {
                    warn!(error = format!("{error:#}"), "interfaces are not followed; will try again");
                }
            }
            notifications = loop {
                sleep(RECONNECT).await;
                if changed.is_closed() {
                    return;
                }
                if let Ok(notifications) = Notifications::open() {
                    break notifications;
                }
            };
            changed.send_replace(());
        }
    });
    Ok(changes)
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
