//! Servers whose answers do not return through SLB. A change is logged once.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use super::Observations;
use crate::health::{Target, Via};
use slb_config::model::CheckKind;
use slb_control::{
    one_way::{Answers, Change, Evidence, WINDOW},
    users::Named,
};

impl Observations {
    /// Records which servers have answered new connections. Returns whether the set of one-way servers has changed.
    pub(in crate::daemon) fn note_answers(&mut self, counted: &BTreeMap<SocketAddr, Answers>) -> bool {
        let mut one_way = std::mem::take(&mut self.one_way);
        let changes = one_way.judge(counted, |server| self.evidence(server));
        self.one_way = one_way;
        for change in &changes {
            let (Change::Lost(server, ..) | Change::Back(server)) = change;
            let Named { load_balancer, listener, server_group, check } = self.users.of_endpoint(server);
            /// Logs with the fields that identify the server and its listeners.
            macro_rules! log {
                ($level:ident, $($what:tt)*) => {
                    tracing::$level!(%server, load_balancer, listener, server_group, check, $($what)*)
                };
            }
            let within = Duration::from_secs(WINDOW.into());
            match change {
                Change::Lost(_, Evidence::CheckPasses, unanswered) => {
                    let detail = Evidence::CheckPasses.detail();
                    log!(warn, unanswered, ?within, "the server passes its check, and its {detail}");
                }
                Change::Lost(_, Evidence::Unchecked, unanswered) => {
                    let why = Evidence::Unchecked.detail();
                    log!(
                        warn,
                        unanswered,
                        ?within,
                        why,
                        "no answer to new connections of the server passes through SLB"
                    );
                }
                Change::Back(_) => log!(info, "the server's answers come back through SLB"),
            }
        }
        !changes.is_empty()
    }

    /// What health checks prove about a server's port; `None` if they give no reason to expect answers.
    fn evidence(&self, server: &SocketAddr) -> Option<Evidence> {
        let checks = self.users.checks_of(server).filter(|target| target.via == Via::Direct);
        let (asking, other): (Vec<&Target>, Vec<_>) = checks.partition(|target| asks_port(target, server));
        if asking.iter().any(|target| self.passes(target)) {
            return Some(Evidence::CheckPasses);
        }
        // Passing checks of another port, and echo requests, prove nothing about this port.
        let is_unknown = asking.is_empty() && other.iter().all(|target| self.passes(target));
        (is_unknown && self.has_way_to(&server.ip())).then_some(Evidence::Unchecked)
    }

    fn passes(&self, target: &Target) -> bool {
        self.probed.get(target).is_some_and(|verdict| verdict.healthy)
    }
}

/// Whether a check connects to the server's port.
fn asks_port(target: &Target, server: &SocketAddr) -> bool {
    target.address.port() == server.port()
        && !matches!(target.check.kind, CheckKind::Icmp | CheckKind::Udp(_))
}
