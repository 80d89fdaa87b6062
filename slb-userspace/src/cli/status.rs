//! `slb status`.

mod limits;
mod listener;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use comfy_table::Table;

use self::limits::limits;
use self::listener::{heading, in_number, outages, server_address, source_ports};
use super::{
    lock_holder::{LockHolder, claimant},
    table::{reasons, reasons_of_one_verdict, table},
};
use crate::{
    clock::since_boot,
    dataplane::bpf::{link::LinkBinding, maps::Maps, pins::Pins},
    neigh,
    server::{
        override_keys::admin_state_of,
        status::{StatusContext, readings::Readings, status as describe},
    },
};
use slb_api::{
    client,
    types::{
        ApiHealth, ApiInterfaceRole, ApiListener, ApiOverride, ApiPendingChange, ApiRunState, ApiServer,
        AttachMode, ConfigurationStatus, DaemonStatus, DrainStatus, FlowTableStatus, InactiveInterface,
        InterfaceLosses, Requester, Status, VipStatus,
    },
};
use slb_common::abi::ABI_VERSION;
use slb_control::dataplane::DataPlane as _;

/// Verdict of packets that SLB leaves to the kernel.
const PASS: &str = "pass";
/// Age in seconds from which the output is marked as old.
const STALE: u64 = 5;

/// Output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Tables for people.
    Table,
    /// The API's JSON document.
    Json,
}

/// Prints the status: from the daemon, or from the pins if no daemon answers. Returns whether a daemon has answered.
pub async fn status(socket: &Path, pin_dir: PathBuf, output: Output) -> Result<bool> {
    let status = match client::status(socket).await? {
        Some(status) => status,
        None => {
            let from_pins = from_pins(socket, &Pins::new(pin_dir)).await;
            from_pins.map_err(|error| client::NoDaemon(format!("{error:#}")))?
        }
    };
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        Output::Table => print!("{}", render(&status)),
    }
    Ok(status.daemon.is_some())
}

async fn from_pins(socket: &Path, pins: &Pins) -> Result<Status> {
    let other_versions_hint = other_versions_hint(pins);
    if !pins.exist()? {
        let (socket, root) = (socket.display(), pins.root().display());
        let others = pins.other_versions();
        if !others.is_empty() {
            bail!(
                "no daemon listens on {socket}, and the pins in {root} are of ABI {}, while this slb reads v{ABI_VERSION}: use the \
                 slb of that release{other_versions_hint}",
                others.join(", ")
            );
        }
        bail!(
            "no daemon listens on {socket}, and there are no pins in {root}: SLB is not running here{other_versions_hint}"
        );
    }
    eprintln!("no daemon listens on {}{other_versions_hint}", socket.display());
    let maps = Maps::open(pins).context("no daemon listens, and its pins cannot be read")?;
    let interfaces = neigh::links().await?;
    let bound = pins.bound()?;
    // The names of another namespace's interfaces are known only there.
    let attached = interfaces.iter().filter(|link| {
        link.xdp.is_some_and(|xdp| {
            let is_it =
                |bound: &LinkBinding| bound.interface == Some(link.index) && bound.program == xdp.program;
            bound.iter().any(|(_, bound)| is_it(bound))
        })
    });
    let attached: Vec<_> = attached.cloned().collect();
    if bound.iter().any(|(_, bound)| bound.is_elsewhere(&interfaces)) {
        eprintln!(
            "the pins in {} are of another network namespace: its interfaces are not shown",
            pins.root().display()
        );
    }
    let context = StatusContext {
        daemon: None,
        config: None,
        details: &BTreeMap::new(),
        set: &BTreeMap::new(),
        outages: None,
        sources: &BTreeMap::new(),
        now: since_boot()?,
        interfaces: &attached,
        view: None,
    };
    let state = maps.observe()?;
    Ok(describe(&state, &Readings::of(&maps, &state)?, context))
}

/// The daemon that uses these pins and listens on another socket, in words; empty if there is none.
fn other_versions_hint(pins: &Pins) -> String {
    let Some(LockHolder { pid, sockets }) = claimant(pins.root()) else { return String::new() };
    let sockets: Vec<_> = sockets.iter().map(|path| format!("--socket {}", path.display())).collect();
    let how = if sockets.is_empty() { "a socket that is not found".to_owned() } else { sockets.join(" or ") };
    format!("; process {pid} uses the pins in {}: ask it with {how}", pins.root().display())
}

