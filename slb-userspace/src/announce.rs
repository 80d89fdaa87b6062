//! Announces VIPs to the hosts of their subnets: answers to ARP and neighbour solicitations, gratuitous ones, and
//! warnings of other hosts that answer for the same VIP. Design: docs/design/announcements.md.
//!
//! The answers are given by a program at the interfaces, which goes on without this process
//! ([`crate::dataplane::bpf::answers`]). Everything else is done by one task.

mod claims;
mod frames;
mod plan;
mod schedule;
mod sockets;
mod worker;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use tokio::{sync::watch, task::JoinSet};

pub use plan::Wanted;

use self::{sockets::Sockets, worker::Worker};
use crate::{
    dataplane::bpf::answers::{Answers, FilterId, VipAt},
    neigh::host_interfaces::{self, HostInterfaces},
    supervised,
};

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
    filter: FilterId,
    wanted: watch::Sender<Option<Wanted>>,
    announced: Announced,
    _task: JoinSet<()>,
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
    /// Starts, in the current network namespace. `pins` is the directory of the pins. Until the first
    /// [`Self::announce`] the answers of an earlier run stay.
    ///
    /// # Errors
    /// A socket cannot be opened.
    pub fn spawn(pins: &Path) -> Result<Self> {
        let interfaces = host_interfaces::follow()?;
        let sockets = Arc::new(Sockets::open()?);
        let filter = FilterId::of(pins);
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
                filter,
                Arc::clone(&sockets),
            );
            worker.run()
        };
        let mut task = JoinSet::new();
        task.spawn(async move { supervised::run("announcements", run).await });
        Ok(Self { filter, wanted, announced, _task: task })
    }

    /// Announces these VIPs, and no others.
    pub fn announce(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|before| {
            let wanted = Some(wanted);
            let changed = *before != wanted;
            *before = wanted;
            changed
        });
    }

    /// Ends all answers at once.
    pub fn end(&self) {
        let vips = self.announced.vips();
        let interfaces: BTreeSet<&String> =
            vips.values().flat_map(|announcement| announcement.interfaces.values()).collect();
        for interface in interfaces {
            self.filter.remove(interface);
        }
    }

    /// What is announced.
    pub fn announced(&self) -> Announced {
        self.announced.clone()
    }
}

/// Ends the answers of the SLB with these pins at all interfaces of this network namespace, for a caller without a
/// runtime. Returns the names of the interfaces.
///
/// # Errors
/// The kernel does not answer.
pub fn end(pins: &Path) -> Result<Vec<String>> {
    let filter = FilterId::of(pins);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let HostInterfaces { links, .. } = host_interfaces::read().await?;
        let ended: Vec<_> = links.into_iter().filter(|link| filter.remove(&link.name)).collect();
        let indexes = ended.iter().map(|link| link.index).collect();
        host_interfaces::set_solicited_groups(&indexes, &BTreeSet::new()).await?;
        Ok(ended.into_iter().map(|link| link.name).collect())
    })
}
