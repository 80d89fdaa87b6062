//! Outages: listeners without a server that receives new flows. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::IpAddr,
    time::Duration,
};

use super::{
    desired::{Desired, Health, Pool, Server},
    overrides::AdminState,
};

/// Servers that an outage's text names at most.
const NAMED: usize = 3;

/// A listener, with those of its VIPs that share a server pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Name of the load balancer.
    pub load_balancer: String,
    /// Name of the listener.
    pub listener: String,
    /// The VIPs, sorted.
    pub vips: Vec<IpAddr>,
    /// Port, in host byte order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

/// Why no server of a listener receives new flows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    /// Name of the server group; `None` for the default group.
    pub group: Option<String>,
    /// The state of the servers, as a text.
    pub why: String,
}

/// All outages, by listener.
pub type Outages = BTreeMap<Place, Outage>;

/// Load balancer, listener, port, protocol, index of the pool.
type Key<'a> = (&'a str, &'a str, u16, u8, usize);
/// VIPs, and the name of the server group.
type At<'a> = (Vec<IpAddr>, Option<&'a str>);

/// Finds all outages in a desired state.
pub fn outages(desired: &Desired) -> Outages {
    let mut vips: BTreeMap<Key<'_>, At<'_>> = BTreeMap::new();
    for service in &desired.services {
        let Some(pool) = service.pool else { continue };
        if !desired.pools[pool].servers.iter().any(|(_, server)| server.takes_new()) {
            let (balancer, listener) = (service.load_balancer.as_str(), service.listener.as_str());
            let key = (balancer, listener, service.port, service.protocol, pool);
            let (vips, group) = vips.entry(key).or_default();
            vips.push(service.address);
            *group = service.group.as_deref();
        }
    }
    let outage = |((balancer, listener, port, protocol, pool), (mut vips, group)): (Key<'_>, At<'_>)| {
        vips.sort();
        let (load_balancer, listener) = (balancer.to_owned(), listener.to_owned());
        let place = Place { load_balancer, listener, vips, port, protocol };
        (place, Outage { group: group.map(str::to_owned), why: why(&desired.pools[pool]) })
    };
    vips.into_iter().map(outage).collect()
}

fn why(pool: &Pool) -> String {
    if pool.servers.is_empty() {
        return "no server of this address family is configured".to_owned();
    }
    let named = pool.servers.iter().take(NAMED);
    let mut words: Vec<_> = named.map(|(address, server)| format!("{address} {}", state(server))).collect();
    if pool.servers.len() > NAMED {
        words.push(format!("{} more", pool.servers.len() - NAMED));
    }
    words.join("; ")
}

/// Why a server receives no new flows.
fn state(server: &Server) -> String {
    let detail = || server.detail.as_ref().map_or_else(String::new, |detail| format!(": {detail}"));
    match server {
        Server { aside: Some(AdminState::Draining), .. } => "is draining".to_owned(),
        Server { aside: Some(AdminState::Disabled), .. } => "is disabled".to_owned(),
        Server { weight: 0, .. } => "has weight 0".to_owned(),
        Server { health: Health::Unhealthy, .. } => format!("is unhealthy{}", detail()),
        Server { next_hop: None, .. } => format!("has no next hop{}", detail()),
        Server { is_standby: true, .. } => "is standby".to_owned(),
        Server { health: Health::Unknown, .. } => format!("has no check result{}", detail()),
        _ => format!("receives no new connections{}", detail()),
    }
}

/// A change for a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The outage began. Before that a server received new flows for this time, if known.
    Began(Place, Outage, Option<Duration>),
    /// The outage ended after this time.
    Ended(Place, Outage, Duration),
}

/// A VIP, port and protocol.
type ServiceKey = (IpAddr, u16, u8);

/// The present outages, each with its beginning.
#[derive(Debug, Clone, Default)]
pub struct Followed {
    out: BTreeMap<Place, (Outage, Duration)>,
    /// Services without an outage, each with the time since boot from which it has a server.
    well: BTreeMap<ServiceKey, Duration>,
}

impl Followed {
    /// Updates the outages to those of `desired` at `now`, and returns the changes. The removal or stop of a listener
    /// begins and ends no outage.
    pub fn follow(&mut self, desired: &Desired, now: Duration) -> Vec<Change> {
        let mut changes = Vec::new();
        let found = outages(desired);
        let before = mem::take(&mut self.out);
        let well_before = mem::take(&mut self.well);
        let mut running = BTreeSet::new();
        for service in desired.services.iter().filter(|service| service.pool.is_some()) {
            let key = (service.address, service.port, service.protocol);
            running.insert((service.load_balancer.as_str(), service.listener.as_str(), service.address));
            self.well.insert(key, well_before.get(&key).copied().unwrap_or(now));
        }
        let exists = |place: &Place| {
            let mut vips = place.vips.iter();
            vips.any(|vip| running.contains(&(place.load_balancer.as_str(), place.listener.as_str(), *vip)))
        };
        for (place, (outage, since)) in &before {
            if !found.contains_key(place) && exists(place) {
                let lasted = now.saturating_sub(*since);
                changes.push(Change::Ended(place.clone(), outage.clone(), lasted));
            }
        }
        for (place, outage) in found {
            let since = before.get(&place).map(|(_, since)| *since);
            let keys = place.vips.iter().map(|vip| (*vip, place.port, place.protocol));
            let lasted = keys.filter_map(|key| {
                self.well.remove(&key);
                well_before.get(&key).map(|since| now.saturating_sub(*since))
            });
            let lasted = lasted.max();
            if since.is_none() {
                changes.push(Change::Began(place.clone(), outage.clone(), lasted));
            }
            self.out.insert(place, (outage, since.unwrap_or(now)));
        }
        changes
    }