fn flow_table(table: &FlowTableStatus) -> String {
    let FlowTableStatus { entries, used, assured, evicted, evicted_assured } = table;
    let part = 100.0 * *used as f64 / (*entries).max(1) as f64;
    let evicted = match evicted + evicted_assured {
        0 => String::new(),
        _ => format!("; evicted {evicted} flows not assured, {evicted_assured} assured"),
    };
    format!("flow table: {used} of {entries} entries used ({part:.1} %), {assured} assured flows{evicted}\n")
}

fn render(status: &Status) -> String {
    let mut text = match &status.daemon {
        Some(daemon) => {
            let head =
                format!("slbd {} (pid {}), up {} s\n", daemon.version, daemon.pid, daemon.uptime_seconds);
            // During a start the event loop does not run yet; the status shows what it waits for.
            let starts = daemon.configuration.pending.as_ref().is_some_and(|pending| pending.change == "start");
            head + &stale(if starts { 0 } else { daemon.age_seconds })
                + &troubles(daemon)
                + &configuration(&daemon.configuration)
                + &trouble(daemon.overrides_trouble.as_deref())
        }
        None => "no daemon answers: this is the state of the kernel's maps; health and next hops are as of the last daemon's last change\n".to_owned(),
    };
    if let Some(digest) = &status.digest {
        let seed = status.hash_seed.map_or_else(String::new, |seed| format!("; hash seed {seed}"));
        text +=
            &format!("digest {digest}: equal on nodes that choose the same server for each new flow{seed}\n");
    }
    text += &flow_table(&status.flow_table);
    for interface in &status.interfaces {
        let mode = match interface.mode {
            AttachMode::Native => "native",
            AttachMode::Generic => "generic",
        };
        let notes = interface.notes.join("; ");
        let notes = if notes.is_empty() { notes } else { format!(" ({notes})") };
        let role = match interface.role {
            ApiInterfaceRole::Client => ", role client",
            ApiInterfaceRole::Server => ", role server",
            ApiInterfaceRole::Both => "",
        };
        text += &format!("interface {}: XDP {mode}{role}{notes}\n", interface.name);
    }
    text += &status.daemon.as_ref().map_or_else(String::new, interfaces);
    text += &status.daemon.as_ref().map_or_else(String::new, |daemon| vips(&daemon.vips));
    for balancer in &status.load_balancers {
        for listener in &balancer.listeners {
            text += &match listener.state {
                ApiRunState::Running => {
                    let heading = heading(balancer, listener);
                    format!(
                        "\n{heading}\n{}{}\n",
                        outages(listener) + &limits(listener) + &source_ports(listener),
                        servers(listener)
                    )
                }
                ApiRunState::Stopped => format!("\n{}\n", heading(balancer, listener)),
            };
        }
    }
    if !status.reasons.is_empty() {
        let (passed, handled): (Vec<_>, Vec<_>) =
            status.reasons.iter().partition(|count| count.verdict == PASS);
        text += &format!("\n{}\n", reasons(handled));
        if !passed.is_empty() {
            let table = reasons_of_one_verdict(passed);
            text += &format!("\npassed to the kernel, which handles them (no loss):\n{table}\n");
        }
    }
    text
}

/// Interfaces that do not forward, and packets lost at those that do.
/// Numbers of announced VIPs by interface, and what is wrong with VIPs.
fn vips(vips: &[VipStatus]) -> String {
    let mut announced: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for at in vips.iter().flat_map(|vip| vip.announced.iter().flatten()) {
        let (count, answers) = announced.entry(&at.interface).or_default();
        *count += 1;
        *answers += at.answers;
    }
    let mut text = String::new();
    for (interface, (count, answers)) in announced {
        let noun = if count == 1 { "VIP" } else { "VIPs" };
        text += &format!("announces {count} {noun} on {interface}: {answers} answers\n");
    }
    for vip in vips {
        for why in vip.unanswered.iter().chain(&vip.announcement_troubles) {
            text += &format!("VIP {}: {why}\n", vip.address);
        }
    }
    text
}

