//! A reconfiguration: the configuration that is to replace the active one, and what it waits for.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    api_commands::{Answer, reply},
    start::FIRST_WORD,
};
use crate::{
    health::Target,
    server::{Pending, requests::Refused},
};
use slb_api::types::By;
use slb_config::model::{CheckKind, Config};
use slb_control::warm_up::Awaited;

/// Longest wait for a next hop: the kernel gives up resolving after 3 s.
const NEXT_HOP: Duration = Duration::from_secs(4);
/// Longest wait for the first result of a check, in addition to its timeout.
const MARGIN: Duration = Duration::from_secs(1);
/// Interval of reviews while waiting: the old servers may have failed.
pub(super) const REVIEW: Duration = Duration::from_secs(1);
/// Most servers that a message names.
const NAMED: usize = 5;

/// A configuration that is to replace the active one.
pub(super) struct Adoption {
    pub(super) config: Arc<Config>,
    /// The differences, in words.
    pub(super) changes: Vec<String>,
    /// Interfaces that it adds. The program is already attached to them.
    pub(super) added: Vec<String>,
    /// Interfaces that it removes.
    pub(super) removed: Vec<String>,
    /// The command that started it, and how it is answered.
    pub(super) then: Then,
    begun: Instant,
    /// All new servers for [`FIRST_WORD`], then only those that replace healthy servers.
    awaited: Awaited,
    /// What it still waited for after [`FIRST_WORD`], in words.
    waited_for: Vec<String>,
    review: Instant,
    is_ready: bool,
}

/// The command that started a reconfiguration.
pub(super) enum Then {
    /// Reload. SIGHUP does not wait for the answer.
    Reload { warnings: String, answers: Vec<(By, Answer)> },
    /// Apply of a given configuration.
    Apply { warnings: String, by: By, answer: Answer, confirm_within: Option<Duration> },
    /// Rollback of an unconfirmed configuration to this one.
    FallBack(Arc<Config>),
}

impl Then {
    /// The command's name in messages.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Reload { .. } => "reload",
            Self::Apply { .. } => "apply",
            Self::FallBack(_) => "fallback",
        }
    }

    /// Replaces this command with a later one. A later reload also answers an earlier reload. Any other earlier command
    /// is answered that it was superseded.
    pub(super) fn superseded_by(self, later: Self) -> Self {
        match (self, later) {
            (Self::Reload { mut answers, .. }, Self::Reload { warnings, answers: later }) => {
                answers.extend(later);
                Self::Reload { warnings, answers }
            }
            (Self::Reload { answers, .. }, later) => {
                for (by, answer) in answers {
                    reply("reload", &by, answer, Err(superseded("reload", &later)));
                }
                later
            }
            (Self::Apply { by, answer, .. }, later) => {
                reply("apply", &by, answer, Err(superseded("apply", &later)));
                later
            }
            (Self::FallBack(_), later) => later,
        }
    }
}

fn superseded(what: &str, later: &Then) -> Refused {
    let later = later.name();
    Refused::Conflict(format!(
        "`slb {later}` came while this `slb {what}` waited for the first check results of its servers: this one has changed \
         nothing"
    ))
}

impl Adoption {
    pub(super) fn new(config: Arc<Config>, changes: Vec<String>, then: Then, now: Instant) -> Self {
        Self {
            config,
            changes,
            added: Vec::new(),
            removed: Vec::new(),
            then,
            begun: now,
            awaited: Awaited::default(),
            waited_for: Vec::new(),
            review: now + FIRST_WORD,
            is_ready: false,
        }
    }

    /// Waits for all new servers, for [`FIRST_WORD`].
    pub(super) fn wait_for(&mut self, targets: BTreeSet<Target>, servers: BTreeSet<IpAddr>) {
        self.awaited = Awaited { targets, servers };
    }

    /// Whether the wait for all new servers is still running.
    pub(super) fn is_first_wait(&self, now: Instant) -> bool {
        now < self.begun + FIRST_WORD
    }

    /// Waits for these, each for as long as its check or its resolution may take.
    pub(super) fn wait_on(&mut self, mut awaited: Awaited, now: Instant) {
        awaited.targets.retain(|target| now < self.begun + patience(target));
        awaited.servers.retain(|_| now < self.begun + NEXT_HOP);
        if self.waited_for.is_empty() && !awaited.is_empty() {
            self.waited_for = named(&awaited);
            tracing::info!(
                servers = self.waited_for.join(", "),
                at_most = ?at_most(&awaited),
                "{}: waiting for servers that replace healthy ones; the active configuration stays until then",
                self.then.name()
            );
        }
        self.awaited = awaited;
        self.review = now + REVIEW;
    }

    pub(super) fn has_verdict(&mut self, target: &Target) {
        self.awaited.targets.remove(target);
    }

    pub(super) fn has_ways(&mut self, has_way: impl Fn(&IpAddr) -> bool) {
        self.awaited.servers.retain(|address| !has_way(address));
    }

    /// Becomes ready if nothing is awaited any more. Returns whether it has become ready now.
    pub(super) fn check(&mut self) -> bool {
        let is_new = !self.is_ready && self.awaited.is_empty();
        self.is_ready |= is_new;
        is_new
    }

    /// Whether nothing is awaited any more.
    pub(super) const fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// When to review what is awaited; `None` once ready.
    pub(super) fn review_at(&self) -> Option<Instant> {
        (!self.is_ready).then_some(self.review)
    }

    /// What it waits for, for the API.
    pub(super) fn pending(&self) -> Pending {
        Pending {
            change: self.then.name(),
            waits_for: named(&self.awaited),
            ends: self.begun + at_most(&self.awaited),
        }
    }

    /// What it waited for after [`FIRST_WORD`], in words; `None` if nothing.
    pub(super) fn waited(&self, now: Instant) -> Option<String> {
        let took = now.saturating_duration_since(self.begun).as_secs();
        let servers = self.waited_for.join(", ");
        (!self.waited_for.is_empty())
            .then(|| format!("waited {took} s for servers that replace healthy ones: {servers}"))
    }
}

/// Longest wait for a target: its first result decides, and arrives within the timeout.
fn patience(target: &Target) -> Duration {
    target.check.timeout + MARGIN
}

pub(super) fn at_most(awaited: &Awaited) -> Duration {
    let hop = (!awaited.servers.is_empty()).then_some(NEXT_HOP);
    awaited.targets.iter().map(patience).chain(hop).max().unwrap_or_default()
}

pub(super) fn named(awaited: &Awaited) -> Vec<String> {
    let targets = awaited.targets.iter().map(|target| {
        let timeout = humantime::format_duration(target.check.timeout);
        let kind = match &target.check.kind {
            CheckKind::Tcp => "tcp",
            CheckKind::Http(_) => "http",
            CheckKind::Tls(_) => "tls",
            CheckKind::Udp(_) => "udp",
            CheckKind::Icmp => return format!("{} (icmp check, timeout {timeout})", target.address.ip()),
        };
        format!("{} ({kind} check, timeout {timeout})", target.address)
    });
    let servers = awaited.servers.iter().map(|address| format!("{address} (next hop)"));
    let all: Vec<_> = targets.chain(servers).collect();
    match all.len().checked_sub(NAMED + 1) {
        None => all,
        Some(more) => all[..NAMED].iter().cloned().chain([format!("{} more", more + 1)]).collect(),
    }
}
