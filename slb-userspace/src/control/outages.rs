//! Listeners without a server that receives new flows: found, and followed from change to change. Pure.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::{
    desired::{Desired, Health, Pool, Server},
    overrides::Aside,
};

/// Servers that an outage names at most.
const NAMED: usize = 3;

/// A listener, at those of its VIPs that share one set of servers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Name of the load balancer.
    pub load_balancer: String,
    /// Name of the listener.
    pub listener: String,
    /// The VIPs, sorted.
    pub vips: Vec<IpAddr>,
}

/// Why no server of a listener receives new flows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    /// Name of the server group; `None` for the default group.
    pub group: Option<String>,
    /// The state of the servers, in words.
    pub why: String,
}

/// All listeners without a server that receives new flows.
pub type Outages = BTreeMap<Place, Outage>;

/// Names of load balancer and listener, and the index of the pool.
type Key<'a> = (&'a str, &'a str, usize);
/// VIPs, and the name of the server group.
type At<'a> = (Vec<IpAddr>, Option<&'a str>);

/// Finds them.
pub fn outages(desired: &Desired) -> Outages {
    let mut vips: BTreeMap<Key<'_>, At<'_>> = BTreeMap::new();
    for service in &desired.services {
        let Some(pool) = service.pool else { continue };
        if !desired.pools[pool].servers.iter().any(|(_, server)| server.takes_new()) {
            let key = (service.load_balancer.as_str(), service.listener.as_str(), pool);
            let (vips, group) = vips.entry(key).or_default();
            vips.push(service.address);
            *group = service.group.as_deref();
        }
    }
    let outage = |((balancer, listener, pool), (mut vips, group)): (Key<'_>, At<'_>)| {
        vips.sort();
        let place = Place { load_balancer: balancer.to_owned(), listener: listener.to_owned(), vips };
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

/// What keeps new flows from a server.
fn state(server: &Server) -> String {
    let detail = || server.detail.as_ref().map_or_else(String::new, |detail| format!(": {detail}"));
    match server {
        Server { aside: Some(Aside::Draining), .. } => "is draining".to_owned(),
        Server { aside: Some(Aside::Disabled), .. } => "is disabled".to_owned(),
        Server { weight: 0, .. } => "has weight 0".to_owned(),
        Server { health: Health::Unhealthy, .. } => format!("is unhealthy{}", detail()),
        Server { next_hop: None, .. } => format!("has no next hop{}", detail()),
        Server { is_standby: true, .. } => "is standby".to_owned(),
        Server { health: Health::Unknown, .. } => format!("has no check result{}", detail()),
        _ => format!("receives no new connections{}", detail()),
    }
}

/// What has changed for a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// No server receives new flows any more.
    Began(Place, Outage),
    /// A server receives new flows again, after this time.
    Ended(Place, Outage, Duration),
}

/// The outages of now, and since when each lasts.
#[derive(Debug, Clone, Default)]
pub struct Followed(BTreeMap<Place, (Outage, Duration)>);

impl Followed {
    /// Replaces them by what is found at `now`; returns what that changes. `exists` says whether a listener still runs: one that
    /// was removed or stopped neither fails nor returns.
    pub fn follow(&mut self, found: Outages, exists: impl Fn(&Place) -> bool, now: Duration) -> Vec<Change> {
        let mut changes = Vec::new();
        let before = std::mem::take(&mut self.0);
        for (place, (outage, since)) in &before {
            if !found.contains_key(place) && exists(place) {
                let lasted = now.saturating_sub(*since);
                changes.push(Change::Ended(place.clone(), outage.clone(), lasted));
            }
        }
        for (place, outage) in found {
            let since = before.get(&place).map(|(_, since)| *since);
            if since.is_none() {
                changes.push(Change::Began(place.clone(), outage.clone()));
            }
            self.0.insert(place, (outage, since.unwrap_or(now)));
        }
        changes
    }

    /// The outages, each with the time at which it began.
    pub fn all(&self) -> impl Iterator<Item = (&Place, &Outage, Duration)> {
        self.0.iter().map(|(place, (outage, since))| (place, outage, *since))
    }
}

/// Listeners that have a server in `before` and none in `after`, as `load balancer/listener`.
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
        config::{
            Config,
            samples::{forwarding, shop},
        },
        control::{
            desired::{Known, Reached, Verdict, desired},
            overrides::{Overrides, Place as Entry, Setting},
            targets::{destinations, targets},
        },
    };
    use slb_common::abi::{Stations, backend::NextHop};

    /// All servers have a next hop, and those that are checked this verdict.
    fn with(config: &Config, healthy: bool, overrides: &Overrides) -> Desired {
        let hop = NextHop { ifindex: 1, mtu: 1500, stations: Stations::default() };
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
            (Setting { state: Some(Aside::Draining), weight: None }, "is draining"),
            (Setting { state: Some(Aside::Disabled), weight: None }, "is disabled"),
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
        let drained = set(&["[fd00::11]:8080"], Setting { state: Some(Aside::Draining), weight: None });
        let found = outages(&with(&config, true, &drained));
        let vips: Vec<_> = found.keys().flat_map(|place| &place.vips).map(ToString::to_string).collect();
        assert_eq!(vips, ["2001:db8::10"]);
    }

    #[test]
    fn an_outage_begins_and_ends_once() {
        let config = shop(&[]);
        let disabled = set(&BOTH, Setting { state: Some(Aside::Disabled), weight: None });
        let (well, out) = (with(&config, true, &Overrides::new()), with(&config, true, &disabled));
        let mut followed = Followed::default();
        let mut at = |desired: &Desired, exists, second| {
            followed.follow(outages(desired), |_| exists, Duration::from_secs(second))
        };
        assert_eq!(at(&well, true, 1), []);
        let began = at(&out, true, 2);
        assert!(matches!(&began[..], [Change::Began(place, _)] if place.listener == "web"), "{began:?}");
        assert_eq!(at(&out, true, 3), []);
        let ended = at(&well, true, 9);
        let lasted = Duration::from_secs(7);
        assert!(matches!(&ended[..], [Change::Ended(_, _, time)] if *time == lasted), "{ended:?}");
        at(&out, true, 10);
        assert_eq!(at(&well, false, 11), [], "its listener has been removed");
    }
}
