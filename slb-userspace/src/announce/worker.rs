//! The task that announces: it follows configuration and interfaces, sends what is due, and listens for claims.

use std::{
    collections::{BTreeMap, BTreeSet},
    io, mem,
    net::IpAddr,
    sync::{Arc, PoisonError},
    time::Duration,
};

use anyhow::Result;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};

use super::{
    SharedAnswers, VipAnnouncement, VipAnnouncements,
    claims::Claims,
    frames,
    plan::{Plan, Wanted, plan},
    schedule::{Schedule, Step},
    sockets::{Claim, Sockets},
};
use crate::{
    dataplane::bpf::answers::{Answers, FilterId, VipAt},
    neigh::{
        Mac,
        host_interfaces::{self, HostInterfaces},
    },
};

/// Interval at which filters that were removed by hand are restored, failures retried, and old claims dropped.
const REFRESH: Duration = Duration::from_secs(20);
/// Pause after a packet socket has failed.
const SOCKET_PAUSE: Duration = Duration::from_secs(1);
/// Most VIPs that a log line names.
const MAX_NAMED: usize = 5;
const NO_SUBNET: &str =
    "is not announced: no interface of role client or both is up and has an address of its subnet";

/// The task's state.
pub(super) struct Worker {
    wanted: watch::Receiver<Option<Wanted>>,
    interfaces: watch::Receiver<Arc<HostInterfaces>>,
    published: watch::Sender<VipAnnouncements>,
    answers: SharedAnswers,
    filter: FilterId,
    sockets: Arc<Sockets>,
    plan: Plan,
    /// Whether filters and groups of an earlier run were removed.
    is_clean: bool,
    schedule: Schedule,
    claims: Claims,
    /// Why an interface does not answer, by name.
    troubles: BTreeMap<String, String>,
}

impl Worker {
    pub(super) fn new(
        wanted: watch::Receiver<Option<Wanted>>,
        interfaces: watch::Receiver<Arc<HostInterfaces>>,
        published: watch::Sender<VipAnnouncements>,
        answers: SharedAnswers,
        filter: FilterId,
        sockets: Arc<Sockets>,
    ) -> Self {
        Self {
            wanted,
            interfaces,
            published,
            answers,
            filter,
            sockets,
            plan: Plan::new(),
            is_clean: false,
            schedule: Schedule::new(Instant::now()),
            claims: Claims::default(),
            troubles: BTreeMap::new(),
        }
    }

    /// Runs until the announcer is dropped.
    pub(super) async fn run(mut self) {
        let mut refresh = interval(REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let never = Instant::now();
        self.follow().await;
        loop {
            let due = self.schedule.next();
            tokio::select! {
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.follow().await,
                    Err(_) => return,
                },
                Ok(()) = self.interfaces.changed() => self.follow().await,
                _ = refresh.tick() => self.refresh().await,
                () = sleep_until(due.unwrap_or(never)), if due.is_some() => self.send(),
                claim = self.sockets.next_claim() => self.on_claim(claim).await,
            }
        }
    }

    /// Announces the VIPs of the configuration, where interfaces have their subnets.
    async fn follow(&mut self) {
        let Some(wanted) = self.wanted.borrow_and_update().clone() else { return };
        let host = Arc::clone(&self.interfaces.borrow_and_update());
        if host.links.is_empty() {
            // Not read yet. Answers of an earlier run stay.
            return;
        }
        let planned = plan(&wanted, &host);
        if planned != self.plan || !self.is_clean {
            let before = mem::replace(&mut self.plan, planned);
            self.answer(&host, &before).await;
            self.start_announcements(&before);
            log_changes(&before, &self.plan);
        }
        self.publish(&wanted);
    }

