//! Services of frontends and their backends.

use std::{collections::BTreeSet, time::Duration};

use super::{
    address::TRANSPARENT,
    proxy::{Proxy, ProxyServer},
    server::ServerCheck,
};
use crate::{
    ImportError,
    ledger::Ledger,
    limits,
    model::{Check, CheckKind, Mode, Model, Pool, Protocol, Scheduler, Server, Service},
    source::{Lines, Sources},
};

/// Failures and time of `observe layer4` without `error-limit`.
const ERROR_LIMIT: u64 = 10;
const ERROR_TIME: Duration = Duration::from_secs(10);

/// Interval of checks without `inter`.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(2);

/// Why settings of checks are left out.
pub(super) const UNUSED_CHECK: &str = "no server with `check` uses it";

/// What the services use.
#[derive(Default)]
pub(super) struct Built<'p> {
    /// Their sections.
    pub(super) sections: Vec<&'p Proxy>,
    /// Lines about their checks.
    pub(super) checks: BTreeSet<Lines>,
}

/// Makes services of all frontends and `listen` sections.
pub(super) fn build<'p>(
    sources: &Sources<'_>,
    ledger: &mut Ledger,
    model: &mut Model,
    proxies: &'p [Proxy],
) -> Result<Built<'p>, ImportError> {
    let mut built = Built::default();
    let mut used = Vec::new();
    for front in proxies.iter().filter(|proxy| proxy.keyword != "backend") {
        if front.binds.is_empty() {
            leave_out(ledger, front, "it has no address that SLB could serve");
            continue;
        }
        let back = match front.use_backend.as_ref().or(front.settings.backend.as_ref()) {
            Some((name, at)) => {
                let found = proxies.iter().find(|proxy| proxy.keyword == "backend" && proxy.name == *name);
                let Some(found) = found else {
                    // It may be there, in another mode.
                    let is_there = sources.text(0).lines().any(|line| {
                        let mut words = line.split_whitespace();
                        words.next() == Some("backend") && words.next() == Some(name)
                    });
                    if !is_there {
                        let expected = format!("a section `backend {name}`");
                        return Err(sources.error(*at, format!("there is no backend `{name}`"), expected));
                    }
                    leave_out(ledger, front, "its backend is not of mode `tcp`");
                    continue;
                };
                found
            }
            None if front.keyword == "listen" => front,
            None if front.switches_by_content => {
                leave_out(ledger, front, "its backend depends on content switching, which SLB does not do");
                continue;
            }
            None => {
                leave_out(ledger, front, "it has no backend");
                continue;
            }
        };
        if let Some(server) = back.servers.iter().find(|server| server.options.is_encrypted) {
            let reason = format!(
                "HAProxy originates TLS to the server in line {} (`ssl`); SLB forwards bytes as they are",
                server.at.first
            );
            leave_out(ledger, front, &reason);
            continue;
        }
        if back.servers.is_empty() {
            leave_out(ledger, front, "it has no servers that SLB could use");
            continue;
        }
        ledger.absorb(&front.ledger);
        if !std::ptr::eq(front, back) && !used.contains(&back.name.as_str()) {
            ledger.absorb(&back.ledger);
        }
        used.push(&back.name);
        built.sections.extend([front, back]);
        services(ledger, model, front, back);
        let is_checked = back.servers.iter().any(|server| server.options.is_checked);
        for at in back.settings.check.lines() {
            if is_checked {
                built.checks.insert(at);
            } else if back.whole.contains(at.file, at.first) {
                ledger.left_out(at, UNUSED_CHECK);
            }
        }
    }
    for back in
        proxies.iter().filter(|proxy| proxy.keyword == "backend" && !used.contains(&proxy.name.as_str()))
    {
        leave_out(ledger, back, "no frontend of the result uses it");
    }
    Ok(built)
}

fn leave_out(ledger: &mut Ledger, proxy: &Proxy, reason: &str) {
    ledger.left_out(proxy.whole, reason);
}

