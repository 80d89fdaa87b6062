//! A reconfiguration: the configuration that is to replace the active one, and what it waits for.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::replies::{ChangeReply, reply};
use crate::{
    health::Target,
    server::{PendingChange, requests::RequestError},
};
use slb_api::types::Requester;
use slb_config::{
    diff::Diff,
    model::{CheckKind, Config},
};
use slb_control::warm_up::WarmUp;

/// Time that the first probes and the kernel's next hops get before the data plane is changed. A server without a check
/// result by then receives new flows only while no server of its pool is known to be healthy.
pub(super) const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest wait for a next hop: the kernel gives up resolving after 3 s.
const NEXT_HOP_TIMEOUT: Duration = Duration::from_secs(4);
/// Longest wait for the first result of a check, in addition to its timeout.
const MARGIN: Duration = Duration::from_secs(1);
/// Interval of reviews while waiting: the old servers may have failed.
pub(super) const REVIEW_INTERVAL: Duration = Duration::from_secs(1);
/// Most servers that a message names.
const MAX_NAMED: usize = 5;

/// A configuration that is to replace the active one.
pub(super) struct Reconfiguration {
    pub(super) config: Arc<Config>,
    /// What differs from the active configuration.
    pub(super) changes: Diff,
    /// Interfaces that it adds. The program is already attached to them.
    pub(super) added: Vec<String>,
    /// Interfaces that it removes.
    pub(super) removed: Vec<String>,
    /// The command that started it, and how it is answered.
    pub(super) then: ConfigCommand,
    begun: Instant,
    /// All new servers for [`FIRST_WAIT`], then only those that replace healthy servers.
    warm_up: WarmUp,
    /// What it still waited for after [`FIRST_WAIT`], in words.
    replacements: Vec<String>,
    review: Instant,
    is_ready: bool,
}

/// The command that started a reconfiguration.
pub(super) enum ConfigCommand {
    /// Reload. SIGHUP does not wait for the answer.
    Reload { warnings: String, answers: Vec<(Requester, ChangeReply)> },
    /// Apply of a given configuration.
    Apply { warnings: String, by: Requester, answer: ChangeReply, confirm_within: Option<Duration> },
    /// A changed document of the API.
    Edit {
        warnings: String,
        /// The configuration that the next start would use then.
        of_file: Arc<Config>,
        by: Requester,
        answer: ChangeReply,
    },
    /// Rollback of an unconfirmed configuration to this one.
    RollBack(Arc<Config>),
}

impl ConfigCommand {
    /// The command's name in messages.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Reload { .. } => "reload",
            Self::Apply { .. } => "apply",
            Self::Edit { .. } => "edit",
            Self::RollBack(_) => "rollback",
        }
    }

    /// Replaces this command with a later one. A later reload also answers an earlier reload. Any other earlier command
    /// is answered that it was superseded.
    pub(super) fn supersede_with(self, later: Self) -> Self {
        match (self, later) {
            (Self::Reload { mut answers, .. }, Self::Reload { warnings, answers: later }) => {
                answers.extend(later);
                Self::Reload { warnings, answers }
            }
            (Self::Reload { answers, .. }, later) => {
                for (by, answer) in answers {
                    reply("reload", &by, answer, Err(superseded_error("reload", &later)));
                }
                later
            }
            (Self::Apply { by, answer, .. }, later) => {
                reply("apply", &by, answer, Err(superseded_error("apply", &later)));
                later
            }
            (Self::Edit { answer, .. }, later) => {
                // It is made again on top of the later change. The caller may have disconnected.
                let _ = answer.send(Err(RequestError::Stale));
                later
            }
            (Self::RollBack(_), later) => later,
        }
    }
}

fn superseded_error(what: &str, later: &ConfigCommand) -> RequestError {
    let later = later.name();
    RequestError::Conflict(format!(
        "`slb {later}` came while this `slb {what}` waited for the first check results of its servers: this one has changed \
         nothing"
    ))
}

impl Reconfiguration {
    pub(super) fn new(config: Arc<Config>, changes: Diff, then: ConfigCommand, now: Instant) -> Self {
        Self {
            config,
            changes,
            added: Vec::new(),
            removed: Vec::new(),
            then,
            begun: now,
            warm_up: WarmUp::default(),
            replacements: Vec::new(),
            review: now + FIRST_WAIT,
            is_ready: false,
        }
    }

    /// Waits for all new servers, for [`FIRST_WAIT`].
    pub(super) fn wait_for(&mut self, targets: BTreeSet<Target>, servers: BTreeSet<IpAddr>) {
        self.warm_up = WarmUp { targets, servers };
    }

    /// Whether the wait for all new servers is still running.
    pub(super) fn is_first_wait(&self, now: Instant) -> bool {
        now < self.begun + FIRST_WAIT
    }

    /// Waits for these, each for as long as its check or its resolution may take.
    pub(super) fn wait_for_replacements(&mut self, mut warm_up: WarmUp, now: Instant) {
        warm_up.targets.retain(|target| now < self.begun + patience(target));
        warm_up.servers.retain(|_| now < self.begun + NEXT_HOP_TIMEOUT);
        if self.replacements.is_empty() && !warm_up.is_empty() {
            self.replacements = named(&warm_up);
            tracing::info!(
                servers = self.replacements.join(", "),
                at_most = ?at_most(&warm_up),
                "{}: waiting for servers that replace healthy ones; the active configuration stays until then",
                self.then.name()
            );
        }
        self.warm_up = warm_up;
        self.review = now + REVIEW_INTERVAL;
    }

    pub(super) fn on_verdict(&mut self, target: &Target) {
        self.warm_up.targets.remove(target);
    }

    pub(super) fn on_next_hops(&mut self, has_next_hop: impl Fn(&IpAddr) -> bool) {
        self.warm_up.servers.retain(|address| !has_next_hop(address));
    }

    /// Becomes ready if nothing is awaited any more. Returns whether it has become ready now.
    pub(super) fn check(&mut self) -> bool {
        let is_new = !self.is_ready && self.warm_up.is_empty();
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
    pub(super) fn pending(&self) -> PendingChange {
        PendingChange {
            change: self.then.name(),
            waits_for: named(&self.warm_up),
            ends: self.begun + at_most(&self.warm_up),
        }
    }

    /// What it waited for after [`FIRST_WAIT`], in words; `None` if nothing.
    pub(super) fn wait_description(&self, now: Instant) -> Option<String> {
        let took = now.saturating_duration_since(self.begun).as_secs();
        let servers = self.replacements.join(", ");
        (!self.replacements.is_empty())
            .then(|| format!("waited {took} s for servers that replace healthy ones: {servers}"))
    }
}

/// Longest wait for a target: its first result decides, and arrives within the timeout.
fn patience(target: &Target) -> Duration {
    target.check.timeout + MARGIN
}

pub(super) fn at_most(warm_up: &WarmUp) -> Duration {
    let hop = (!warm_up.servers.is_empty()).then_some(NEXT_HOP_TIMEOUT);
    warm_up.targets.iter().map(patience).chain(hop).max().unwrap_or_default()
}

pub(super) fn named(warm_up: &WarmUp) -> Vec<String> {
    let targets = warm_up.targets.iter().map(|target| {
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
    let servers = warm_up.servers.iter().map(|address| format!("{address} (next hop)"));
    let all: Vec<_> = targets.chain(servers).collect();
    match all.len().checked_sub(MAX_NAMED + 1) {
        None => all,
        Some(more) => all[..MAX_NAMED].iter().cloned().chain([format!("{} more", more + 1)]).collect(),
    }
}
