//! Overrides: weights and admin states of single servers, set at run time in place of configured ones. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

mod uses;

use self::uses::Uses;
use super::members::Side;
use crate::dataplane::state::State;
use slb_config::{
    difference::pairs::{Renames, renames},
    model::{Config, Listener, LoadBalancer, Name, Target},
};

/// A server's entry in the configuration, to which an override applies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In a named server group.
    Group {
        /// Name of the group.
        group: String,
        /// Address and port.
        server: SocketAddr,
    },
    /// In the default group of a load balancer.
    Default {
        /// Name of the load balancer.
        load_balancer: String,
        /// Address.
        server: IpAddr,
    },
}

/// The override of one server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Setting {
    /// Weight, 0 to 100; `None` for the configured one.
    pub weight: Option<u8>,
    /// Admin state; `None` if enabled.
    pub state: Option<AdminState>,
}

/// Admin state of a server that takes no new flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminState {
    /// Its flows continue until they end or its drain deadline passes.
    Draining,
    /// Out of service. Health checks continue.
    Disabled,
}

/// Overrides by configuration entry.
pub type Overrides = BTreeMap<Place, Setting>;

impl Place {
    /// The entry of the server `address` behind a listener, on one of its sides.
    pub(super) fn behind(
        balancer: &LoadBalancer,
        listener: &Listener,
        side: Side,
        address: SocketAddr,
    ) -> Self {
        let group = |name: &Name| Self::Group { group: name.to_string(), server: address };
        match &listener.target {
            Target::DefaultGroup { .. } => {
                Self::Default { load_balancer: balancer.name.to_string(), server: address.ip() }
            }
            Target::ServerGroup(name) | Target::PrimarySecondaryGroup(name) => group(name),
            Target::PrimarySecondary { primary, secondary, .. } => {
                group(if side == Side::Primary { primary } else { secondary })
            }
        }
    }

    /// Whether the configuration has this entry.
    pub fn exists(&self, config: &Config) -> bool {
        self.entries(config).is_some_and(|entries| entries.contains(self))
    }

    /// All entries of this entry's group; `None` if the group does not exist.
    pub fn entries(&self, config: &Config) -> Option<Vec<Self>> {
        match self {
            Self::Group { group, .. } => {
                let entry = |server| Self::Group { group: group.clone(), server };
                let of_group = config.server_groups.iter().find(|known| known.name.as_str() == group);
                if let Some(found) = of_group {
                    let servers = found.servers.iter();
                    return Some(servers.map(|s| entry(SocketAddr::new(s.address, s.port))).collect());
                }
                let mut pairs = config.primary_secondary_groups.iter();
                let pair = pairs.find(|known| known.name.as_str() == group)?;
                Some(vec![entry(pair.primary), entry(pair.secondary)])
            }
            Self::Default { load_balancer, .. } => {
                let mut balancers = config.load_balancers.iter();
                let found = balancers.find(|known| known.name.as_str() == load_balancer)?;
                let entry = |server| Self::Default { load_balancer: load_balancer.clone(), server };
                Some(found.servers.iter().map(|known| entry(known.address)).collect())
            }
        }
    }

    /// This entry in the renamed group, as `renames` maps names of `old`. `None` if the group was not renamed.
    fn renamed(&self, old: &Config, renames: &Renames) -> Option<Self> {
        match self {
            Self::Group { group, server } => {
                let is_plain = old.server_groups.iter().any(|known| known.name.as_str() == group);
                let groups =
                    if is_plain { &renames.server_groups } else { &renames.primary_secondary_groups };
                Some(Self::Group { group: groups.get(group)?.clone(), server: *server })
            }
            Self::Default { load_balancer, server } => {
                let load_balancer = renames.load_balancers.get(load_balancer)?.clone();
                Some(Self::Default { load_balancer, server: *server })
            }
        }
    }