fn interfaces(daemon: &DaemonStatus) -> String {
    let mut text = String::new();
    if let Some(why) = &daemon.pins_trouble {
        text += &format!("pins are missing, and forwarding ends with the daemon: {why}\n");
    }
    for InactiveInterface { name, exists, why } in &daemon.interfaces_without {
        text += &match why {
            Some(why) => format!("interface {name}: does not forward: {why}\n"),
            None if *exists => format!("interface {name}: does not forward; the log says why\n"),
            None => format!("interface {name}: missing; attached when it appears\n"),
        };
    }
    for InterfaceLosses { interface, redirect, transmit, exception } in daemon.losses.iter().flatten() {
        text += &format!(
            "interface {interface}: {} packets lost by the kernel after SLB had forwarded them (redirect {redirect}, transmit \
             {transmit}, exception {exception})\n",
            redirect + transmit + exception
        );
    }
    if daemon.losses.is_none() {
        text +=
            "packets that the kernel loses after SLB has forwarded them are not counted; the log says why\n";
    }
    text
}

fn configuration(configuration: &ConfigurationStatus) -> String {
    let ConfigurationStatus { file, difference, confirm_within_seconds, pending } = configuration;
    let mut text = match difference.as_deref() {
        None => String::new(),
        Some("differs") => {
            format!(
                "active configuration differs from {file}, which the next start uses (`slb diff` shows how)\n"
            )
        }
        Some(why) => format!("{file}, which the next start uses, {why}\n"),
    };
    if let Some(seconds) = confirm_within_seconds {
        text += &format!("active configuration rolls back in {seconds} s unless `slb confirm` follows\n");
    }
    if let Some(ApiPendingChange { change, waits_for, at_most_seconds }) = pending {
        let servers = waits_for.join(", ");
        text += &format!("{change} waits for {servers}, for {at_most_seconds} s at most\n");
    }
    text
}

/// The age of everything except counters, if the event loop has not run for long.
fn stale(age_seconds: u64) -> String {
    match age_seconds {
        0..STALE => String::new(),
        age => format!(
            "STALE: the event loop has not run for {age} s; health, next hops and overrides are as of that time\n"
        ),
    }
}

fn troubles(daemon: &DaemonStatus) -> String {
    let lost = "log lines dropped: cannot write to standard error, or its reader is too slow";
    let restarted = "times a task has panicked and was started again: the log says which";
    let counts = [(daemon.lost_log_lines, lost), (daemon.restarted_tasks, restarted)];
    let counts = counts.into_iter().filter(|(count, _)| *count > 0);
    counts.map(|(count, what)| format!("{count} {what}\n")).collect()
}

pub(super) fn trouble(why: Option<&str>) -> String {
    why.map_or_else(String::new, |why| format!("no override is active, and none can be set: {why}\n"))
}

fn servers(listener: &ApiListener) -> Table {
    let header = [
        "server",
        "health",
        "admin state",
        "drain",
        "next hop",
        "weight",
        "share",
        "total flows",
        "current flows",
        "packets from clients",
        "packets to clients",
        "bytes from clients",
        "bytes to clients",
    ];
    let mut table = table(header, 5);
    for server in &listener.servers {
        let next_hop = server.next_hop.as_ref().map_or("unresolved", |hop| &hop.mac);
        table.add_row([
            server_address(server),
            health(server),
            admin_state(server),
            drain(server),
            next_hop.to_owned(),
            server.weight.to_string(),
            format!("{:.1} %", share(server, listener)),
            server.counters.total_flows.to_string(),
            in_number(server.current_flows),
            server.counters.packets_from_clients.to_string(),
            server.counters.packets_to_clients.to_string(),
            server.counters.bytes_from_clients.to_string(),
            server.counters.bytes_to_clients.to_string(),
        ]);
    }
    table
}

