//! Services of `server` blocks and their upstreams.

use std::time::Duration;

use super::{address, server::StreamServer, upstream::Upstream};
use crate::{
    ledger::Ledger,
    limits,
    model::{Check, CheckKind, Mode, Model, Pool, Protocol, Scheduler, Server, Service},
    source::Lines,
};

/// Servers behind a `proxy_pass`.
struct Target<'u> {
    name: String,
    upstream: Option<&'u Upstream>,
    servers: Vec<Server>,
}

/// Makes services of all servers.
pub(super) fn build(
    ledger: &mut Ledger,
    model: &mut Model,
    servers: &[StreamServer],
    upstreams: &[Upstream],
) {
    let mut used: Vec<&str> = Vec::new();
    for server in servers {
        let target = match target(server, upstreams) {
            Ok(target) => target,
            Err(reason) => {
                server.statement.leave_out(ledger, reason);
                continue;
            }
        };
        ledger.absorb(&server.ledger);
        if let Some(upstream) = target.upstream
            && !used.contains(&upstream.name.as_str())
        {
            ledger.absorb(&upstream.ledger);
            used.push(&upstream.name);
        }
        services(ledger, model, server, &target);
    }
    for upstream in upstreams.iter().filter(|upstream| !used.contains(&upstream.name.as_str())) {
        upstream.statement.leave_out(ledger, "no server of the result uses it");
    }
}

/// The servers of a block.
///
/// # Errors
/// Why the block is left out.
fn target<'u>(server: &StreamServer, upstreams: &'u [Upstream]) -> Result<Target<'u>, &'static str> {
    if let Some(reason) = server.refused {
        return Err(reason);
    }
    if server.listens.is_empty() {
        return Err("it has no address that SLB could serve");
    }
    let Some((name, at)) = &server.target else { return Err("it has no `proxy_pass`") };
    if server.settings.is_encrypted {
        return Err("nginx originates TLS to its servers (`proxy_ssl`); SLB forwards bytes as they are");
    }
    if let Some(upstream) = upstreams.iter().find(|upstream| upstream.name == *name) {
        if upstream.servers.is_empty() && upstream.backup.is_empty() {
            return Err("its upstream has no server that SLB could use");
        }
        let servers = upstream.servers.clone();
        return Ok(Target { name: name.clone(), upstream: Some(upstream), servers });
    }
    if name.contains('$') {
        return Err("its upstream is chosen by a variable: SLB does no content switching");
    }
    let (host, port) = address::server(name)?;
    let servers = vec![Server { at: *at, host, port, weight: 1 }];
    Ok(Target { name: name.clone(), upstream: None, servers })
}

fn services(ledger: &mut Ledger, model: &mut Model, server: &StreamServer, target: &Target<'_>) {
    let settings = &server.settings;
    model.local_addresses.extend(settings.local_address);
    let mut kinds: Vec<_> =
        server.listens.iter().map(|(_, protocol, ports, _)| (*protocol, *ports)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for (protocol, ports) in kinds {
        let listens =
            server.listens.iter().filter(|(_, other, same, _)| (*other, *same) == (protocol, ports));
        let vips: Vec<_> = listens.map(|(vip, _, _, at)| (*vip, *at)).collect();
        let Some(&(_, at)) = vips.first() else { continue };
        let word = if protocol == Protocol::Udp { "udp" } else { "tcp" };
        let upstream = target.upstream;
        if let (Protocol::Udp, Some((_, at))) = (protocol, settings.timeout) {
            ledger.changed(at, "only of TCP: a UDP flow of SLB ends after 90 s without datagrams");
        }
        let sources: Vec<Lines> = [Some(server.statement.whole), upstream.map(|upstream| upstream.whole)]
            .into_iter()
            .flatten()
            .collect();
        model.services.push(Service {
            at,
            sources,
            name: match upstream {
                Some(upstream) => format!("{}-{word}-{}", upstream.name, ports.first),
                None => format!("{word}-{}", ports.first),
            },
            vips,
            protocol,
            ports,
            mode: if settings.is_transparent { Mode::Nat } else { Mode::FullNat },
            scheduler: upstream.map_or(Scheduler::Maglev, |upstream| upstream.scheduler),
            persistence: None,
            established_timeout: settings.timeout.map(|(time, _)| time),
            slow_start: upstream.and_then(|upstream| upstream.slow_start),
            check: check(ledger, server, target, protocol),
            primary: Pool { name: target.name.clone(), servers: target.servers.clone() },
            backup: Pool {
                name: format!("{}-backup", target.name),
                servers: upstream.map_or_else(Vec::new, |upstream| upstream.backup.clone()),
            },
            failover_threshold: None,
            is_stopped: false,
        });
    }
}

/// The check of a service: that of NGINX Plus, or connections and what clients' connections show.
fn check(ledger: &mut Ledger, server: &StreamServer, target: &Target<'_>, protocol: Protocol) -> Check {
    if let Some(check) = &server.settings.check {
        return check.clone();
    }
    let passive = target.upstream.and_then(|upstream| upstream.passive.map(|passive| (upstream, passive)));
    let Some((upstream, (failures, within))) = passive else { return Check::new(CheckKind::None) };
    let head = upstream.statement.head;
    if protocol == Protocol::Udp {
        ledger.changed(head, "SLB has no passive checks of UDP: the listener has no health check");
        return Check::new(CheckKind::None);
    }
    let mut check = Check::new(CheckKind::Tcp);
    let within = if within.is_zero() { Duration::from_secs(10) } else { within };
    let within = limits::WITHIN.fit(ledger, head, within);
    check.passive = Some((failures.clamp(2, 1000), within));
    let reason = format!(
        "nginx avoids a server after `max_fails` = {failures}; SLB opens connections to check it, too, and ejects it \
         after {} (`passive`)",
        failures.clamp(2, 1000)
    );
    ledger.changed(head, reason);
    check
}
