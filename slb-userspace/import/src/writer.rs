//! Writes `slb.toml`.

use std::{fmt::Write as _, net::IpAddr};

use crate::{
    fit::{Fitted, FittedGroup, FittedListener},
    ledger::{ACCESS, Note, NoteKind, PROXY},
    limits::text,
    model::{Check, CheckKind, HttpCheck, Mode, Ports, Protocol, Scheduler, Status},
};

/// Writes a configuration. `command` is what made it.
pub(crate) fn write(command: &str, fitted: &Fitted, notes: &[Note]) -> String {
    let mut out = String::new();
    head(&mut out, command, fitted, notes);
    daemon(&mut out, fitted);
    for balancer in &fitted.balancers {
        out.push_str("\n[[load_balancer]]\n");
        let _ = writeln!(out, "name = {}", quoted(&balancer.name));
        let addresses: Vec<String> = balancer.vips.iter().map(|(vip, _)| quoted(&vip.to_string())).collect();
        let reason = balancer.vips.iter().find_map(|(_, reason)| *reason);
        let fill = reason.map_or(String::new(), |reason| format!(" # FILL IN the VIP: {reason}"));
        let _ = writeln!(out, "addresses = [{}]{fill}", addresses.join(", "));
        for entry in &balancer.listeners {
            listener(&mut out, entry);
        }
    }
    for entry in &fitted.groups {
        group(&mut out, entry);
    }
    remarks(&mut out, notes);
    out
}

/// A string as TOML has it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Text that may stand in a comment of one line.
fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn head(out: &mut String, command: &str, fitted: &Fitted, notes: &[Note]) {
    let _ = writeln!(out, "# Made by `{}`.", comment(command));
    out.push_str("#\n# Fill in before use:\n");
    let uses = |mode: Mode| {
        fitted
            .balancers
            .iter()
            .flat_map(|balancer| &balancer.listeners)
            .any(|entry| entry.service.mode == mode)
    };
    let mut items = Vec::new();
    if fitted.has_interfaces {
        items.push(
            "`interfaces`: those of the source may be towards clients only: add those towards servers.",
        );
    } else {
        items.push("`interfaces`: those towards clients and towards servers. The source does not name them.");
    }
    if fitted.balancers.iter().flat_map(|balancer| &balancer.vips).any(|(_, reason)| reason.is_some()) {
        items.push("`addresses` of load balancers that are marked: the VIPs.");
    }
    if fitted.lacks_addresses {
        items.push("server addresses: servers with a host name, or an address that SLB cannot use, are comments in their groups.");
    }
    if uses(Mode::FullNat) && !fitted.has_local_addresses {
        items.push("`local_addresses`: where connections to servers begin. Servers' answers must reach this host there.");
    }
    if uses(Mode::Ipip) || uses(Mode::Gue) {
        items.push("`tunnel_addresses`: addresses of this host from which servers accept tunnels.");
    }
    if uses(Mode::Nat) {
        items.push("mode `nat`: servers must route their answers to clients through this host.");
    }
    if notes.iter().any(|note| note.reason == ACCESS) {
        items
            .push("`[[access_list]]`: the source has rules about who may connect, and here all clients may.");
    }
    if notes.iter().any(|note| note.reason.contains(PROXY)) {
        items.push("PROXY protocol: SLB passes the header on, servers must expect it. The client that SLB sees is the proxy before this host, also in access lists and session persistence.");
    }
    items.push("`announce = \"arp\"` of load balancers whose VIPs lie in a subnet of this host and are not routed to it.");
    for item in items {
        let _ = writeln!(out, "# - {item}");
    }
    let left_out = notes.iter().filter(|note| note.kind == NoteKind::LeftOut).count();
    let changed = notes.len() - left_out;
    let _ = writeln!(
        out,
        "#\n# The end of this file lists what is left out of the source ({left_out}) and what means something else ({changed}).\n\
         # Then: slbd check --config slb.toml\n"
    );
}

fn list(addresses: &[IpAddr]) -> String {
    let quoted: Vec<String> = addresses.iter().map(|address| quoted(&address.to_string())).collect();
    quoted.join(", ")
}

fn daemon(out: &mut String, fitted: &Fitted) {
    let interfaces: Vec<String> = fitted.interfaces.iter().map(|name| quoted(name)).collect();
    let fill = if fitted.has_interfaces {
        " # FILL IN those towards servers, if they are others"
    } else {
        " # FILL IN"
    };
    let _ = writeln!(out, "[daemon]\ninterfaces = [{}]{fill}", interfaces.join(", "));
    if !fitted.tunnel_addresses.is_empty() {
        let _ = writeln!(out, "tunnel_addresses = [{}] # FILL IN", list(&fitted.tunnel_addresses));
    }
    if !fitted.local_addresses.is_empty() {
        let fill = if fitted.has_local_addresses { "" } else { " # FILL IN" };
        let _ = writeln!(out, "local_addresses = [{}]{fill}", list(&fitted.local_addresses));
    }
    if let Some(port) = fitted.gue_port {
        let _ = writeln!(out, "gue_port = {port}");
    }
}

fn ports(ports: Ports) -> String {
    match (ports.single(), ports) {
        (Some(port), _) => port.to_string(),
        (None, Ports::ANY) => "\"any\"".to_owned(),
        (None, Ports { first, last }) => format!("\"{first}-{last}\""),
    }
}

