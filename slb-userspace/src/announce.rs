//! Announces VIPs to the hosts of their subnets: answers to ARP and neighbour solicitations, gratuitous ones, and
//! warnings of other hosts that answer for the same VIP. Design: docs/design/announcements.md.
//!
//! The answers are given by a program at the interfaces, which goes on without this process
//! ([`crate::dataplane::bpf::answers`]). Everything else is done by one task.

mod claims;
mod frames;
mod groups;
mod logs;
mod plan;
mod schedule;
mod sockets;
mod worker;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use tokio::{sync::watch, task::JoinSet, time::timeout};

pub use plan::Wanted;

use self::{sockets::Sockets, worker::Worker};
use crate::{
    dataplane::bpf::{
        answers::{Answers, FilterId, VipAt},
        lifetime::PinLifetime,
        pins::Pins,
    },
    neigh::host_interfaces,
    supervised,
};

/// Longest time in which announcements end.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Why no VIP is announced with pins in a mount namespace of their own. The filter would stay.
const PINS_END: &str = "the pins are in a mount namespace of their own, so that forwarding may end while hosts are still \
                        answered; run slbd where /sys/fs/bpf is the machine's";

/// How a VIP is announced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VipAnnouncement {
    /// The interfaces, by index and name.
    pub interfaces: BTreeMap<u32, String>,
    /// Why hosts may not reach the VIP: nothing is announced, not everywhere, or another host answers.
    pub troubles: Vec<String>,
}

/// How the VIPs are announced that are to be.
pub type VipAnnouncements = Arc<BTreeMap<IpAddr, VipAnnouncement>>;

/// The program, once a VIP is announced.
type SharedAnswers = Arc<Mutex<Option<Answers>>>;

/// Announces VIPs until dropped. The answers go on then.
pub struct Announcer {
    /// `None` once announcements have ended.
    wanted: Option<watch::Sender<Option<Wanted>>>,
    announced: Announced,
    task: JoinSet<()>,
}

/// What is announced, for the API.
#[derive(Clone)]
pub struct Announced {
    published: watch::Receiver<VipAnnouncements>,
    answers: SharedAnswers,
}

impl Announced {
    /// How the VIPs are announced.
    pub fn vips(&self) -> VipAnnouncements {
        Arc::clone(&self.published.borrow())
    }

    /// Answers for a VIP at an interface since the daemon started.
    pub fn answers(&self, at: VipAt) -> u64 {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.as_ref().map_or(0, |answers| answers.sent(at))
    }
}

impl Announcer {
    /// Starts, in the current network namespace. Until the first
    /// [`Self::announce`] the answers of an earlier run stay. With pins that end with this process nothing is announced.
    ///
    /// # Errors
    /// A socket cannot be opened.
    pub fn spawn(pins: &Pins, lifetime: PinLifetime) -> Result<Self> {
        let interfaces = host_interfaces::follow()?;
        let sockets = Arc::new(Sockets::open()?);
        let pins = pins.clone();
        let refusal = (lifetime == PinLifetime::MountNamespace).then_some(PINS_END);
        let (wanted, to_announce) = watch::channel(None);
        let (publisher, published) = watch::channel(VipAnnouncements::default());
        let answers = SharedAnswers::default();
        let announced = Announced { published, answers: Arc::clone(&answers) };
        let run = move || {
            let worker = Worker::new(
                to_announce.clone(),
                interfaces.clone(),
                publisher.clone(),
                Arc::clone(&answers),
                pins.clone(),
                refusal,
                Arc::clone(&sockets),
            );
            worker.run()
        };
        let mut task = JoinSet::new();
        task.spawn(async move { supervised::run("announcements", run).await });
        Ok(Self { wanted: Some(wanted), announced, task })
    }

    /// Announces these VIPs, and no others.
    pub fn announce(&self, wanted: Wanted) {
        let Some(sender) = &self.wanted else { return };
        sender.send_if_modified(|before| {
            let wanted = Some(wanted);
            let changed = *before != wanted;
            *before = wanted;
            changed
        });
    }

    /// Ends all answers and announcements, and returns when they have ended.
    pub async fn end(&mut self) {
        let Some(sender) = self.wanted.take() else { return };
        // The task takes the last value before it sees that the sender is gone.
        sender.send_replace(Some(Wanted::default()));
        drop(sender);
        if timeout(END_TIMEOUT, self.task.join_next()).await.is_err() {
            tracing::warn!("VIPs may still be announced: `tc filter show dev NAME ingress` shows slb_answer");
        }
    }

    /// What is announced.
    pub fn announced(&self) -> Announced {
        self.announced.clone()
    }
}

/// What [`end`] has done.
#[derive(Debug, Default)]
pub struct Ended {
    /// Names of the interfaces whose answers have ended.
    pub interfaces: Vec<String>,
    /// What could not be removed.
    pub failures: Vec<anyhow::Error>,
}

/// Ends the answers of the SLB with these pins at all interfaces of this network namespace, for a caller without a
/// runtime.
///
/// # Errors
/// The kernel does not answer.
pub fn end(pins: &Pins) -> Result<Ended> {
    let filter = FilterId::of(pins.root());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut ended, mut recorded) = (Ended::default(), BTreeSet::new());
        for link in host_interfaces::read().await?.links {
            match groups::recorded(filter, pins, link.index).await {
                Ok(vips) => recorded.extend(vips),
                Err(error) => ended.failures.push(error.context("solicited-node groups stay joined")),
            }
            match filter.remove(&link.name) {
                Ok(true) => ended.interfaces.push(link.name),
                Ok(false) => {}
                Err(error) => ended.failures.push(error),
            }
        }
        if let Err(error) = groups::set(filter, &recorded, &BTreeSet::new()).await {
            ended.failures.push(error.context("solicited-node groups stay joined"));
        }
        Ok(ended)
    })
}