    /// Restores what was removed by hand, and drops old claims.
    async fn refresh(&mut self) {
        let host = Arc::clone(&self.interfaces.borrow());
        if self.is_clean && !self.plan.is_empty() {
            let plan = self.plan.clone();
            self.answer(&host, &plan).await;
        }
        let plan = &self.plan;
        for (_, vip) in self.claims.expire(|at| plan.contains_key(at), Instant::now()) {
            tracing::info!(%vip, "no other host answers for the VIP any more");
        }
        let wanted = self.wanted.borrow().clone();
        if let Some(wanted) = wanted {
            self.publish(&wanted);
        }
    }

    /// Answers for the plan, and for nothing else.
    async fn answer(&mut self, host: &HostInterfaces, before: &Plan) {
        let is_first = !mem::replace(&mut self.is_clean, true);
        let indexes = |plan: &Plan| plan.keys().map(|(index, _)| *index).collect::<BTreeSet<u32>>();
        let (current, past) = (indexes(&self.plan), indexes(before));
        let mut touched = current.clone();
        for link in host.links.iter().filter(|link| !current.contains(&link.index)) {
            if (is_first || past.contains(&link.index)) && self.filter.remove(&link.name) {
                touched.insert(link.index);
            }
        }
        let troubles = self.set_answers().unwrap_or_else(|error| self.troubles_everywhere(&error));
        for (interface, why) in &troubles {
            if self.troubles.get(interface) != Some(why) {
                tracing::warn!(interface, why, "VIPs cannot be announced");
            }
        }
        self.troubles = troubles;
        if touched.is_empty() {
            return;
        }
        let keys: BTreeSet<VipAt> = self.plan.keys().copied().collect();
        if let Err(error) = host_interfaces::set_solicited_groups(&touched, &keys).await {
            tracing::warn!(
                error = format!("{error:#}"),
                "neighbour solicitations for VIPs may not be received"
            );
        }
    }

    /// Makes the program answer. Returns the interfaces at which it does not, and why.
    fn set_answers(&self) -> Result<BTreeMap<String, String>> {
        let mut shared = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.is_none() && self.plan.is_empty() {
            return Ok(BTreeMap::new());
        }
        let answers = match &mut *shared {
            Some(answers) => answers,
            empty => empty.insert(Answers::load(self.filter)?),
        };
        answers.set(&self.plan.iter().map(|(at, place)| (*at, place.mac)).collect())?;
        let interfaces: BTreeSet<&String> = self.plan.values().map(|place| &place.interface).collect();
        let attached = interfaces.into_iter().map(|name| (name, answers.attach(name)));
        Ok(attached.filter_map(|(name, result)| Some((name.clone(), first_line(&result.err()?)))).collect())
    }

    fn troubles_everywhere(&self, error: &anyhow::Error) -> BTreeMap<String, String> {
        self.plan.values().map(|place| (place.interface.clone(), first_line(error))).collect()
    }

    /// Announces what is new, has another hardware address, or is behind a link that has come up.
    fn start_announcements(&mut self, before: &Plan) {
        let now = Instant::now();
        for at in before.keys().filter(|at| !self.plan.contains_key(at)) {
            self.schedule.cancel(*at);
        }
        for (at, place) in &self.plan {
            let same = before.get(at).is_some_and(|before| before.up && before.mac == place.mac);
            if place.up && !same {
                self.schedule.start(*at, now);
            } else if !place.up {
                self.schedule.cancel(*at);
            }
        }
    }

    /// Sends what is due.
    fn send(&mut self) {
        let host = Arc::clone(&self.interfaces.borrow());
        for (at, step) in self.schedule.take(Instant::now()) {
            let Some(place) = self.plan.get(&at) else { continue };
            let (interface, vip) = at;
            let all = match step {
                Step::Announce(_) => frames::announcement(vip, place.mac),
                Step::Probe => {
                    frames::probe(vip, place.mac, host.link_local(interface)).into_iter().collect()
                }
            };
            let sent = all.iter().try_for_each(|frame| self.sockets.send(interface, frame));
            if let Err(error) = sent {
                // It is repeated, and again when the link comes up.
                tracing::debug!(%vip, interface = place.interface, %error, "cannot send an announcement");
            }
        }
    }

