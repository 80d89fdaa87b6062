//! Overrides: weights and admin states of single servers, set at run time in place of configured ones. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

mod group_uses;

use self::group_uses::GroupUses;
use super::listener_servers::Side;
use crate::dataplane::state::MapState;
use slb_config::{
    difference::pairs::{Renames, renames},
    model::{Config, Listener, ListenerTarget, LoadBalancer, Name},
};

/// A server's entry in the configuration, to which an override applies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum OverrideKey {
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
pub struct ServerOverride {
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
pub type Overrides = BTreeMap<OverrideKey, ServerOverride>;

impl OverrideKey {
    /// The entry of the server `address` behind a listener, on one of its sides.
    pub(super) fn of_server(
        balancer: &LoadBalancer,
        listener: &Listener,
        side: Side,
        address: SocketAddr,
    ) -> Self {
        let group = |name: &Name| Self::Group { group: name.to_string(), server: address };
        match &listener.target {
            ListenerTarget::DefaultGroup { .. } => {
                Self::Default { load_balancer: balancer.name.to_string(), server: address.ip() }
            }
            ListenerTarget::ServerGroup(name) | ListenerTarget::PrimarySecondaryGroup(name) => group(name),
            ListenerTarget::PrimarySecondary { primary, secondary, .. } => {
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
pub fn carry_over<V: Clone>(
    set: &BTreeMap<OverrideKey, V>,
    old: &Config,
    new: &Config,
) -> BTreeMap<OverrideKey, V> {
    if old == new {
        return set.clone();
    }
    let (there, back) = (renames(old, new), renames(new, old));
    let (used, uses) = (GroupUses::of(old), GroupUses::of(new));
    let was = |override_key: &OverrideKey| renamed_keys(override_key, &uses, &used, (new, old), &back);
    let is = |override_key: &OverrideKey| renamed_keys(override_key, &used, &uses, (old, new), &there);
    // Drops overrides of the new names first, so that one removed under the old name goes too.
    let mut carry_over = set.clone();
    carry_over.retain(|override_key, _| was(override_key).is_empty());
    for (override_key, value) in set {
        carry_over.extend(is(override_key).into_iter().map(|is| (is, value.clone())));
    }
    carry_over
}

/// The entries in `new` that correspond to one whose group no longer exists. Groups that its listeners now use come
/// first, else the group with the same servers.
fn renamed_keys(
    override_key: &OverrideKey,
    used: &GroupUses,
    uses: &GroupUses,
    (old, new): (&Config, &Config),
    renames: &Renames,
) -> BTreeSet<OverrideKey> {
    let successors = used.successors(override_key, uses, new);
    if successors.is_empty() { override_key.renamed(old, renames).into_iter().collect() } else { successors }
}

/// As [`carry_over`] at a start, from the services that the maps hold. An override of the new name has priority.
pub fn carry_over_from_maps<V: Clone>(
    set: &BTreeMap<OverrideKey, V>,
    actual: &MapState,
    new: &Config,
) -> BTreeMap<OverrideKey, V> {
    let (used, uses) = (GroupUses::from_maps(actual), GroupUses::of(new));
    let mut carry_over = set.clone();
    for (override_key, value) in set {
        for is in used.successors(override_key, &uses, new) {
            carry_over.entry(is).or_insert_with(|| value.clone());
        }
    }
    carry_over
}

impl fmt::Display for OverrideKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: server {}", self.group(), self.server())
    }
}

impl ServerOverride {
    /// Whether the override changes nothing.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl fmt::Display for ServerOverride {
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
        dataplane::fake::FakeDataPlane,
        desired::{DesiredServer, ObservedInputs, ServerHealth, desired},
        ids::MapLimits,
        reconcile::Reconciler,
    };
    use slb_config::samples::{forwarding, shop};

    /// Without health checks, so that the servers count as able to serve.
    fn config() -> Config {
        shop(&[("tcp", "udp")])
    }

    fn web(server: &str) -> OverrideKey {
        OverrideKey::Group { group: "web".to_owned(), server: server.parse().unwrap() }
    }

    fn of_default(server: &str) -> OverrideKey {
        OverrideKey::Default { load_balancer: "shop".to_owned(), server: server.parse().unwrap() }
    }

    fn servers(overrides: &Overrides) -> Vec<DesiredServer> {
        let desired =
            desired(&config(), ObservedInputs { overrides: Some(overrides), ..ObservedInputs::default() });
        desired.pools.into_iter().flat_map(|pool| pool.servers).map(|(_, server)| server).collect()
    }

    #[test]
    fn weight_override_replaces_the_configured_weight() {
        let weight = ServerOverride { weight: Some(7), state: None };
        let servers = servers(&[(web("10.0.0.12:8081"), weight)].into());
        assert_eq!(servers.iter().map(|server| server.weight).collect::<Vec<_>>(), [100, 100, 7]);
        assert_eq!(servers[2].server_override, Some(web("10.0.0.12:8081")));
        assert_eq!(servers[0].server_override, None);
    }

    #[test]
    fn drained_or_disabled_server_takes_no_new_flows_and_stays_alive() {
        for state in [AdminState::Draining, AdminState::Disabled] {
            let admin_state = ServerOverride { weight: None, state: Some(state) };
            let [mut dns, web, _] =
                <[DesiredServer; 3]>::try_from(servers(&[(of_default("10.0.0.21"), admin_state)].into()))
                    .unwrap();
            assert_eq!((dns.admin_state, web.admin_state), (Some(state), None));
            assert_eq!((dns.health, dns.weight), (ServerHealth::Unchecked, 100));
            dns.next_hop = Some(Default::default());
            assert!(!dns.accepts_new_flows() && dns.is_alive());
            dns.admin_state = None;
            assert!(dns.accepts_new_flows());
        }
    }

    #[test]
    fn override_matches_entries_of_its_own_group_only() {
        let config = config();
        assert!(web("10.0.0.11:8080").exists(&config) && of_default("10.0.0.21").exists(&config));
        assert!(!web("10.0.0.11:8082").exists(&config) && !of_default("10.0.0.11").exists(&config));
        let other =
            OverrideKey::Group { group: "other".to_owned(), server: "10.0.0.11:8080".parse().unwrap() };
        assert!(!other.exists(&config) && other.entries(&config).is_none());
    }

    #[test]
    fn overrides_follow_a_rename_and_its_reversal() {
        let (before, after) = (config(), shop(&[("\"web\"", "\"www\""), ("\"shop\"", "\"store\"")]));
        let renamed = |override_key: &OverrideKey| match override_key.clone() {
            OverrideKey::Group { server, .. } => OverrideKey::Group { group: "www".to_owned(), server },
            OverrideKey::Default { server, .. } => {
                OverrideKey::Default { load_balancer: "store".to_owned(), server }
            }
        };
        let (one, two) = (web("10.0.0.11:8080"), of_default("10.0.0.21"));
        let set = BTreeMap::from([(one.clone(), 1), (two.clone(), 2)]);
        let both = carry_over(&set, &before, &after);
        let expected: BTreeMap<_, _> =
            set.iter().map(|(override_key, value)| (renamed(override_key), *value)).collect();
        assert!(
            both.iter().filter(|(override_key, _)| override_key.exists(&after)).eq(&expected),
            "{both:?}"
        );
        assert!(
            both.iter().filter(|(override_key, _)| override_key.exists(&before)).eq(&set),
            "it may return: {both:?}"
        );
        // An override changed under the new name stays when the old name returns.
        let mut changed = both.clone();
        changed.remove(&renamed(&one));
        changed.insert(renamed(&two), 3);
        let back = carry_over(&changed, &after, &before);
        let back: Vec<_> =
            back.into_iter().filter(|(override_key, _)| override_key.exists(&before)).collect();
        assert_eq!(back, [(two, 3)]);
        assert_eq!(carry_over(&set, &before, &before), set);
    }

    #[test]
    fn overrides_follow_the_listener_to_a_changed_group() {
        let one = web("10.0.0.11:8080");
        let www =
            |server: &str| OverrideKey::Group { group: "www".to_owned(), server: server.parse().unwrap() };
        let set = BTreeMap::from([(one.clone(), 1), (web("10.0.0.12:8081"), 2)]);
        let before = config();
        let after = shop(&[("tcp", "udp"), ("\"web\"", "\"www\""), ("10.0.0.12", "10.0.0.13")]);
        let both = carry_over(&set, &before, &after);
        let there: Vec<_> = both.iter().filter(|(override_key, _)| override_key.exists(&after)).collect();
        assert_eq!(there, [(&www("10.0.0.11:8080"), &1)]);
        let back = carry_over(&both, &after, &before);
        assert!(back.iter().filter(|(override_key, _)| override_key.exists(&before)).eq(&set), "{back:?}");
        let mut changed = both;
        changed.remove(&www("10.0.0.11:8080"));
        let back = carry_over(&changed, &after, &before);
        assert!(!back.contains_key(&one), "reset under its other name: {back:?}");

        // The next start finds the override under whichever name is configured.
        let mut reconciler =
            Reconciler::new(FakeDataPlane::default(), MapLimits { max_backends: 8, ..MapLimits::default() });
        reconciler.reconcile(&desired(&before, ObservedInputs::default()), Default::default()).unwrap();
        let actual = reconciler.actual().unwrap();
        let since = carry_over_from_maps(&set, actual, &after);
        assert_eq!(since.get(&www("10.0.0.11:8080")), Some(&1));
        assert_eq!(carry_over_from_maps(&set, actual, &before), set);
        let newer = set.clone().into_iter().chain([(www("10.0.0.11:8080"), 3)]).collect();
        assert_eq!(carry_over_from_maps(&newer, actual, &after), newer);

        // A group that other listeners use already is not the renamed one.
        let other = |web: &str| {
            shop(&[
                ("tcp", "udp"),
                ("server_group = \"web\"", web),
                ("default_group_port = 5353", "server_group = \"other\""),
                (
                    "[[server_group]]",
                    "[[server_group]]\nname = \"other\"\nservers = [{ address = \"10.0.0.11\", port = 8080 }]\n[[server_group]]",
                ),
            ])
        };
        let (before, after) = (other("server_group = \"web\""), other("server_group = \"other\""));
        let after = Config { server_groups: after.server_groups[..1].to_vec(), ..after };
        assert_eq!(carry_over(&set, &before, &after), set);
    }

    /// Two listeners of one group get one group each.
    #[test]
    fn overrides_follow_each_group_of_a_split() {
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
        let at = |name: &str| OverrideKey::Group {
            group: name.to_owned(),
            server: "10.0.0.11:8080".parse().unwrap(),
        };
        let one = config("web", "web", &["web"]);
        let two = config("web-a", "web-b", &["web-a", "web-b"]);
        let effective = |set: &BTreeMap<OverrideKey, i32>, config: &Config| -> Vec<(OverrideKey, i32)> {
            set.clone().into_iter().filter(|(override_key, _)| override_key.exists(config)).collect()
        };
        let both = carry_over(&[(at("web"), 1)].into(), &one, &two);
        assert_eq!(effective(&both, &two), [(at("web-a"), 1), (at("web-b"), 1)]);
        assert_eq!(effective(&carry_over(&both, &two, &one), &one), [(at("web"), 1)]);

        // Equal groups are told apart by their listeners, in any order.
        let before = config("a", "b", &["a", "b"]);
        let after = config("c", "d", &["d", "c"]);
        let set = carry_over(&[(at("a"), 1)].into(), &before, &after);
        assert_eq!(effective(&set, &after), [(at("c"), 1)]);
    }

    #[test]
    fn groups_that_an_override_can_name_are_listed() {
        let pair = "[[primary_secondary_group]]\nname = \"db\"\n\
                    primary = { address = \"10.0.0.31\", port = 5432 }\n\
                    secondary = { address = \"10.0.0.32\", port = 5432 }\n[[server_group]]";
        let config = shop(&[("[[server_group]]", pair)]);
        assert_eq!(web("10.0.0.11:8080").groups(&config), ["web", "db"]);
        assert_eq!(of_default("10.0.0.21").groups(&config), ["shop"]);
    }
}
