//! Servers whose answers do not return through SLB. A change is logged once.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use super::Observations;
use crate::health::{Target, Via};
use slb_common::abi::ports::EndpointText;
use slb_config::model::CheckKind;
use slb_control::{
    listener_index::LogNames,
    model::HealthVerdict,
    one_way::{AnswerCounts, CheckEvidence, OneWayChange, WINDOW},
};

impl Observations {
    /// Records which servers have answered new connections. Returns whether the set of one-way servers has changed.
    pub(in crate::daemon) fn on_answers(&mut self, counted: &BTreeMap<SocketAddr, AnswerCounts>) -> bool {
        let mut one_way = std::mem::take(&mut self.one_way);
        let changes = one_way.update(counted, |server| self.evidence(server));
        self.one_way = one_way;
        for change in &changes {
            let (OneWayChange::AnswersLost(server, ..) | OneWayChange::AnswersReturned(server)) = change;
            let LogNames { load_balancer, listener, server_group, check } = self.users.of_endpoint(server);
            /// Logs with the fields that identify the server and its listeners.
            macro_rules! log {
                ($level:ident, $($what:tt)*) => {
                    tracing::$level!(server = %EndpointText(*server), load_balancer, listener, server_group, check, $($what)*)
                };
            }
            let within = Duration::from_secs(WINDOW.into());
            match change {
                OneWayChange::AnswersLost(_, CheckEvidence::CheckPasses, unanswered) => {
                    let detail = CheckEvidence::CheckPasses.detail();
                    log!(warn, unanswered, ?within, "the server passes its check, and its {detail}");
                }
                OneWayChange::AnswersLost(_, CheckEvidence::Unchecked, unanswered) => {
                    let why = CheckEvidence::Unchecked.detail();
                    log!(
                        warn,
                        unanswered,
                        ?within,
                        why,
                        "no answer to new connections of the server passes through SLB"
                    );
                }
                OneWayChange::AnswersReturned(_) => log!(info, "the server's answers return through SLB"),
            }
        }
        !changes.is_empty()
    }

    /// What health checks prove about a server's port; `None` if they give no reason to expect answers.
    fn evidence(&self, server: &SocketAddr) -> Option<CheckEvidence> {
        let checks = self.users.checks_of(server).filter(|target| target.via == Via::Direct);
        let (asking, other): (Vec<&Target>, Vec<_>) = checks.partition(|target| checks_port(target, server));
        if asking.iter().any(|target| self.passes_check(target)) {
            return Some(CheckEvidence::CheckPasses);
        }
        // Passing checks of another port, and echo requests, prove nothing about this port.
        let is_unknown = asking.is_empty() && other.iter().all(|target| self.passes_check(target));
        (is_unknown && self.has_next_hop_to(&server.ip())).then_some(CheckEvidence::Unchecked)
    }

    fn passes_check(&self, target: &Target) -> bool {
        self.probed.get(target).is_some_and(HealthVerdict::is_healthy)
    }
}

/// Whether a check connects to the server's port.
fn checks_port(target: &Target, server: &SocketAddr) -> bool {
    target.address.port() == server.port()
        && !matches!(target.check.kind, CheckKind::Icmp | CheckKind::Udp(_))
}
