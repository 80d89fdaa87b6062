//! Checks a configuration against the size of the maps. Pure.
//!
//! `slbd check`, `slbd run`, `reload`, `apply` and `diff` all use this check, so none accepts what another one refuses.
//! During a change old and new entries exist side by side. Only the running daemon knows both, and
//! [`super::ids`] checks them.

use std::{collections::BTreeMap, fmt};

use slb_common::abi::{MAX_BACKENDS, MAX_SERVICES};

use super::{
    desired::{ObservedInputs, desired},
    model::Desired,
};
use crate::dataplane::state::SPARE_TABLE;
use slb_config::Config;

/// A limit of the maps that a configuration exceeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExceededLimit {
    what: &'static str,
    needed: usize,
    limit: u32,
    /// The load balancer that needs most entries, and how many.
    largest: Option<(String, usize)>,
    advice: String,
}

impl fmt::Display for ExceededLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, needed, limit, largest, advice } = self;
        write!(f, "the configuration needs {needed} {what}, and the maps hold {limit}")?;
        if let Some((name, count)) = largest {
            write!(f, " (load balancer `{name}` needs {count} of them)")?;
        }
        write!(f, ": {advice}")
    }
}

/// A configuration that exceeds limits of the maps. Its text has a line for each limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.0))]
pub struct LimitsExceeded(Vec<ExceededLimit>);

impl LimitsExceeded {
    /// The limits that the configuration exceeds, at least one.
    pub fn exceeded_limits(&self) -> &[ExceededLimit] {
        &self.0
    }
}

fn lines(exceeded_limits: &[ExceededLimit]) -> String {
    exceeded_limits.iter().map(ExceededLimit::to_string).collect::<Vec<_>>().join("\nerror: ")
}

/// Checks that empty maps have enough entries for a configuration.
///
/// # Errors
/// They have not: all exceeded limits.
pub fn check(config: &Config) -> Result<(), LimitsExceeded> {
    let needed = desired(config, ObservedInputs::default());
    let exceeded_limits: Vec<_> =
        [services(&needed), tables(&needed), servers(&needed, config.daemon.max_servers)]
            .into_iter()
            .flatten()
            .collect();
    if exceeded_limits.is_empty() { Ok(()) } else { Err(LimitsExceeded(exceeded_limits)) }
}

fn services(needed: &Desired) -> Option<ExceededLimit> {
    let advice = "a listener takes one for each VIP, and a VIP one for echo requests: use fewer listeners or VIPs, or \
                   divide the load balancers among several machines";
    let count = needed.services.len();
    let all = needed.services.iter().map(|service| (&service.load_balancer, 1));
    exceeds(count, MAX_SERVICES).then(|| ExceededLimit {
        what: "services",
        needed: count,
        limit: MAX_SERVICES,
        largest: largest(all),
        advice: advice.to_owned(),
    })
}

fn tables(needed: &Desired) -> Option<ExceededLimit> {
    let advice = "listeners share one if they have the same server group, mode, scheduler, health check and drain_timeout: \
                   let more of them do, or divide the load balancers among several machines";
    let count = needed.pools.len();
    exceeds(count, SPARE_TABLE.index()).then(|| ExceededLimit {
        what: "server tables",
        needed: count,
        limit: SPARE_TABLE.index(),
        largest: largest(pools(needed).into_values().map(|balancer| (balancer, 1))),
        advice: advice.to_owned(),
    })
}

fn servers(needed: &Desired, limit: u32) -> Option<ExceededLimit> {
    let count: usize = needed.pools.iter().map(|pool| pool.servers.len()).sum();
    let each = "a server counts once for each server table it is in";
    let advice = if exceeds(count, MAX_BACKENDS) {
        format!(
            "{each}: let listeners share tables (the same server group, mode, scheduler, health check and drain_timeout), \
             or divide the load balancers among several machines; `[daemon] max_servers` can be {MAX_BACKENDS} at most"
        )
    } else {
        format!(
            "{each}: write `[daemon] max_servers = {}` or more, with room for servers that replace others (a change of it \
             needs `slbd detach`, which interrupts forwarding)",
            (2 * count.next_power_of_two()).min(MAX_BACKENDS as usize)
        )
    };
    let all = pools(needed).into_iter().map(|(pool, name)| (name, needed.pools[pool].servers.len()));
    exceeds(count, limit).then(|| ExceededLimit {
        what: "server entries",
        needed: count,
        limit,
        largest: largest(all),
        advice,
    })
}

fn exceeds(count: usize, limit: u32) -> bool {
    count > limit as usize
}

