//! Servers whose answers do not come back: said once, and shown.

use std::{collections::BTreeMap, net::SocketAddr};

use super::Facts;
use crate::{
    control::{
        one_way::{Answers, Change, DETAIL},
        users::Named,
    },
    health::Via,
};

impl Facts {
    /// Takes notice of which servers have answered new connections. Returns whether that changes anything.
    pub(in crate::daemon) fn note_answers(&mut self, counted: &BTreeMap<SocketAddr, Answers>) -> bool {
        let (probed, users) = (&self.probed, &self.users);
        let is_healthy = |server: &SocketAddr| {
            // Of another port of the same address, a check says nothing of this server.
            let mut of_server = users.checks_of(server).filter(|target| target.via == Via::Direct);
            of_server.any(|target| probed.get(target).is_some_and(|verdict| verdict.healthy))
        };
        let changes = self.one_way.judge(counted, is_healthy);
        for change in &changes {
            let (Change::Lost(server, _) | Change::Back(server)) = change;
            let Named { load_balancer, listener, server_group, check } = users.of_endpoint(server);
            match change {
                Change::Lost(_, unanswered) => tracing::warn!(
                    %server,
                    load_balancer,
                    listener,
                    server_group,
                    check,
                    unanswered,
                    "the server passes its check, and its {DETAIL}"
                ),
                Change::Back(_) => tracing::info!(
                    %server,
                    load_balancer,
                    listener,
                    server_group,
                    check,
                    "the server's answers come back through SLB"
                ),
            }
        }
        !changes.is_empty()
    }
}