    /// Warns of another host that has a VIP, at most once a minute.
    async fn on_claim(&mut self, claim: io::Result<Claim>) {
        let Claim { interface, address, mac } = match claim {
            Ok(claim) => claim,
            Err(error) => {
                tracing::warn!(%error, "other hosts with a VIP are not noticed");
                return sleep(SOCKET_PAUSE).await;
            }
        };
        let at = (interface, address);
        let Some(place) = self.plan.get(&at) else { return };
        let is_own = self.interfaces.borrow().links.iter().any(|link| link.mac == Some(mac));
        if is_own || !self.claims.note(at, mac, Instant::now()) {
            // Later claims are published with the next refresh.
            return;
        }
        tracing::warn!(
            vip = %address,
            interface = place.interface,
            mac = text(mac),
            "another host answers for the VIP: announce it on one of them only"
        );
        let wanted = self.wanted.borrow().clone();
        if let Some(wanted) = wanted {
            self.publish(&wanted);
        }
    }

    /// Publishes how every VIP is announced.
    fn publish(&self, wanted: &Wanted) {
        let mut all: BTreeMap<IpAddr, VipAnnouncement> =
            wanted.vips.iter().map(|vip| (*vip, VipAnnouncement::default())).collect();
        for ((index, vip), place) in &self.plan {
            let Some(announcement) = all.get_mut(vip) else { continue };
            let name = &place.interface;
            announcement.interfaces.insert(*index, name.clone());
            if let Some(why) = self.troubles.get(name) {
                announcement.troubles.push(format!("is not answered for on {name}: {why}"));
            }
            for mac in self.claims.of(&(*index, *vip)) {
                announcement.troubles.push(format!("another host on {name}, {}, answers for it", text(mac)));
            }
        }
        for announcement in all.values_mut().filter(|announcement| announcement.interfaces.is_empty()) {
            announcement.troubles.push(NO_SUBNET.to_owned());
        }
        self.published.send_if_modified(|published| {
            let changed = **published != all;
            if changed {
                log_unannounced(published, &all);
                *published = Arc::new(all);
            }
            changed
        });
    }
}

/// Logs VIPs that no interface can announce, once.
fn log_unannounced(before: &BTreeMap<IpAddr, VipAnnouncement>, now: &BTreeMap<IpAddr, VipAnnouncement>) {
    let is_missing = |announcement: &VipAnnouncement| announcement.interfaces.is_empty();
    let new = now.iter().filter(|(vip, announcement)| {
        is_missing(announcement) && before.get(vip).is_none_or(|before| !is_missing(before))
    });
    let vips: Vec<_> = new.map(|(vip, _)| *vip).collect();
    if !vips.is_empty() {
        tracing::warn!(
            vips = named(&vips),
            "VIPs are not announced: no interface of role client or both has an address of their subnet"
        );
    }
}

/// Logs what is announced now and was not, and the reverse, by interface.
fn log_changes(before: &Plan, now: &Plan) {
    let by_interface = |plan: &Plan, without: &Plan| {
        let mut new: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for ((index, vip), place) in plan {
            if !without.contains_key(&(*index, *vip)) {
                new.entry(place.interface.clone()).or_default().push(*vip);
            }
        }
        new
    };
    for (interface, vips) in by_interface(now, before) {
        tracing::info!(interface, vips = named(&vips), "VIPs announced");
    }
    for (interface, vips) in by_interface(before, now) {
        tracing::info!(interface, vips = named(&vips), "VIPs no longer announced");
    }
}

fn named(vips: &[IpAddr]) -> String {
    let mut words: Vec<_> = vips.iter().take(MAX_NAMED).map(IpAddr::to_string).collect();
    if let Some(more) = vips.len().checked_sub(MAX_NAMED).filter(|more| *more > 0) {
        words.push(format!("{more} more"));
    }
    words.join(", ")
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// An error without the verifier's report, which follows in lines of its own.
fn first_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}
