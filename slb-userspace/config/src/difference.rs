//! Differences between two configurations, in words. Pure.
//!
//! Every field of the model is destructured here, so a new field without comparison does not compile.

use std::{
    collections::BTreeMap,
    fmt::{Debug, Display},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

pub use self::check::in_full;
use self::{
    check::{in_words, kind, passive, port},
    pairs::Pairs,
};
use super::model::{
    Config, DaemonConfig, HealthCheck, Id, Listener, ListenerTarget, LoadBalancer, Name,
    PrimarySecondaryGroup, Scheduler, ServerGroup, TableSize, Unmatched, Weight,
};

mod check;
mod pairs;

/// Describes each field that differs by its old and new value. Fields after the semicolon are compared elsewhere.
macro_rules! fields {
    ($old:expr, $new:expr, $type:ident { $($field:ident: $word:expr),* $(; $($other:ident),*)? }) => {{
        let $type { $($field: _,)* $($($other: _,)*)? } = $old;
        let mut changed: Vec<String> = Vec::new();
        $(if $old.$field != $new.$field {
            let (before, after) = ($word(&$old.$field), $word(&$new.$field));
            changed.push(format!("{} {before} -> {after}", stringify!($field).replace('_', " ")));
        })*
        changed
    }};
}

/// Describes what changes when `new` replaces `old`, one line per change. Empty if they are equal.
pub fn difference(old: &Config, new: &Config) -> Vec<String> {
    let Config { daemon: _, load_balancers: _, server_groups: _, primary_secondary_groups: _ } = new;
    let mut words = daemon(&old.daemon, &new.daemon);
    let balancers = Pairs::of(&old.load_balancers, &new.load_balancers, |balancer| &balancer.id);
    let hint = |id| keep_hint(!balancers.added.is_empty(), id);
    words.extend(
        balancers
            .removed
            .iter()
            .map(|gone| format!("load balancer {}: removed{}", label(&gone.id, &gone.name), hint(&gone.id))),
    );
    for (before, after) in balancers.both {
        balancer(before, after, &mut words);
    }
    for added in balancers.added {
        let same = |gone: &&&LoadBalancer| added.addresses.iter().any(|vip| gone.addresses.contains(vip));
        words.push(format!(
            "load balancer {}: added ({}; {}){}",
            label(&added.id, &added.name),
            listed(&added.addresses),
            counted(added.listeners.len(), "listener"),
            in_place(balancers.removed.iter().find(same).map(|gone| &gone.name))
        ));
    }
    groups(Pairs::of(&old.server_groups, &new.server_groups, |group| &group.id), &mut words);
    let (before, after) = (&old.primary_secondary_groups, &new.primary_secondary_groups);
    primary_secondary(Pairs::of(before, after, |group| &group.id), &mut words);
    if words.is_empty() && old != new {
        words.push("the order of entries, and nothing else".to_owned());
    }
    words
}

fn daemon(old: &DaemonConfig, new: &DaemonConfig) -> Vec<String> {
    let mut words = fields!(old, new, DaemonConfig {
        xdp_mode: word, pin_dir: debug, socket: debug, read_only_socket: path, state_dir: debug, flow_table_entries: display,
        max_servers: display, hash_seed: seed, probe_mark: mark; interfaces, roles, tunnel_addresses, probe_source
    });
    list("interface", &old.interfaces, &new.interfaces, &mut words);
    for name in new.interfaces.iter().filter(|name| old.interfaces.contains(name)) {
        let role = |daemon: &DaemonConfig| daemon.roles.get(name).copied().unwrap_or_default();
        if role(old) != role(new) {
            words.push(format!("interface {name}: role {} -> {}", word(&role(old)), word(&role(new))));
        }
    }
    list("tunnel address", &old.tunnel_addresses, &new.tunnel_addresses, &mut words);
    list("probe source", &old.probe_source, &new.probe_source, &mut words);
    words.into_iter().map(|word| format!("daemon: {word}")).collect()
}

fn balancer(old: &LoadBalancer, new: &LoadBalancer, words: &mut Vec<String>) {
    let mut own = fields!(old, new, LoadBalancer {
        state: word, unmatched: or_default, table_size: slots, slow_start: or_off;
        id, name, addresses, servers, listeners
    });
    list("address", &old.addresses, &new.addresses, &mut own);
    renamed(&old.name, &new.name, &mut own);
    words.extend(own.into_iter().map(|word| format!("load balancer {}: {word}", old.name)));

    let listeners = Pairs::of(&old.listeners, &new.listeners, |listener| &listener.id);
    let name = &old.name;
    let removed = listeners.removed.iter();
    words.extend(removed.map(|gone| format!("listener {name}/{}: removed", label(&gone.id, &gone.name))));
    for (before, after) in listeners.both {
        let mut own = listener(before, after);
        renamed(&before.name, &after.name, &mut own);
        words.extend(own.into_iter().map(|word| format!("listener {name}/{}: {word}", before.name)));
    }
    words.extend(listeners.added.iter().map(|added| {
        let (protocol, port) = (word(&added.protocol), added.port);
        let same = |gone: &&&Listener| (gone.protocol, gone.port) == (added.protocol, added.port);
        format!(
            "listener {}/{}: added ({protocol} port {port} to {}){}",
            new.name,
            label(&added.id, &added.name),
            target(&added.target),
            in_place(listeners.removed.iter().find(same).map(|gone| &gone.name))
        )
    }));
    let weights = |balancer: &LoadBalancer| {
        balancer.servers.iter().map(|server| (server.address, server.weight)).collect()
    };
    servers(&format!("default group of {name}"), &weights(old), &weights(new), words);
}

fn listener(old: &Listener, new: &Listener) -> Vec<String> {
    let mut words = fields!(old, new, Listener {
        protocol: word, port: display, state: word, target: target, mode: word, tracking: word,
        unknown_datagrams: word, drain_timeout: or_off, on_no_healthy: word, scheduler: scheduler,
        session_persistence: or_off;
        id, name, idle_timeout, health_check
    });
    // Under the name of the setting, which applies to TCP only. The idle timeout of UDP is constant.
    if old.protocol == new.protocol && old.idle_timeout != new.idle_timeout {
        words.push(format!("established timeout {:?} -> {:?}", old.idle_timeout, new.idle_timeout));
    }
    match (&old.health_check, &new.health_check) {
        (None, Some(check)) => words.push(format!("health check added ({})", in_words(check))),
        (Some(_), None) => {
            words.push("health check removed: its servers are taken as able to serve".to_owned());
        }
        (Some(before), Some(after)) => {
            let changed = fields!(
                before,
                after,
                HealthCheck {
                    kind: kind,
                    port: port,
                    interval: debug,
                    timeout: debug,
                    healthy_threshold: display,
                    unhealthy_threshold: display,
                    passive: passive
                }
            );
            words.extend(changed.into_iter().map(|word| format!("health check: {word}")));
        }
        (None, None) => {}
    }
    words
}

fn groups(groups: Pairs<'_, ServerGroup>, words: &mut Vec<String>) {
    let weights = |group: &ServerGroup| {
        let servers = group.servers.iter();
        servers.map(|server| (SocketAddr::new(server.address, server.port), server.weight)).collect()
    };
    let hint = |id| keep_hint(!groups.added.is_empty(), id);
    words.extend(
        groups
            .removed
            .iter()
            .map(|gone| format!("server group {}: removed{}", label(&gone.id, &gone.name), hint(&gone.id))),
    );
    for (before, after) in groups.both {
        let what = format!("server group {}", before.name);
        let mut own =
            fields!(before, after, ServerGroup { table_size: slots, slow_start: or_off; id, name, servers });
        renamed(&before.name, &after.name, &mut own);
        words.extend(own.into_iter().map(|word| format!("{what}: {word}")));
        servers(&what, &weights(before), &weights(after), words);
    }
    words.extend(groups.added.iter().map(|added| {
        let servers = counted(added.servers.len(), "server");
        format!("server group {}: added ({servers})", label(&added.id, &added.name))
    }));
}

fn primary_secondary(groups: Pairs<'_, PrimarySecondaryGroup>, words: &mut Vec<String>) {
    let what = |pair: &PrimarySecondaryGroup| {
        format!("primary/secondary server group {}", label(&pair.id, &pair.name))
    };
    let hint = |id| keep_hint(!groups.added.is_empty(), id);
    words.extend(groups.removed.iter().map(|gone| format!("{}: removed{}", what(gone), hint(&gone.id))));
    for (before, after) in groups.both {
        let mut own = fields!(before, after, PrimarySecondaryGroup {
            primary: display, secondary: display, failback_after: debug; id, name
        });
        renamed(&before.name, &after.name, &mut own);
        let name = &before.name;
        words.extend(own.into_iter().map(|word| format!("primary/secondary server group {name}: {word}")));
    }
    words.extend(groups.added.iter().map(|added| {
        format!("{}: added ({}, and {} in its place)", what(added), added.primary, added.secondary)
    }));
}

fn servers<K: Ord + Display>(
    what: &str,
    old: &BTreeMap<K, Weight>,
    new: &BTreeMap<K, Weight>,
    words: &mut Vec<String>,
) {
    for (server, before) in old {
        match new.get(server) {
            None => words.push(format!("{what}: server {server} removed")),
            Some(after) if after != before => {
                let (before, after) = (before.value(), after.value());
                words.push(format!("{what}: server {server} weight {before} -> {after}"));
            }
            Some(_) => {}
        }
    }
    for (server, weight) in new.iter().filter(|(server, _)| !old.contains_key(server)) {
        words.push(format!("{what}: server {server} added (weight {})", weight.value()));
    }
}

/// Added and removed items of a list, regardless of order.
fn list<T: PartialEq + Display>(what: &str, old: &[T], new: &[T], words: &mut Vec<String>) {
    words.extend(old.iter().filter(|item| !new.contains(item)).map(|item| format!("{what} {item} removed")));
    words.extend(new.iter().filter(|item| !old.contains(item)).map(|item| format!("{what} {item} added")));
}

/// The name, and the id where that is another one.
fn label(id: &Id, name: &Name) -> String {
    if id.as_str() == name.as_str() { name.to_string() } else { format!("{name} (id {id})") }
}

/// How a rename keeps overrides. It is no guess about what was renamed: it depends on additions alone.
fn keep_hint(has_added: bool, id: &Id) -> String {
    if !has_added {
        return String::new();
    }
    format!(" (its overrides end; if it was renamed, `id = \"{id}\"` beside the new name keeps them)")
}

/// What an object at the same VIP and port means for connections.
fn in_place(of: Option<&Name>) -> String {
    of.map_or_else(String::new, |name| {
        format!(" in place of {name}: connections stay where VIP, port and server stay")
    })
}

fn renamed(old: &Name, new: &Name, words: &mut Vec<String>) {
    if old != new {
        words.push(format!("renamed to {new}"));
    }
}

fn target(target: &ListenerTarget) -> String {
    match target {
        ListenerTarget::DefaultGroup { default_group_port } => {
            format!("the default group, port {default_group_port}")
        }
        ListenerTarget::ServerGroup(name) => format!("server group {name}"),
        ListenerTarget::PrimarySecondaryGroup(name) => format!("primary/secondary server group {name}"),
        ListenerTarget::PrimarySecondary { primary, secondary, failover_threshold, failback_after } => {
            format!(
                "server group {primary}, and {secondary} when {failover_threshold} are unhealthy (back after \
             {failback_after:?})"
            )
        }
    }
}

fn seed(seed: &Option<u64>) -> String {
    seed.map_or("of slbd's own".to_owned(), |seed| seed.to_string())
}

fn scheduler(scheduler: &Scheduler) -> &'static str {
    match scheduler {
        Scheduler::Maglev => "maglev",
        Scheduler::MaglevClient => "maglev-client",
        Scheduler::RoundRobin => "rr",
        Scheduler::WeightedRoundRobin => "wrr",
        Scheduler::WeightedLeastConnections => "wlc",
    }
}

fn mark(mark: &Option<u32>) -> String {
    mark.map_or_else(|| "none".to_owned(), |mark| format!("{mark:#x}"))
}

fn path(path: &Option<PathBuf>) -> String {
    path.as_ref().map_or_else(|| "off".to_owned(), |path| format!("{path:?}"))
}

fn or_off(time: &Option<Duration>) -> String {
    time.map_or_else(|| "off".to_owned(), |time| format!("{time:?}"))
}

fn or_default(unmatched: &Option<Unmatched>) -> String {
    unmatched.as_ref().map_or_else(|| "default".to_owned(), word)
}

fn slots(size: &TableSize) -> u32 {
    size.slots()
}

/// A variant's name, as in the file.
fn word(value: &impl Debug) -> String {
    format!("{value:?}").to_lowercase()
}

fn debug(value: &impl Debug) -> String {
    format!("{value:?}")
}

fn display(value: &impl Display) -> String {
    value.to_string()
}

fn listed(items: &[impl Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests;