    /// Names of all groups of this entry's kind: named groups, or load balancers for default groups.
    pub fn groups(&self, config: &Config) -> Vec<String> {
        let names: Vec<&Name> = match self {
            Self::Group { .. } => {
                let pairs = config.primary_secondary_groups.iter().map(|pair| &pair.name);
                config.server_groups.iter().map(|group| &group.name).chain(pairs).collect()
            }
            Self::Default { .. } => config.load_balancers.iter().map(|balancer| &balancer.name).collect(),
        };
        names.into_iter().map(ToString::to_string).collect()
    }

    /// The server as the configuration writes it.
    pub fn server(&self) -> String {
        match self {
            Self::Group { server, .. } => server.to_string(),
            Self::Default { server, .. } => server.to_string(),
        }
    }

    /// The group, for messages.
    pub fn group(&self) -> String {
        match self {
            Self::Group { group, .. } => format!("server group {group}"),
            Self::Default { load_balancer, .. } => format!("default group of {load_balancer}"),
        }
    }
}

/// Overrides after a change from configuration `old` to `new`. An override of a renamed group is copied to the new name
/// and replaces one set there. The old name keeps it too, because `old` may be rolled back to.
pub fn carried<V: Clone>(set: &BTreeMap<Place, V>, old: &Config, new: &Config) -> BTreeMap<Place, V> {
    if old == new {
        return set.clone();
    }
    let (there, back) = (renames(old, new), renames(new, old));
    let (used, uses) = (Uses::of(old), Uses::of(new));
    let was = |place: &Place| follow(place, &uses, &used, (new, old), &back);
    let is = |place: &Place| follow(place, &used, &uses, (old, new), &there);
    // Drops overrides of the new names first, so that one removed under the old name goes too.
    let mut carried = set.clone();
    carried.retain(|place, _| was(place).is_empty());
    for (place, value) in set {
        carried.extend(is(place).into_iter().map(|is| (is, value.clone())));
    }
    carried
}

/// The entries in `new` that correspond to one whose group no longer exists. Groups that its listeners now use come
/// first, else the group with the same servers.
fn follow(
    place: &Place,
    used: &Uses,
    uses: &Uses,
    (old, new): (&Config, &Config),
    renames: &Renames,
) -> BTreeSet<Place> {
    let followed = used.followed(place, uses, new);
    if followed.is_empty() { place.renamed(old, renames).into_iter().collect() } else { followed }
}

/// As [`carried`] at a start, from the services that the maps hold. An override of the new name has priority.
pub fn carried_since<V: Clone>(set: &BTreeMap<Place, V>, held: &State, new: &Config) -> BTreeMap<Place, V> {
    let (used, uses) = (Uses::found(held), Uses::of(new));
    let mut carried = set.clone();
    for (place, value) in set {
        for is in used.followed(place, &uses, new) {
            carried.entry(is).or_insert_with(|| value.clone());
        }
    }
    carried
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: server {}", self.group(), self.server())
    }
}

impl Setting {
    /// Whether the override changes nothing.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.map(|state| state.to_string());
        let weight = self.weight.map(|weight| format!("weight {weight}"));
        let words: Vec<_> = state.into_iter().chain(weight).collect();
        f.write_str(if words.is_empty() { "as configured".to_owned() } else { words.join(", ") }.as_str())
    }
}