fn listener(out: &mut String, entry: &FittedListener) {
    let service = &entry.service;
    out.push_str("\n[[load_balancer.listener]]\n");
    let _ = writeln!(out, "name = {}", quoted(&entry.name));
    let protocol = match service.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let _ = writeln!(out, "protocol = \"{protocol}\"\nport = {}", ports(service.ports));
    if service.is_stopped {
        out.push_str("state = \"stopped\"\n");
    }
    match &entry.backup {
        None => {
            let _ = writeln!(out, "server_group = {}", quoted(&entry.primary));
        }
        Some((backup, threshold)) => {
            let (primary, backup) = (quoted(&entry.primary), quoted(backup));
            let _ =
                writeln!(out, "primary = {primary}\nsecondary = {backup}\nfailover_threshold = {threshold}");
        }
    }
    if service.mode != Mode::Nat {
        let _ = writeln!(out, "mode = \"{}\"", service.mode.name());
    }
    if service.scheduler != Scheduler::Maglev {
        let _ = writeln!(out, "scheduler = \"{}\"", service.scheduler.name());
    }
    if let Some(time) = service.persistence {
        let _ = writeln!(out, "session_persistence = \"{}\"", text(time));
    }
    if let (Some(time), Protocol::Tcp) = (service.established_timeout, service.protocol) {
        let _ = writeln!(out, "established_timeout = \"{}\"", text(time));
    }
    let is_default = match service.protocol {
        Protocol::Tcp => service.check == Check::new(CheckKind::Tcp),
        Protocol::Udp => service.check.kind == CheckKind::None,
    };
    if !is_default {
        let _ = writeln!(out, "health_check = {{ {} }}", check(&service.check));
    }
}

fn check(check: &Check) -> String {
    let mut fields = Vec::new();
    let mut field = |name: &str, value: String| fields.push(format!("{name} = {value}"));
    match &check.kind {
        CheckKind::None => return "kind = \"none\"".to_owned(),
        CheckKind::Tcp => field("kind", quoted("tcp")),
        CheckKind::Icmp => field("kind", quoted("icmp")),
        CheckKind::Tls { host, verify } => {
            field("kind", quoted("tls"));
            if let Some(host) = host {
                field("host", quoted(host));
            }
            if *verify {
                field("verify", "true".to_owned());
            }
        }
        CheckKind::Http(http) => http_fields(http, &mut field),
        CheckKind::Udp { request, expect } => {
            field("kind", quoted("udp"));
            if let Some(request) = request {
                field("request", quoted(request));
            }
            if let Some(expect) = expect {
                field("expect", quoted(expect));
            }
        }
    }
    if let Some(port) = check.port {
        field("port", port.to_string());
    }
    if let Some(interval) = check.interval {
        field("interval", quoted(&text(interval)));
    }
    if let Some(timeout) = check.timeout {
        field("timeout", quoted(&text(timeout)));
    }
    if let Some(count) = check.healthy {
        field("healthy_threshold", count.to_string());
    }
    if let Some(count) = check.unhealthy {
        field("unhealthy_threshold", count.to_string());
    }
    if let Some((failures, within)) = check.passive {
        field("passive", format!("{{ failures = {failures}, within = {} }}", quoted(&text(within))));
    }
    fields.join(", ")
}

fn http_fields(http: &HttpCheck, field: &mut impl FnMut(&str, String)) {
    field("kind", quoted(if http.tls { "https" } else { "http" }));
    if http.is_get {
        field("method", quoted("GET"));
    }
    field("path", quoted(&http.path));
    if let Some(host) = &http.host {
        field("host", quoted(host));
    }
    if http.tls && http.verify {
        field("verify", "true".to_owned());
    }
    let statuses = http.expect.iter().map(|status| match status {
        Status::Code(code) => code.to_string(),
        Status::Class(class) => quoted(&format!("{class}xx")),
    });
    let statuses: Vec<String> = statuses.collect();
    if !statuses.is_empty() {
        field("expect", format!("[{}]", statuses.join(", ")));
    }
}

fn group(out: &mut String, group: &FittedGroup) {
    let _ = writeln!(out, "\n[[server_group]]\nname = {}", quoted(&group.name));
    if let Some(time) = group.slow_start {
        let _ = writeln!(out, "slow_start = \"{}\"", text(time));
    }
    if group.servers.is_empty() {
        out.push_str("servers = []\n");
        return;
    }
    out.push_str("servers = [\n");
    for server in &group.servers {
        let port = server.port.map_or(String::new(), |port| format!(", port = {port}"));
        let weight =
            if server.weight == 100 { String::new() } else { format!(", weight = {}", server.weight) };
        let _ = match server.address {
            Some(address) => writeln!(out, "  {{ address = \"{address}\"{port}{weight} }},"),
            None => {
                let host = comment(&server.host);
                writeln!(out, "  # {{ address = \"{host}\"{port}{weight} }}, # FILL IN the address")
            }
        };
    }
    out.push_str("]\n");
}

fn remarks(out: &mut String, notes: &[Note]) {
    for (kind, title) in [
        (NoteKind::LeftOut, "Left out of the source:"),
        (NoteKind::Changed, "In the source, with another meaning here:"),
    ] {
        let mut notes = notes.iter().filter(|note| note.kind == kind).peekable();
        if notes.peek().is_none() {
            continue;
        }
        let _ = writeln!(out, "\n# {title}");
        for note in notes {
            let lines = if note.first_line == note.last_line {
                note.first_line.to_string()
            } else {
                format!("{}-{}", note.first_line, note.last_line)
            };
            let excerpt =
                if note.excerpt.is_empty() { String::new() } else { format!(" `{}`:", note.excerpt) };
            let line = format!("{}:{lines}:{excerpt} {}", note.file, note.reason);
            let _ = writeln!(out, "# {}", comment(&line));
        }
    }
}