/// Connections that a draining server has, and its deadline.
pub(super) fn drain(server: &ApiServer) -> String {
    let Some(DrainStatus { seconds_left, is_removed }) = server.draining else { return String::new() };
    let left = match server.current_flows {
        Some(flows) => format!("{flows} connections left"),
        None => "connections untracked".to_owned(),
    };
    let deadline = match seconds_left {
        Some(0) => "reset at the deadline".to_owned(),
        Some(seconds) => format!("reset in {seconds} s"),
        None => "no deadline (drain_timeout)".to_owned(),
    };
    let removed = if is_removed { "removed: " } else { "" };
    format!("{removed}{left}, {deadline}")
}

/// The admin state, which health checks do not change.
fn admin_state(server: &ApiServer) -> String {
    server.set.as_ref().map_or_else(|| "enabled".to_owned(), set_in_words)
}

/// An override in words: what, by whom and when.
pub(super) fn set_in_words(set: &ApiOverride) -> String {
    let Requester { uid, user, .. } = &set.by;
    let who = user.clone().or_else(|| uid.map(|uid| format!("user {uid}"))).unwrap_or_else(|| "?".to_owned());
    let pid = set.by.pid.map_or_else(String::new, |pid| format!(", pid {pid}"));
    let state = set.state.map(|state| admin_state_of(state).to_string());
    let weight = set.weight.map(|weight| format!("weight {weight}"));
    let what: Vec<_> = state.into_iter().chain(weight).collect();
    format!("{} set by {who}{pid} at {}", what.join(", "), set.at)
}

fn health(server: &ApiServer) -> String {
    let health = match server.health {
        ApiHealth::Unknown => "unknown",
        ApiHealth::Healthy => "healthy",
        ApiHealth::Unhealthy => "unhealthy",
        ApiHealth::Unchecked => "unchecked",
        ApiHealth::Standby => "standby",
    };
    server.detail.as_ref().map_or_else(|| health.to_owned(), |detail| format!("{health}: {detail}"))
}

/// A server's percentage of new flows. In the modes `nat` and `full-nat` it is that of flows in its address family, because no server of
/// the other family can receive them.
fn share(server: &ApiServer, listener: &ApiListener) -> f64 {
    let is_nat = matches!(listener.mode.as_str(), "nat" | "full-nat");
    let others = listener.servers.iter();
    let rivals = others.filter(|other| !is_nat || other.address.is_ipv4() == server.address.is_ipv4());
    let all: u32 = rivals.map(|other| other.slots).sum();
    100.0 * f64::from(server.slots) / f64::from(all.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use slb_api::types::ApiCounters;

    fn server(address: &str, slots: u32) -> ApiServer {
        ApiServer {
            quic_server_id: None,
            address: address.parse().unwrap(),
            weight: 10,
            health: ApiHealth::Healthy,
            set: None,
            detail: None,
            next_hop: None,
            slots,
            counters: ApiCounters::default(),
            current_flows: Some(0),
            draining: None,
            source_ports: None,
        }
    }

    #[test]
    fn stale_status_is_reported_with_its_age() {
        assert_eq!(stale(STALE - 1), "");
        assert!(stale(42).contains("has not run for 42 s"));
    }

    #[test]
    fn weight_shares_are_per_address_family_in_mode_nat_only() {
        for (mode, expected) in [
            ("nat", [100.0, 50.0, 50.0]),
            ("full-nat", [100.0, 50.0, 50.0]),
            ("dsr", [50.0, 25.0, 25.0]),
            ("ipip", [50.0, 25.0, 25.0]),
        ] {
            let listener = ApiListener {
                id: None,
                name: "web".to_owned(),
                state: ApiRunState::Running,
                protocol: "tcp".to_owned(),
                port: 80,
                port_range: None,
                mode: mode.to_owned(),
                addresses: Vec::new(),
                server_group: None,
                server_group_id: None,
                toa: false,
                quic: None,
                access_list: None,
                limits: None,
                counters: ApiCounters::default(),
                current_flows: Some(0),
                digest: None,
                outages: Vec::new(),
                servers: vec![
                    server("192.0.2.1:80", 20),
                    server("[2001:db8::1]:80", 10),
                    server("[2001:db8::2]:80", 10),
                ],
            };
            let shares: Vec<_> = listener.servers.iter().map(|server| share(server, &listener)).collect();
            assert_eq!(shares, expected, "{mode}");
        }
    }
}