/// Pools, each with the first load balancer that uses it.
fn pools(needed: &Desired) -> BTreeMap<usize, &String> {
    let used = needed.services.iter().filter_map(|service| Some((service.pool?, &service.load_balancer)));
    let mut first = BTreeMap::new();
    for (pool, balancer) in used {
        first.entry(pool).or_insert(balancer);
    }
    first
}

/// The name with the largest sum; `None` if there are fewer than two names.
fn largest<'a>(counts: impl Iterator<Item = (&'a String, usize)>) -> Option<(String, usize)> {
    let mut sums = BTreeMap::new();
    for (name, count) in counts {
        *sums.entry(name).or_insert(0) += count;
    }
    if sums.len() < 2 {
        return None;
    }
    sums.into_iter().max_by_key(|(_, sum)| *sum).map(|(name, sum)| (name.clone(), sum))
}

#[cfg(test)]
mod tests {
    use super::*;
    use slb_config::samples::parsed;

    fn balancer(name: &str, vip: &str, listeners: impl Iterator<Item = String>) -> String {
        let head = format!("[[load_balancer]]\nname = \"{name}\"\naddresses = [{vip}]\n");
        listeners.fold(head, |text, listener| text + "[[load_balancer.listener]]\n" + &listener)
    }

    fn web(port: u32, more: &str) -> String {
        format!("name = \"l{port}\"\nprotocol = \"tcp\"\nport = {port}\nserver_group = \"web\"\n{more}\n")
    }

    fn group(servers: u32) -> String {
        let server =
            |n: u32| format!("{{ address = \"10.{}.{}.{}\", port = 80 }}", n >> 16, n >> 8 & 255, n & 255);
        let servers: Vec<_> = (1..=servers).map(server).collect();
        format!("[[server_group]]\nname = \"web\"\nservers = [{}]\n", servers.join(", "))
    }

    fn checked(daemon: &str, rest: &str) -> Vec<String> {
        let config = parsed(&format!("[daemon]\ninterfaces = [\"eth0\"]\n{daemon}\n{rest}"));
        let shown = |excess: &ExceededLimit| excess.to_string();
        check(&config)
            .err()
            .map_or_else(Vec::new, |large| large.exceeded_limits().iter().map(shown).collect())
    }

    /// Load balancers with one VIP and at most 50 listeners each.
    fn balancers(listeners: u32, more: impl Fn(u32) -> String) -> String {
        let of = |first: u32| (first..listeners.min(first + 50)).map(|n| web(n + 1, &more(n)));
        let firsts = (0..listeners).step_by(50);
        firsts.map(|n| balancer(&format!("lb{n}"), &format!("\"192.0.2.{}\"", n / 50 + 1), of(n))).collect()
    }

    #[test]
    fn services_beyond_the_maps_are_refused_with_their_number() {
        // One service for each listener, and one for echo requests for each 50 listeners.
        let with = |listeners| balancers(listeners, |_| String::new()) + &group(2);
        assert_eq!(checked("", &with(4015)), [""; 0]);
        let refused = checked("", &with(4016));
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(refused[0].starts_with("the configuration needs 4097 services, and the maps hold 4096 ("));
        assert!(refused[0].contains("use fewer listeners or VIPs"), "{refused:?}");
        // A stopped listener needs no service.
        let stopped = with(4016).replacen("port = 1\n", "port = 1\nstate = \"stopped\"\n", 1);
        assert_eq!(checked("", &stopped), [""; 0]);
    }

    #[test]
    fn each_vip_counts_and_the_largest_load_balancer_is_named() {
        let vips: Vec<_> = (1..=10).map(|n| format!("\"198.51.100.{n}\"")).collect();
        let large = balancer("large", &vips.join(", "), (1..=50).map(|port| web(port, "")));
        let refused = checked("", &(balancers(3600, |_| String::new()) + &large + &group(2)));
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(
            refused[0].contains("needs 4182 services") && refused[0].contains("`large` needs 510 of them"),
            "{refused:?}"
        );
    }

    #[test]
    fn servers_beyond_max_servers_are_refused_with_the_value_to_write() {
        let checks = |listeners: u32| {
            let check = |n: u32| format!("health_check = {{ kind = \"tcp\", port = {} }}", n + 1);
            balancers(listeners, check) + &group(600)
        };
        assert_eq!(checked("max_servers = 1024", &checks(1)), [""; 0]);
        let refused = checked("max_servers = 1024", &checks(2));
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(
            refused[0].starts_with("the configuration needs 1200 server entries, and the maps hold 1024: ")
        );
        assert!(refused[0].contains("`[daemon] max_servers = 4096` or more"), "{refused:?}");
        assert_eq!(checked("max_servers = 4096", &checks(2)), [""; 0]);
    }
}
