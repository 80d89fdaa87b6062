//! Outages: listeners without a server that receives new flows. Pure.

use std::{collections::BTreeMap, mem, net::IpAddr, time::Duration};

use slb_common::abi::{
    health::ServerHealth,
    ports::{EndpointText, Ports},
    protocol::IpProtocol,
};

use super::known_services::{ContinuedServices, ServiceIdentity};
use super::model::{AdminState, Desired, DesiredPool, DesiredServer, DesiredService, ListenerId, ServiceKey};

/// Servers that an outage's text names at most.
const MAX_NAMED: usize = 3;

/// A listener, with those of its VIPs that share a server pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListenerVips {
    /// The listener.
    pub id: ListenerId,
    /// The VIPs, sorted.
    pub vips: Vec<IpAddr>,
    /// Its ports.
    pub port: Ports,
    /// Protocol.
    pub protocol: IpProtocol,
}

impl ListenerVips {
    /// Whether it is the same listener, whose port range may have changed.
    fn continues(&self, other: &Self) -> bool {
        let is_same = |a: Ports, b: Ports| a == b || (a.is_range() && b.is_range());
        (&self.id, &self.vips, self.protocol) == (&other.id, &other.vips, other.protocol)
            && is_same(self.port, other.port)
    }
}

/// Why no server of a listener receives new flows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    /// Name of the load balancer.
    pub load_balancer: String,
    /// Name of the listener.
    pub listener: String,
    /// Name of the server group; `None` for the default server group.
    pub group: Option<String>,
    /// The state of the servers, as a text.
    pub why: String,
}

/// All outages, by listener.
pub type Outages = BTreeMap<ListenerVips, Outage>;

/// Listener, port, protocol, index of the pool.
type PoolListener<'a> = (&'a ListenerId, Ports, IpProtocol, usize);

/// Finds all outages in a desired state.
pub fn outages(desired: &Desired) -> Outages {
    let mut found: BTreeMap<PoolListener<'_>, Vec<&DesiredService>> = BTreeMap::new();
    for service in &desired.services {
        let (Some(pool), Some(id)) = (service.pool, &service.id) else { continue };
        if !desired.pools[pool].servers.iter().any(|(_, server)| server.accepts_new_flows()) {
            found.entry((id, service.port, service.protocol, pool)).or_default().push(service);
        }
    }
    let outage = |((id, port, protocol, pool), services): (PoolListener<'_>, Vec<&DesiredService>)| {
        let mut vips: Vec<_> = services.iter().map(|service| service.address).collect();
        vips.sort();
        let service = services.first()?;
        let outage = Outage {
            load_balancer: service.load_balancer.clone(),
            listener: service.listener.clone(),
            group: service.group.clone(),
            why: why(&desired.pools[pool]),
        };
        Some((ListenerVips { id: id.clone(), vips, port, protocol }, outage))
    };
    found.into_iter().filter_map(outage).collect()
}

fn why(pool: &DesiredPool) -> String {
    if pool.servers.is_empty() {
        return "no server of this address family is configured".to_owned();
    }
    let named = pool.servers.iter().take(MAX_NAMED);
    let mut words: Vec<_> =
        named.map(|(address, server)| format!("{} {}", EndpointText(*address), state(server))).collect();
    if pool.servers.len() > MAX_NAMED {
        words.push(format!("{} more", pool.servers.len() - MAX_NAMED));
    }
    words.join("; ")
}

/// Why a server receives no new flows.
fn state(server: &DesiredServer) -> String {
    let detail = || server.detail.as_ref().map_or_else(String::new, |detail| format!(": {detail}"));
    match server {
        DesiredServer { admin_state: Some(AdminState::Draining), .. } => "is draining".to_owned(),
        DesiredServer { admin_state: Some(AdminState::Disabled), .. } => "is disabled".to_owned(),
        DesiredServer { weight: 0, .. } => "has weight 0".to_owned(),
        DesiredServer { health: ServerHealth::Unhealthy, .. } => format!("is unhealthy{}", detail()),
        DesiredServer { next_hop: None, .. } => format!("has no next hop{}", detail()),
        DesiredServer { is_standby: true, .. } => "is standby".to_owned(),
        DesiredServer { health: ServerHealth::Unknown, .. } => format!("has no check result{}", detail()),
        _ => format!("receives no new connections{}", detail()),
    }
}

