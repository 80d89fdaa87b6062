//! `keepalived.conf`: its virtual servers.

use std::net::{IpAddr, Ipv6Addr};

use crate::{
    ImportError,
    ledger::Ledger,
    model::{Model, Ports, Vip},
    source::{Lines, Sources},
    tree::{Statement, leave_out_blocks},
};

mod check;
mod dns;
mod lexer;
mod real_server;
mod reason;
mod settings;
mod virtual_server;

const FWMARK: &str = "SLB has no services by firewall mark: write a listener for each address and port";

/// Where a virtual server is reached.
type Endpoint = (Vip, Ports, Lines);

/// Reads a file and those that it includes.
pub(crate) fn read(
    sources: &mut Sources<'_>,
    ledger: &mut Ledger,
    model: &mut Model,
) -> Result<(), ImportError> {
    let statements = lexer::read(sources, ledger)?;
    let mut groups = Vec::new();
    for statement in &statements {
        match statement.keyword() {
            "virtual_server_group" => groups.push(statement),
            "vrrp_instance" => vrrp_instance(ledger, model, statement),
            "virtual_server" => {}
            "local_address_group" => local_addresses(ledger, model, statement),
            "vrrp_script" | "vrrp_track_process" | "vrrp_track_file" | "track_file" | "track_process" => {
                statement.leave_out(ledger, "SLB runs no scripts and tracks no processes");
            }
            "vrrp_sync_group" | "garp_group" | "static_ipaddress" | "static_routes" | "static_rules" => {
                statement.leave_out(ledger, "SLB elects no node and configures no addresses and routes");
            }
            "global_defs" => {
                statement.leave_out(ledger, "settings of keepalived itself: mails, router id, VRRP, limits");
            }
            "static_track_group" | "bfd_instance" => statement.leave_out(ledger, "SLB has no BFD"),
            _ => statement.leave_out(ledger, "unknown directive"),
        }
    }
    for statement in &statements {
        if matches!(statement.keyword(), "virtual_server" | "virtual_server_group" | "local_address_group") {
            let is_block = |keyword: &str| {
                matches!(keyword, "real_server" | "backup_real_server" | "url") || check::is_check(keyword)
            };
            leave_out_blocks(ledger, statement.statements(), is_block);
        }
    }
    let mut used_groups = Vec::new();
    for statement in statements.iter().filter(|statement| statement.keyword() == "virtual_server") {
        let endpoints = match statement.argument(1) {
            "fwmark" => {
                statement.leave_out(ledger, FWMARK);
                continue;
            }
            "group" => {
                let name = statement.argument(2);
                let Some(group) = groups.iter().find(|group| group.argument(1) == name) else {
                    let found = format!("`virtual_server group {name}`");
                    let expected = format!("a `virtual_server_group {name}` in the file");
                    return Err(sources.error(statement.head, found, expected));
                };
                let is_first = !used_groups.contains(&name);
                used_groups.push(name);
                group_endpoints(sources, is_first.then_some(&mut *ledger), group)?
            }
            _ => vec![endpoint(sources, statement.head, &statement.words[1..])?],
        };
        virtual_server::read(ledger, model, statement, &endpoints);
    }
    for group in groups.iter().filter(|group| !used_groups.contains(&group.argument(1))) {
        group.leave_out(ledger, "no virtual server uses it");
    }
    Ok(())
}

/// Takes the interfaces of a VRRP instance and of its addresses, which are those towards clients.
fn vrrp_instance(ledger: &mut Ledger, model: &mut Model, statement: &Statement) {
    let mut names = Vec::new();
    for line in statement.statements() {
        match line.keyword() {
            "interface" => names.push(line.argument(1)),
            "virtual_ipaddress" | "virtual_ipaddress_excluded" => {
                names.extend(line.statements().iter().filter_map(device));
            }
            _ => {}
        }
    }
    for name in names {
        let fits = (1..16).contains(&name.len())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if fits && !model.interfaces.iter().any(|other| other == name) {
            model.interfaces.push(name.to_owned());
        }
    }
    let reason = "SLB elects no node (VRRP) and adds no addresses; it announces VIPs with `announce`. keepalived may go on \
                  to do it";
    statement.leave_out(ledger, reason);
}