    /// The outages, each with the time at which it began.
    pub fn all(&self) -> impl Iterator<Item = (&Place, &Outage, Duration)> {
        self.out.iter().map(|(place, (outage, since))| (place, outage, *since))
    }
}

/// Listeners with an outage in `after` and none in `before`, as `load balancer/listener`.
pub fn lost(before: &Desired, after: &Desired) -> Vec<String> {
    let before = outages(before);
    let lost = outages(after).into_iter().filter(|(place, _)| !before.contains_key(place));
    let mut names: Vec<_> =
        lost.map(|(place, _)| format!("{}/{}", place.load_balancer, place.listener)).collect();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        desired::{Known, Reached, Verdict, desired},
        overrides::{Overrides, Place as Entry, Setting},
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
        let reached = || Ok(Reached { hop, through_gateway: false });
        let next_hops = destinations(config).into_iter().map(|address| (address, reached())).collect();
        let verdict = || Verdict { healthy, detail: (!healthy).then(|| "connection refused".to_owned()) };
        let health = targets(config).into_iter().map(|target| (target, verdict())).collect();
        desired(
            config,
            Known {
                health: Some(&health),
                next_hops: Some(&next_hops),
                overrides: Some(overrides),
                ..Known::default()
            },
        )
    }

    fn set(servers: &[&str], setting: Setting) -> Overrides {
        let entry = |server: &&str| Entry::Group { group: "web".to_owned(), server: server.parse().unwrap() };
        servers.iter().map(|server| (entry(server), setting)).collect()
    }

    const BOTH: [&str; 2] = ["10.0.0.11:8080", "10.0.0.12:8081"];

    #[test]
    fn a_listener_is_out_once_its_last_server_receives_nothing_new() {
        let config = shop(&[]);
        let none = with(&config, true, &Overrides::new());
        assert_eq!(outages(&none), Outages::new());
        for (setting, word) in [
            (Setting { state: Some(AdminState::Draining), weight: None }, "is draining"),
            (Setting { state: Some(AdminState::Disabled), weight: None }, "is disabled"),
            (Setting { state: None, weight: Some(0) }, "has weight 0"),
        ] {
            let one = with(&config, true, &set(&BOTH[..1], setting));
            assert!(lost(&none, &one).is_empty());
            let both = with(&config, true, &set(&BOTH, setting));
            assert_eq!(lost(&one, &both), ["shop/web"]);
            assert!(lost(&both, &both).is_empty(), "it was lost before");
            let found = outages(&both);
            let [(place, outage)] = &found.iter().collect::<Vec<_>>()[..] else { panic!("{found:?}") };
            assert_eq!(place.vips, ["192.0.2.10".parse::<IpAddr>().unwrap()]);
            assert_eq!(outage.group.as_deref(), Some("web"));
            assert_eq!(outage.why, format!("10.0.0.11:8080 {word}; 10.0.0.12:8081 {word}"));
        }
    }

    #[test]
    fn an_unhealthy_neighbour_does_not_count() {
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
        let found = outages(&desired(&config, Known::default()));
        assert!(
            found.values().any(|outage| outage.why.contains("10.0.0.11:8080 has no next hop")),
            "{found:?}"
        );
    }

    #[test]
    fn each_address_family_of_mode_nat_is_a_matter_of_its_own() {
        let config = forwarding(
            "[[load_balancer]]\nname = \"shop\"\naddresses = [\"192.0.2.10\", \"2001:db8::10\"]\n\
             [[load_balancer.listener]]\nname = \"web\"\nprotocol = \"udp\"\nport = 80\nserver_group = \"web\"\n\
             [[server_group]]\nname = \"web\"\nservers = [{ address = \"10.0.0.11\", port = 8080 }, \
             { address = \"fd00::11\", port = 8080 }]\n",
        );
        let drained = set(&["[fd00::11]:8080"], Setting { state: Some(AdminState::Draining), weight: None });
        let found = outages(&with(&config, true, &drained));
        let vips: Vec<_> = found.keys().flat_map(|place| &place.vips).map(ToString::to_string).collect();
        assert_eq!(vips, ["2001:db8::10"]);
    }

    #[test]
    fn an_outage_begins_and_ends_once() {
        let config = shop(&[]);
        let disabled = set(&BOTH, Setting { state: Some(AdminState::Disabled), weight: None });
        let (well, out) = (with(&config, true, &Overrides::new()), with(&config, true, &disabled));
        let mut followed = Followed::default();
        let mut at = |desired: &Desired, second| followed.follow(desired, Duration::from_secs(second));
        let seconds = Duration::from_secs;
        assert_eq!(at(&well, 1), []);
        assert_eq!(at(&well, 2), []);
        let began = at(&out, 4);
        let [Change::Began(place, _, lasted)] = &began[..] else { panic!("{began:?}") };
        assert_eq!((place.listener.as_str(), *lasted), ("web", Some(seconds(3))));
        assert_eq!(at(&out, 5), []);
        let ended = at(&well, 11);
        assert!(matches!(&ended[..], [Change::Ended(_, _, time)] if *time == seconds(7)), "{ended:?}");
        let began = at(&out, 13);
        assert!(matches!(&began[..], [Change::Began(_, _, Some(time))] if *time == seconds(2)), "{began:?}");
        let removed = Desired { services: Vec::new(), ..well.clone() };
        assert_eq!(at(&removed, 14), [], "its listener has been removed");
        let began = at(&out, 15);
        assert!(matches!(&began[..], [Change::Began(_, _, None)]), "it never had a server: {began:?}");
    }
}