/// A change for a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutageChange {
    /// The outage began. Before that a server received new flows for this time, if known.
    Began(ListenerVips, Outage, Option<Duration>),
    /// The outage ended after this time.
    Ended(ListenerVips, Outage, Duration),
}

/// The present outages, each with its beginning.
#[derive(Debug, Clone, Default)]
pub struct OutageTracker {
    active: BTreeMap<ListenerVips, (Outage, Duration)>,
    /// Services without an outage, each with the time since boot from which it has a server.
    served_since: BTreeMap<ServiceKey, (ServiceIdentity, Duration)>,
}

impl OutageTracker {
    /// Updates the outages to those of `desired` at `now`, and returns the changes. The removal or stop of a listener
    /// begins and ends no outage.
    pub fn follow(&mut self, desired: &Desired, now: Duration) -> Vec<OutageChange> {
        let mut changes = Vec::new();
        let found = outages(desired);
        let before = mem::take(&mut self.active);
        let served_before = mem::take(&mut self.served_since);
        let mut running = BTreeMap::new();
        let with_pools = || desired.services.iter().filter(|service| service.pool.is_some());
        let continued = ContinuedServices::new(
            with_pools().map(ServiceIdentity::of_desired),
            served_before.values().map(|(service, _)| service.clone()),
        );
        let served_before = |key: ServiceKey| {
            let (_, since) = served_before.get(&continued.key_before(key)?)?;
            Some(*since)
        };
        for service in with_pools() {
            let (key, identity) = (service.key(), ServiceIdentity::of_desired(service));
            running.insert((service.id.as_ref(), service.address), service);
            self.served_since.insert(key, (identity, served_before(key).unwrap_or(now)));
        }
        let running = |listener_vips: &ListenerVips| {
            let mut vips = listener_vips.vips.iter();
            vips.find_map(|vip| running.get(&(Some(&listener_vips.id), *vip)).copied())
        };
        for (listener_vips, (outage, since)) in &before {
            let goes_on = found.keys().any(|found| found.continues(listener_vips));
            if let (false, Some(service)) = (goes_on, running(listener_vips)) {
                let lasted = now.saturating_sub(*since);
                let (load_balancer, listener) = (service.load_balancer.clone(), service.listener.clone());
                let outage = Outage { load_balancer, listener, ..outage.clone() };
                changes.push(OutageChange::Ended(listener_vips.clone(), outage, lasted));
            }
        }
        for (listener_vips, outage) in found {
            let earlier = before.iter().find(|(earlier, _)| listener_vips.continues(earlier));
            let since = earlier.map(|(_, (_, since))| *since);
            let keys =
                listener_vips.vips.iter().map(|vip| (*vip, listener_vips.port.key(), listener_vips.protocol));
            let lasted = keys.filter_map(|key| {
                self.served_since.remove(&key);
                served_before(key).map(|since| now.saturating_sub(since))
            });
            let lasted = lasted.max();
            if since.is_none() {
                changes.push(OutageChange::Began(listener_vips.clone(), outage.clone(), lasted));
            }
            self.active.insert(listener_vips, (outage, since.unwrap_or(now)));
        }
        changes
    }

    /// The outages, each with the time at which it began.
    pub fn all(&self) -> impl Iterator<Item = (&ListenerVips, &Outage, Duration)> {
        self.active.iter().map(|(listener_vips, (outage, since))| (listener_vips, outage, *since))
    }
}