fn services(ledger: &mut Ledger, model: &mut Model, front: &Proxy, back: &Proxy) {
    let settings = &back.settings;
    let (primary, backup): (Vec<&ProxyServer>, Vec<&ProxyServer>) =
        back.servers.iter().partition(|server| !server.options.is_backup);
    if let [_, second, ..] = backup.as_slice()
        && !settings.has_all_backups
    {
        ledger.changed(second.at, "all backup servers receive traffic together, as with `option allbackups`");
    }
    let pool = |name: String, servers: &[&ProxyServer]| Pool {
        name,
        servers: servers.iter().map(|s| server(s)).collect(),
    };
    let established = established(ledger, front, back);
    let mut ports: Vec<_> = front.binds.iter().map(|(_, ports, _)| *ports).collect();
    ports.sort_unstable();
    ports.dedup();
    let is_one = ports.len() == 1;
    let check = check(ledger, back);
    model.interfaces.extend(front.interfaces.iter().cloned());
    model.interfaces.sort();
    model.interfaces.dedup();
    model.local_addresses.extend(&settings.local_addresses);
    let sticks = settings.sticks_to_address;
    if let Some((_, at)) = settings.stick_table
        && !sticks
    {
        ledger.left_out(at, "no `stick on src` uses it: there is no session persistence");
    }
    let is_transparent = transparent(ledger, model, back);
    for ports in ports {
        let binds = front.binds.iter().filter(|(_, other, _)| *other == ports);
        let vips: Vec<_> = binds.map(|(vip, _, at)| (*vip, *at)).collect();
        let Some(&(_, at)) = vips.first() else { continue };
        let name = if is_one { front.name.clone() } else { format!("{}-{}", front.name, ports.first) };
        model.services.push(Service {
            at,
            sources: vec![front.whole, back.whole],
            name,
            vips,
            protocol: Protocol::Tcp,
            ports,
            mode: if is_transparent { Mode::Nat } else { Mode::FullNat },
            scheduler: settings.scheduler.unwrap_or(Scheduler::WeightedRoundRobin),
            persistence: settings.stick_table.filter(|_| sticks).map(|(time, _)| time),
            established_timeout: established,
            slow_start: back.servers.iter().find_map(|server| server.options.slow_start),
            check: check.clone(),
            primary: pool(back.name.clone(), &primary),
            backup: pool(format!("{}-backup", back.name), &backup),
            failover_threshold: None,
            is_stopped: front.settings.is_disabled || settings.is_disabled,
        });
    }
}

fn server(server: &ProxyServer) -> Server {
    let options = &server.options;
    let weight = if options.is_disabled { 0 } else { options.weight.unwrap_or(1) };
    Server { at: server.at, host: server.host.clone(), port: server.port, weight }
}

/// Whether servers see the client's address. Takes the local addresses of servers, too.
fn transparent(ledger: &mut Ledger, model: &mut Model, back: &Proxy) -> bool {
    let settings = &back.settings;
    let is_transparent =
        settings.is_transparent || back.servers.iter().all(|server| server.options.is_transparent);
    for server in &back.servers {
        model.local_addresses.extend(server.options.local_address);
        if !server.options.is_transparent {
            continue;
        }
        let reason = if is_transparent {
            TRANSPARENT
        } else {
            "`usesrc`: not all servers have it, and a listener has one mode: it loses the client's address (`full-nat`)"
        };
        ledger.changed(server.at, reason);
    }
    is_transparent
}

/// The silence after which HAProxy ends a connection: `tunnel`, or the shorter one of `client` and `server`.
fn established(ledger: &mut Ledger, front: &Proxy, back: &Proxy) -> Option<Duration> {
    let ends = [front.settings.client, back.settings.server];
    let shorter = ends.into_iter().flatten().filter(|(time, _)| !time.is_zero()).min();
    let (time, at) = back.settings.tunnel.or(front.settings.tunnel).or(shorter)?;
    for (_, other) in ends.into_iter().flatten().filter(|(_, other)| *other != at) {
        ledger.changed(other, format!("`established_timeout` is the time of line {}", at.first));
    }
    // HAProxy waits for ever.
    if time.is_zero() {
        return None;
    }
    Some(limits::ESTABLISHED.fit(ledger, at, time))
}

/// The check of all servers: that of the first one that is checked.
fn check(ledger: &mut Ledger, back: &Proxy) -> Check {
    let checked = || back.servers.iter().filter(|server| server.options.is_checked);
    let Some(first) = checked().next() else {
        return Check::new(CheckKind::None);
    };
    for server in back.servers.iter().filter(|server| !server.options.is_checked) {
        ledger.changed(server.at, "the server had no check: that of the listener probes it too");
    }
    let without_own_port = |server: &ProxyServer| ServerCheck {
        port: server.options.check.port.filter(|port| Some(*port) != server.port),
        ..server.options.check.clone()
    };
    let own = without_own_port(first);
    for server in checked().filter(|server| without_own_port(server) != own) {
        let reason = format!("all servers of a listener have one check: that of line {}", first.at.first);
        ledger.changed(server.at, reason);
    }
    let mut check = Check::new(back.settings.check.kind.clone());
    match &mut check.kind {
        CheckKind::Http(http) => {
            http.tls = own.is_encrypted;
            http.verify = own.verifies;
            http.host = http.host.take().or(own.host);
        }
        kind @ CheckKind::Tcp if own.is_encrypted => {
            *kind = CheckKind::Tls { host: own.host, verify: own.verifies };
        }
        _ => {}
    }
    check.port = own.port;
    check.interval = own.interval;
    // Without `timeout check`, a check has its interval.
    let interval = own.interval.unwrap_or(DEFAULT_INTERVAL);
    check.timeout = Some(back.settings.check.timeout.map_or(interval, |(time, _)| time));
    check.healthy = Some(own.rise.unwrap_or(2));
    check.unhealthy = Some(own.fall.unwrap_or(3));
    if own.observes {
        check.passive = Some((own.error_limit.unwrap_or(ERROR_LIMIT), ERROR_TIME));
    }
    check
}