/// The interface of `ADDRESS dev NAME`.
fn device(line: &Statement) -> Option<&str> {
    let dev = line.words.iter().position(|word| word == "dev")?;
    line.words.get(dev + 1).map(String::as_str)
}

/// Addresses from which a fork of keepalived connects to servers (DPVS, `FNAT`).
fn local_addresses(ledger: &mut Ledger, model: &mut Model, statement: &Statement) {
    statement.use_frame(ledger);
    for line in statement.statements() {
        match addresses(line.keyword()) {
            Some(addresses) => {
                model.local_addresses.extend(addresses);
                ledger.changed(
                    line.head,
                    "`local_addresses` have no interface, and at most 32 of a family are kept",
                );
            }
            None => line.leave_out(ledger, "it is no IP address and no range"),
        }
    }
}

/// Address and port after `virtual_server`.
fn endpoint(sources: &Sources<'_>, at: Lines, words: &[String]) -> Result<Endpoint, ImportError> {
    let word = |number: usize| words.get(number).map_or("", String::as_str);
    let Ok(address) = word(0).parse::<IpAddr>() else {
        let found = format!("`{}` is no IP address", word(0));
        return Err(sources.error(
            at,
            found,
            "`virtual_server ADDRESS PORT`, or `group NAME`, or `fwmark NUMBER`",
        ));
    };
    Ok((Vip::Address(address), ports(sources, at, word(1))?, at))
}

fn ports(sources: &Sources<'_>, at: Lines, text: &str) -> Result<Ports, ImportError> {
    let error = || sources.error(at, format!("`{text}` is no port"), "a port from 0 to 65535");
    if text.is_empty() { Ok(Ports::ANY) } else { text.parse().map(Ports::of).map_err(|_| error()) }
}

/// The addresses and ports of a group. Without a ledger they are noted already.
fn group_endpoints(
    sources: &Sources<'_>,
    mut ledger: Option<&mut Ledger>,
    group: &Statement,
) -> Result<Vec<Endpoint>, ImportError> {
    if let Some(ledger) = &mut ledger {
        group.use_frame(ledger);
    }
    let mut endpoints = Vec::new();
    for line in group.statements() {
        if line.keyword() == "fwmark" {
            if let Some(ledger) = &mut ledger {
                line.leave_out(ledger, FWMARK);
            }
            continue;
        }
        let Some(addresses) = addresses(line.keyword()) else {
            let found = format!("`{}` is no IP address and no range", line.keyword());
            return Err(sources.error(line.head, found, "`ADDRESS PORT` or `ADDRESS-LAST PORT`"));
        };
        let ports = ports(sources, line.head, line.argument(1))?;
        if let Some(ledger) = &mut ledger {
            ledger.used(line.head);
        }
        endpoints.extend(addresses.into_iter().map(|address| (Vip::Address(address), ports, line.head)));
    }
    Ok(endpoints)
}

/// An address, or those from an address to the last number of its last part, as in `192.0.2.1-9`.
fn addresses(text: &str) -> Option<Vec<IpAddr>> {
    if let Ok(address) = text.parse() {
        return Some(vec![address]);
    }
    let (first, last) = text.split_once('-')?;
    match first.parse().ok()? {
        IpAddr::V4(first) => {
            let last: u8 = last.parse().ok()?;
            let [a, b, c, begin] = first.octets();
            (begin <= last).then(|| (begin..=last).map(|d| IpAddr::from([a, b, c, d])).collect())
        }
        IpAddr::V6(first) => {
            let last = u16::from_str_radix(last, 16).ok()?;
            let mut parts = first.segments();
            let begin = parts[7];
            // As many as an IPv4 range has.
            if begin > last || last - begin > 255 {
                return None;
            }
            let all = (begin..=last).map(|part| {
                parts[7] = part;
                IpAddr::V6(Ipv6Addr::from(parts))
            });
            Some(all.collect())
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