/// Listeners with an outage in `after` and none in `before`, as `load balancer/listener`.
pub fn new_outages(before: &Desired, after: &Desired) -> Vec<String> {
    let before = outages(before);
    let new_outages =
        outages(after).into_iter().filter(|(listener_vips, _)| !before.contains_key(listener_vips));
    let mut names: Vec<_> =
        new_outages.map(|(_, outage)| format!("{}/{}", outage.load_balancer, outage.listener)).collect();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        desired::{ObservedInputs, desired},
        model::{Health, HealthVerdict, OverrideKey, ServerRoute},
        overrides::{Overrides, ServerOverride},
        targets::{destinations, targets},
    };
    use slb_common::abi::{MacPair, backend::NextHop};
    use slb_config::{
        Config,
        samples::{forwarding, shop},
    };

    /// The desired state with a next hop for every server, and this result for every health check.
    fn with(config: &Config, healthy: bool, overrides: &Overrides) -> Desired {
        let hop = NextHop { ifindex: 1, mtu: 1500, macs: MacPair::default() };
        let reached = || Ok(ServerRoute { hop, through_gateway: false });
        let next_hops = destinations(config).into_iter().map(|address| (address, reached())).collect();
        let verdict = || HealthVerdict {
            health: Health::of(healthy),
            detail: (!healthy).then(|| "connection refused".to_owned()),
        };
        let health = targets(config).into_iter().map(|target| (target, verdict())).collect();
        desired(
            config,
            ObservedInputs {
                health: Some(&health),
                next_hops: Some(&next_hops),
                overrides: Some(overrides),
                ..ObservedInputs::default()
            },
        )
    }

    fn set(servers: &[&str], setting: ServerOverride) -> Overrides {
        let entry = |server: &&str| OverrideKey::Group {
            group: "web".parse().unwrap(),
            server: server.parse().unwrap(),
        };
        servers.iter().map(|server| (entry(server), setting)).collect()
    }

    const BOTH: [&str; 2] = ["10.0.0.11:8080", "10.0.0.12:8081"];

    #[test]
    fn outage_begins_once_the_last_server_receives_no_new_flows() {
        let config = shop(&[]);
        let none = with(&config, true, &Overrides::new());
        assert_eq!(outages(&none), Outages::new());
        for (setting, word) in [
            (ServerOverride { state: Some(AdminState::Draining), weight: None }, "is draining"),
            (ServerOverride { state: Some(AdminState::Disabled), weight: None }, "is disabled"),
            (ServerOverride { state: None, weight: Some(0) }, "has weight 0"),
        ] {
            let one = with(&config, true, &set(&BOTH[..1], setting));
            assert!(new_outages(&none, &one).is_empty());
            let both = with(&config, true, &set(&BOTH, setting));
            assert_eq!(new_outages(&one, &both), ["shop/web"]);
            assert!(new_outages(&both, &both).is_empty(), "it was lost before");
            let found = outages(&both);
            let [(listener_vips, outage)] = &found.iter().collect::<Vec<_>>()[..] else {
                panic!("{found:?}")
            };
            assert_eq!(listener_vips.vips, ["192.0.2.10".parse::<IpAddr>().unwrap()]);
            assert_eq!(outage.group.as_deref(), Some("web"));
            assert_eq!(outage.why, format!("10.0.0.11:8080 {word}; 10.0.0.12:8081 {word}"));
        }
    }

    #[test]
    fn outage_names_failed_checks_and_missing_next_hops() {
        let config = shop(&[(
            "server_group = \"web\"\n",
            "server_group = \"web\"\nhealth_check = { kind = \"tcp\" }\n",
        )]);
        let found = outages(&with(&config, false, &Overrides::new()));
        let why = found.values().map(|outage| outage.why.as_str()).collect::<Vec<_>>();
        assert_eq!(
            why,
            [
                "10.0.0.11:8080 is unhealthy: connection refused; 10.0.0.12:8081 is unhealthy: connection refused"
            ]
        );
        // Without a next hop.
        let found = outages(&desired(&config, ObservedInputs::default()));
        assert!(
            found.values().any(|outage| outage.why.contains("10.0.0.11:8080 has no next hop")),
            "{found:?}"
        );
    }

    #[test]
    fn nat_outage_covers_only_vips_of_the_address_family() {
        let config = forwarding(
            "[[load_balancer]]\nname = \"shop\"\naddresses = [\"192.0.2.10\", \"2001:db8::10\"]\n\
             [[load_balancer.listener]]\nname = \"web\"\nprotocol = \"udp\"\nport = 80\nserver_group = \"web\"\n\
             [[server_group]]\nname = \"web\"\nservers = [{ address = \"10.0.0.11\", port = 8080 }, \
             { address = \"fd00::11\", port = 8080 }]\n",
        );
        let drained =
            set(&["[fd00::11]:8080"], ServerOverride { state: Some(AdminState::Draining), weight: None });
        let found = outages(&with(&config, true, &drained));
        let vips: Vec<_> =
            found.keys().flat_map(|listener_vips| &listener_vips.vips).map(ToString::to_string).collect();
        assert_eq!(vips, ["2001:db8::10"]);
    }

    #[test]
    fn outage_begins_and_ends_once() {
        let config = shop(&[]);
        let disabled = set(&BOTH, ServerOverride { state: Some(AdminState::Disabled), weight: None });
        let (well, active) = (with(&config, true, &Overrides::new()), with(&config, true, &disabled));
        let mut followed = OutageTracker::default();
        let mut at = |desired: &Desired, second| followed.follow(desired, Duration::from_secs(second));
        let seconds = Duration::from_secs;
        assert_eq!(at(&well, 1), []);
        assert_eq!(at(&well, 2), []);
        let began = at(&active, 4);
        let [OutageChange::Began(_, outage, lasted)] = &began[..] else { panic!("{began:?}") };
        assert_eq!((outage.listener.as_str(), *lasted), ("web", Some(seconds(3))));
        assert_eq!(at(&active, 5), []);
        let ended = at(&well, 11);
        assert!(matches!(&ended[..], [OutageChange::Ended(_, _, time)] if *time == seconds(7)), "{ended:?}");
        let began = at(&active, 13);
        assert!(
            matches!(&began[..], [OutageChange::Began(_, _, Some(time))] if *time == seconds(2)),
            "{began:?}"
        );
        let removed = Desired { services: Vec::new(), ..well.clone() };
        assert_eq!(at(&removed, 14), [], "its listener has been removed");
        let began = at(&active, 15);
        assert!(matches!(&began[..], [OutageChange::Began(_, _, None)]), "it never had a server: {began:?}");
    }

    #[test]
    fn outage_goes_on_through_a_rename_with_the_same_id() {
        let disabled = set(&BOTH, ServerOverride { state: Some(AdminState::Disabled), weight: None });
        let renamed = shop(&[
            ("name = \"shop\"", "id = \"shop\"\nname = \"store\""),
            ("name = \"web\"\nprotocol", "id = \"web\"\nname = \"www\"\nprotocol"),
        ]);
        let other = shop(&[("name = \"web\"\nprotocol", "name = \"www\"\nprotocol")]);
        let mut followed = OutageTracker::default();
        let mut at = |desired: &Desired, second| followed.follow(desired, Duration::from_secs(second));
        at(&with(&shop(&[]), true, &disabled), 1);
        assert_eq!(at(&with(&renamed, true, &disabled), 4), [], "the same listener");
        let ended = at(&with(&renamed, true, &Overrides::new()), 8);
        let [OutageChange::Ended(_, outage, lasted)] = &ended[..] else { panic!("{ended:?}") };
        assert_eq!((outage.load_balancer.as_str(), outage.listener.as_str()), ("store", "www"));
        assert_eq!(*lasted, Duration::from_secs(7));
        // Without the id it is another listener, at the same VIP and port.
        at(&with(&shop(&[]), true, &disabled), 10);
        let began = at(&with(&other, true, &disabled), 12);
        assert!(matches!(&began[..], [OutageChange::Began(..)]), "{began:?}");
    }
}
