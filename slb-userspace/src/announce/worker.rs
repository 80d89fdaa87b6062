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
    frames, groups,
    logs::{log_changes, log_unannounced, text},
    plan::{Plan, Wanted, plan},
    schedule::{Schedule, Step},
    sockets::{Claim, Sockets},
};
use crate::{
    dataplane::bpf::{
        answers::{Answers, FilterId, VipAt},
        pins::Pins,
    },
    neigh::host_interfaces::HostInterfaces,
};

/// Interval at which filters that were removed by hand are restored, failures retried, and old claims dropped.
const REFRESH: Duration = Duration::from_secs(20);
/// Pause after a packet socket has failed.
const SOCKET_PAUSE: Duration = Duration::from_secs(1);
const NO_SUBNET: &str = "no interface of role client or both is up and has an address of its subnet";

/// The task's state.
pub(super) struct Worker {
    wanted: watch::Receiver<Option<Wanted>>,
    interfaces: watch::Receiver<Arc<HostInterfaces>>,
    published: watch::Sender<VipAnnouncements>,
    answers: SharedAnswers,
    filter: FilterId,
    pins: Pins,
    /// Why nothing may be announced.
    refusal: Option<&'static str>,
    sockets: Arc<Sockets>,
    plan: Plan,
    /// VIPs whose solicited-node groups this SLB has joined and not left, also in an earlier run.
    joined: BTreeSet<VipAt>,
    /// Interfaces whose filter could not be removed.
    stuck: BTreeSet<u32>,
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
        pins: Pins,
        refusal: Option<&'static str>,
        sockets: Arc<Sockets>,
    ) -> Self {
        Self {
            wanted,
            interfaces,
            published,
            answers,
            filter: FilterId::of(pins.root()),
            pins,
            refusal,
            sockets,
            plan: Plan::new(),
            joined: BTreeSet::new(),
            stuck: BTreeSet::new(),
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
        let planned = if self.refusal.is_some() { Plan::new() } else { plan(&wanted, &host) };
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
        let has_leftovers =
            !self.stuck.is_empty() || self.joined.iter().any(|at| !self.plan.contains_key(at));
        if self.is_clean && (has_leftovers || !self.plan.is_empty()) {
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
        if is_first {
            self.read_joined(host).await;
        }
        let stuck = mem::take(&mut self.stuck);
        for link in host.links.iter().filter(|link| !current.contains(&link.index)) {
            let index = link.index;
            if !(is_first || past.contains(&index) || stuck.contains(&index)) {
                continue;
            }
            if let Err(error) = self.filter.remove(&link.name) {
                self.stuck.insert(index);
                tracing::warn!(error = format!("{error:#}"), "VIPs may still be announced; retrying");
            }
        }
        let troubles = self.set_answers().unwrap_or_else(|error| self.troubles_everywhere(&error));
        for (interface, why) in &troubles {
            if self.troubles.get(interface) != Some(why) {
                tracing::warn!(interface, why, "VIPs cannot be announced");
            }
        }
        self.troubles = troubles;
        self.set_groups().await;
    }

    /// Reads what an earlier run has joined, before its filter goes.
    async fn read_joined(&mut self, host: &HostInterfaces) {
        for link in &host.links {
            match groups::recorded(self.filter, &self.pins, link.index).await {
                Ok(vips) => self.joined.extend(vips),
                Err(error) => tracing::warn!(
                    interface = link.name,
                    error = format!("{error:#}"),
                    "solicited-node groups that an earlier run has joined stay joined"
                ),
            }
        }
    }

    /// Joins the solicited-node groups of the plan, and leaves those of VIPs that are not announced any more.
    async fn set_groups(&mut self) {
        let wanted: BTreeSet<VipAt> = self.plan.keys().filter(|(_, vip)| vip.is_ipv6()).copied().collect();
        let recorded = &self.joined | &wanted;
        let set = groups::set(self.filter, &recorded, &wanted).await;
        self.joined = if set.is_ok() { wanted } else { recorded };
        if let Err(error) = set {
            tracing::warn!(
                error = format!("{error:#}"),
                "solicited-node groups of VIPs could not be joined or left; retrying"
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
            empty => empty.insert(Answers::load(self.filter, Some(&self.pins))?),
        };
        answers.set(&self.plan.iter().map(|(at, place)| (*at, place.mac)).collect())?;
        let interfaces: BTreeSet<&String> = self.plan.values().map(|place| &place.interface).collect();
        let attached = interfaces.into_iter().map(|name| (name, answers.attach(name)));
        Ok(attached.filter_map(|(name, result)| Some((name.clone(), first_line(&result.err()?)))).collect())
    }

    fn troubles_everywhere(&self, error: &anyhow::Error) -> BTreeMap<String, String> {
        self.plan.values().map(|place| (place.interface.clone(), first_line(error))).collect()
    }

    /// Schedules gratuitous ARP and unsolicited neighbour advertisements for the VIPs of [`Self::plan`] that `before` does
    /// not have, whose interface has another MAC than in `before`, or whose link was down there. Cancels those of other
    /// VIPs and of links that are down.
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
            announcement.troubles.push(format!("is not announced: {}", self.refusal.unwrap_or(NO_SUBNET)));
        }
        self.published.send_if_modified(|published| {
            let changed = **published != all;
            if changed {
                log_unannounced(published, &all, self.refusal.unwrap_or(NO_SUBNET));
                *published = Arc::new(all);
            }
            changed
        });
    }
}

/// An error without the verifier's report, which follows in lines of its own.
fn first_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}
