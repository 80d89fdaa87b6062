//! `slb server drain`: shows remaining connections and waits for their end.

use std::{collections::BTreeSet, net::SocketAddr, path::Path, process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use tokio::time::sleep;

use super::status::drain as left;
use crate::server::override_keys::named_server_of;
use slb_api::{
    client,
    types::{AdminState, ApiServer, Status},
};
use slb_common::abi::ports::EndpointText;
use slb_control::overrides::NamedServer;

/// Polling interval.
const INTERVAL: Duration = Duration::from_secs(1);
/// Exit code if connections remained at the deadline.
const DEADLINE_PASSED: u8 = 3;

/// A draining server behind a listener.
struct DrainingServer<'a> {
    listener: String,
    server: &'a ApiServer,
}

/// State of a drain.
#[derive(Debug, PartialEq, Eq)]
enum DrainOutcome {
    /// Connections remain, or their number is unknown.
    Ongoing,
    /// No connection remains.
    Completed,
    /// The deadline passed while connections remained.
    DeadlinePassed,
}

/// Shows the connections of these servers. With `wait`, waits for their end.
pub(super) async fn drain(socket: &Path, servers: &[NamedServer], wait: bool) -> Result<ExitCode> {
    let (mut shown, mut had) = (Vec::new(), BTreeSet::new());
    loop {
        let Some(status) = client::status(socket).await? else { return Err(client::no_daemon(socket)) };
        let found = draining(&status, servers);
        let lines: Vec<_> = found
            .iter()
            .map(|DrainingServer { listener, server }| {
                format!("{listener}: {}: {}", EndpointText(server.address), left(server))
            })
            .collect();
        if shown.is_empty() {
            lines.iter().for_each(|line| println!("{line}"));
            shown = lines;
        }
        if !wait {
            return Ok(ExitCode::SUCCESS);
        }
        refuse_endless(&found)?;
        match outcome(found.iter().map(|draining| draining.server), &had) {
            DrainOutcome::Ongoing => {
                let left = found
                    .iter()
                    .map(|draining| draining.server)
                    .filter(|server| server.current_flows != Some(0));
                had = left.map(|server| server.address).collect();
                sleep(INTERVAL).await;
            }
            DrainOutcome::Completed => {
                println!("no connection is left");
                return Ok(ExitCode::SUCCESS);
            }
            DrainOutcome::DeadlinePassed => {
                println!("the deadline has passed: connections that were left are reset");
                return Ok(ExitCode::from(DEADLINE_PASSED));
            }
        }
        if is_enabled(&status, servers) {
            bail!("a server takes new connections again: it has been enabled meanwhile");
        }
    }
}

/// These servers behind every listener that they serve.
fn draining<'a>(status: &'a Status, servers: &[NamedServer]) -> Vec<DrainingServer<'a>> {
    let mut found = Vec::new();
    for balancer in &status.load_balancers {
        for listener in &balancer.listeners {
            let is_one = |server: &&ApiServer| {
                server
                    .set
                    .as_ref()
                    .and_then(|set| named_server_of(set).ok())
                    .is_some_and(|override_key| servers.contains(&override_key))
            };
            let name = format!("{}/{}", balancer.name, listener.name);
            let servers = listener.servers.iter().filter(is_one);
            found.extend(servers.map(|server| DrainingServer { listener: name.clone(), server }));
        }
    }
    found
}

/// Whether one of these servers is no longer draining.
fn is_enabled(status: &Status, servers: &[NamedServer]) -> bool {
    let overrides = status.daemon.iter().flat_map(|daemon| &daemon.overrides);
    let drained: Vec<_> = overrides
        .filter(|set| set.state == Some(AdminState::Draining))
        .filter_map(|set| named_server_of(set).ok())
        .collect();
    !servers.iter().all(|override_key| drained.contains(override_key))
}

/// Fails if waiting would not end.
fn refuse_endless(found: &[DrainingServer<'_>]) -> Result<()> {
    for DrainingServer { listener, server } in found {
        let has_deadline = server.draining.is_some_and(|draining| draining.seconds_left.is_some());
        if server.current_flows.is_none() && !has_deadline {
            bail!(
                "{listener}: {} is drained, and there is nothing to wait for: its mode does not track connections, and \
                 `drain_timeout` is not set",
                EndpointText(server.address)
            );
        }
    }
    Ok(())
}

/// The state of a drain. `had` are the servers that had connections at the last poll.
fn outcome<'a>(servers: impl Iterator<Item = &'a ApiServer>, had: &BTreeSet<SocketAddr>) -> DrainOutcome {
    let mut outcome = DrainOutcome::Completed;
    for server in servers {
        let is_over = server.draining.is_some_and(|draining| draining.seconds_left == Some(0));
        match server.current_flows {
            // At the deadline the remaining connections are reset too.
            Some(0) if !(is_over && had.contains(&server.address)) => {}
            _ if is_over => outcome = DrainOutcome::DeadlinePassed,
            _ => return DrainOutcome::Ongoing,
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use slb_api::types::{self, ApiCounters, ApiHealth};

    fn server(current_flows: Option<u64>, seconds_left: Option<u64>) -> ApiServer {
        ApiServer {
            quic_server_id: None,
            address: "10.0.0.11:80".parse().unwrap(),
            weight: 10,
            health: ApiHealth::Healthy,
            set: None,
            detail: None,
            next_hop: None,
            slots: 0,
            counters: ApiCounters::default(),
            current_flows,
            source_ports: None,
            draining: Some(types::DrainStatus { seconds_left, is_removed: false }),
        }
    }

    #[test]
    fn drain_ends_with_the_last_connection_or_at_the_deadline() {
        let of = |servers: &[(Option<u64>, Option<u64>)]| {
            let servers: Vec<_> = servers.iter().map(|(flows, left)| server(*flows, *left)).collect();
            outcome(servers.iter(), &BTreeSet::new())
        };
        assert_eq!(of(&[(Some(0), Some(9)), (Some(0), None)]), DrainOutcome::Completed);
        assert_eq!(of(&[(Some(0), Some(9)), (Some(2), Some(9))]), DrainOutcome::Ongoing);
        assert_eq!(of(&[(Some(2), Some(0)), (Some(1), Some(5))]), DrainOutcome::Ongoing, "one has time left");
        assert_eq!(of(&[(Some(2), Some(0)), (Some(0), Some(0))]), DrainOutcome::DeadlinePassed);
        assert_eq!(of(&[(Some(0), Some(0))]), DrainOutcome::Completed);
        assert_eq!(of(&[(None, Some(3))]), DrainOutcome::Ongoing);
        assert_eq!(
            of(&[(None, Some(0))]),
            DrainOutcome::DeadlinePassed,
            "what is not tracked is not known to have ended"
        );
        let had = BTreeSet::from([server(None, None).address]);
        let reset = server(Some(0), Some(0));
        assert_eq!(
            outcome([&reset].into_iter(), &had),
            DrainOutcome::DeadlinePassed,
            "they were left until the deadline"
        );
        assert_eq!(outcome([&server(Some(0), Some(4))].into_iter(), &had), DrainOutcome::Completed);
        let endless = |flows, left| {
            let server = server(flows, left);
            refuse_endless(&[DrainingServer { listener: "shop/web".to_owned(), server: &server }]).is_err()
        };
        assert!(endless(None, None) && !endless(None, Some(3)) && !endless(Some(1), None));
    }
}