impl fmt::Display for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dataplane::fake::Fake,
        desired::{Health, Known, Server, desired},
        ids::Surroundings,
        reconcile::Reconciler,
    };
    use slb_config::samples::{forwarding, shop};

    /// Without health checks, so that the servers count as able to serve.
    fn config() -> Config {
        shop(&[("tcp", "udp")])
    }

    fn web(server: &str) -> Place {
        Place::Group { group: "web".to_owned(), server: server.parse().unwrap() }
    }

    fn of_default(server: &str) -> Place {
        Place::Default { load_balancer: "shop".to_owned(), server: server.parse().unwrap() }
    }

    fn servers(overrides: &Overrides) -> Vec<Server> {
        let desired = desired(&config(), Known { overrides: Some(overrides), ..Known::default() });
        desired.pools.into_iter().flat_map(|pool| pool.servers).map(|(_, server)| server).collect()
    }

    #[test]
    fn a_weight_takes_the_place_of_the_configured_one() {
        let weight = Setting { weight: Some(7), state: None };
        let servers = servers(&[(web("10.0.0.12:8081"), weight)].into());
        assert_eq!(servers.iter().map(|server| server.weight).collect::<Vec<_>>(), [100, 100, 7]);
        assert_eq!(servers[2].overridden, Some(web("10.0.0.12:8081")));
        assert_eq!(servers[0].overridden, None);
    }

    #[test]
    fn a_server_set_aside_takes_nothing_new_and_is_able_to_serve() {
        for state in [AdminState::Draining, AdminState::Disabled] {
            let aside = Setting { weight: None, state: Some(state) };
            let [mut dns, web, _] =
                <[Server; 3]>::try_from(servers(&[(of_default("10.0.0.21"), aside)].into())).unwrap();
            assert_eq!((dns.aside, web.aside), (Some(state), None));
            assert_eq!((dns.health, dns.weight), (Health::Unchecked, 100));
            dns.next_hop = Some(Default::default());
            assert!(!dns.takes_new() && dns.is_alive());
            dns.aside = None;
            assert!(dns.takes_new());
        }
    }

    #[test]
    fn entries_are_found_in_their_own_group() {
        let config = config();
        assert!(web("10.0.0.11:8080").exists(&config) && of_default("10.0.0.21").exists(&config));
        assert!(!web("10.0.0.11:8082").exists(&config) && !of_default("10.0.0.11").exists(&config));
        let other = Place::Group { group: "other".to_owned(), server: "10.0.0.11:8080".parse().unwrap() };
        assert!(!other.exists(&config) && other.entries(&config).is_none());
    }

    #[test]
    fn what_is_set_goes_with_a_name_and_comes_back() {
        let (before, after) = (config(), shop(&[("\"web\"", "\"www\""), ("\"shop\"", "\"store\"")]));
        let renamed = |place: &Place| match place.clone() {
            Place::Group { server, .. } => Place::Group { group: "www".to_owned(), server },
            Place::Default { server, .. } => Place::Default { load_balancer: "store".to_owned(), server },
        };
        let (one, two) = (web("10.0.0.11:8080"), of_default("10.0.0.21"));
        let set = BTreeMap::from([(one.clone(), 1), (two.clone(), 2)]);
        let both = carried(&set, &before, &after);
        let expected: BTreeMap<_, _> = set.iter().map(|(place, value)| (renamed(place), *value)).collect();
        assert!(both.iter().filter(|(place, _)| place.exists(&after)).eq(&expected), "{both:?}");
        assert!(
            both.iter().filter(|(place, _)| place.exists(&before)).eq(&set),
            "it may come back: {both:?}"
        );
        // An override changed under the new name stays when the old name returns.
        let mut changed = both.clone();
        changed.remove(&renamed(&one));
        changed.insert(renamed(&two), 3);
        let back = carried(&changed, &after, &before);
        let back: Vec<_> = back.into_iter().filter(|(place, _)| place.exists(&before)).collect();
        assert_eq!(back, [(two, 3)]);
        assert_eq!(carried(&set, &before, &before), set);
    }

    #[test]
    fn what_is_set_goes_with_the_listener_to_a_group_of_another_name_and_with_other_servers() {
        let one = web("10.0.0.11:8080");
        let www = |server: &str| Place::Group { group: "www".to_owned(), server: server.parse().unwrap() };
        let set = BTreeMap::from([(one.clone(), 1), (web("10.0.0.12:8081"), 2)]);
        let before = config();
        let after = shop(&[("tcp", "udp"), ("\"web\"", "\"www\""), ("10.0.0.12", "10.0.0.13")]);
        let both = carried(&set, &before, &after);
        let there: Vec<_> = both.iter().filter(|(place, _)| place.exists(&after)).collect();
        assert_eq!(there, [(&www("10.0.0.11:8080"), &1)]);
        let back = carried(&both, &after, &before);
        assert!(back.iter().filter(|(place, _)| place.exists(&before)).eq(&set), "{back:?}");
        let mut changed = both;
        changed.remove(&www("10.0.0.11:8080"));
        let back = carried(&changed, &after, &before);
        assert!(!back.contains_key(&one), "reset under its other name: {back:?}");

        // The next start finds the override under whichever name is configured.
        let mut reconciler =
            Reconciler::new(Fake::default(), Surroundings { max_backends: 8, ..Surroundings::default() });
        reconciler.reconcile(&desired(&before, Known::default()), Default::default()).unwrap();
        let held = reconciler.held().unwrap();
        let since = carried_since(&set, held, &after);
        assert_eq!(since.get(&www("10.0.0.11:8080")), Some(&1));
        assert_eq!(carried_since(&set, held, &before), set);
        let newer = set.clone().into_iter().chain([(www("10.0.0.11:8080"), 3)]).collect();
        assert_eq!(carried_since(&newer, held, &after), newer);

        // A group that other listeners use already is not the renamed one.
        let other = |web: &str| {
            shop(&[
                ("tcp", "udp"),
                ("server_group = \"web\"", web),
                ("backend_port = 5353", "server_group = \"other\""),
                (
                    "[[server_group]]",
                    "[[server_group]]\nname = \"other\"\nservers = [{ address = \"10.0.0.11\", port = 8080 }]\n[[server_group]]",
                ),
            ])
        };
        let (before, after) = (other("server_group = \"web\""), other("server_group = \"other\""));
        let after = Config { server_groups: after.server_groups[..1].to_vec(), ..after };
        assert_eq!(carried(&set, &before, &after), set);
    }

    /// Two listeners of one group get one group each.
    #[test]
    fn what_is_set_goes_to_each_group_that_one_is_split_into() {
        let group = |name: &str| {
            format!(
                "[[server_group]]\nname = \"{name}\"\nservers = [{{ address = \"10.0.0.11\", port = 8080 }}]\n"
            )
        };
        let listener = |port: u16, group: &str| {
            format!(
                "[[load_balancer.listener]]\nname = \"l{port}\"\nprotocol = \"tcp\"\nport = {port}\nserver_group = \"{group}\"\n"
            )
        };
        let balancer = "[[load_balancer]]\nname = \"shop\"\naddresses = [\"192.0.2.10\"]\n";
        let config = |first: &str, second: &str, groups: &[&str]| {
            let groups: String = groups.iter().map(|name| group(name)).collect();
            forwarding(&(balancer.to_owned() + &listener(80, first) + &listener(443, second) + &groups))
        };
        let at =
            |name: &str| Place::Group { group: name.to_owned(), server: "10.0.0.11:8080".parse().unwrap() };
        let one = config("web", "web", &["web"]);
        let two = config("web-a", "web-b", &["web-a", "web-b"]);
        let in_force = |set: &BTreeMap<Place, i32>, config: &Config| -> Vec<(Place, i32)> {
            set.clone().into_iter().filter(|(place, _)| place.exists(config)).collect()
        };
        let both = carried(&[(at("web"), 1)].into(), &one, &two);
        assert_eq!(in_force(&both, &two), [(at("web-a"), 1), (at("web-b"), 1)]);
        assert_eq!(in_force(&carried(&both, &two, &one), &one), [(at("web"), 1)]);

        // Equal groups are told apart by their listeners, in any order.
        let before = config("a", "b", &["a", "b"]);
        let after = config("c", "d", &["d", "c"]);
        let set = carried(&[(at("a"), 1)].into(), &before, &after);
        assert_eq!(in_force(&set, &after), [(at("c"), 1)]);
    }

    #[test]
    fn all_groups_that_can_be_named_are_listed() {
        let pair = "[[primary_secondary_group]]\nname = \"db\"\n\
                    primary = { address = \"10.0.0.31\", port = 5432 }\n\
                    secondary = { address = \"10.0.0.32\", port = 5432 }\n[[server_group]]";
        let config = shop(&[("[[server_group]]", pair)]);
        assert_eq!(web("10.0.0.11:8080").groups(&config), ["web", "db"]);
        assert_eq!(of_default("10.0.0.21").groups(&config), ["shop"]);
    }
}
