//! Overrides: weights and admin states of single servers, set at run time in place of configured ones. Pure.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use super::model::{AdminState, GroupRef, OverrideKey};
use slb_config::model::{Config, Id, Name};

/// A server's entry by the name of its group, as users write and read it.
pub type NamedServer = OverrideKey<String>;

/// The override of one server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServerOverride {
    /// Weight, 0 to 100; `None` for the configured one.
    pub weight: Option<u8>,
    /// Admin state; `None` if enabled.
    pub state: Option<AdminState>,
}

/// Overrides by configuration entry.
pub type Overrides = BTreeMap<OverrideKey, ServerOverride>;

impl OverrideKey {
    /// The entry of the server `address` in a group.
    pub(super) fn of_server(group: GroupRef<'_>, address: SocketAddr) -> Self {
        match group {
            GroupRef::Named(id) => Self::Group { group: id.clone(), server: address },
            GroupRef::Default(id) => Self::Default { load_balancer: id.clone(), server: address.ip() },
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
                if let Some(found) = config.server_groups.iter().find(|known| known.id == *group) {
                    let servers = found.servers.iter();
                    return Some(servers.map(|s| entry(SocketAddr::new(s.address, s.port))).collect());
                }
                let pair = config.primary_secondary_groups.iter().find(|known| known.id == *group)?;
                Some(vec![entry(pair.primary), entry(pair.secondary)])
            }
            Self::Default { load_balancer, .. } => {
                let found = config.load_balancers.iter().find(|known| known.id == *load_balancer)?;
                let entry = |server| Self::Default { load_balancer: load_balancer.clone(), server };
                Some(found.servers.iter().map(|known| entry(known.address)).collect())
            }
        }
    }

    /// This entry by the name that its group has in the first of these configurations that has the group. By the id if
    /// none has.
    pub fn named<'a>(&self, configs: impl IntoIterator<Item = &'a Config>) -> NamedServer {
        let mut configs = configs.into_iter();
        match self {
            Self::Group { group, server } => {
                let name = configs.find_map(|config| name_of(groups(config), group));
                OverrideKey::Group { group: name.unwrap_or_else(|| group.to_string()), server: *server }
            }
            Self::Default { load_balancer: id, server } => {
                let name = configs.find_map(|config| name_of(load_balancers(config), id));
                OverrideKey::Default {
                    load_balancer: name.unwrap_or_else(|| id.to_string()),
                    server: *server,
                }
            }
        }
    }
}

impl NamedServer {
    /// The entry that the name stands for in a configuration; `None` if no group has the name.
    pub fn key(&self, config: &Config) -> Option<OverrideKey> {
        Some(match self {
            Self::Group { group, server } => {
                OverrideKey::Group { group: id_of(groups(config), group)?, server: *server }
            }
            Self::Default { load_balancer, server } => {
                let load_balancer = id_of(load_balancers(config), load_balancer)?;
                OverrideKey::Default { load_balancer, server: *server }
            }
        })
    }

    /// Names of all groups of this entry's kind: named groups, or load balancers for default groups.
    pub fn groups(&self, config: &Config) -> Vec<String> {
        match self {
            Self::Group { .. } => groups(config).map(|(_, name)| name.to_string()).collect(),
            Self::Default { .. } => load_balancers(config).map(|(_, name)| name.to_string()).collect(),
        }
    }
}

/// Id and name of the groups of both kinds.
fn groups(config: &Config) -> impl Iterator<Item = (&Id, &Name)> {
    let pairs = config.primary_secondary_groups.iter().map(|pair| (&pair.id, &pair.name));
    config.server_groups.iter().map(|group| (&group.id, &group.name)).chain(pairs)
}

fn load_balancers(config: &Config) -> impl Iterator<Item = (&Id, &Name)> {
    config.load_balancers.iter().map(|balancer| (&balancer.id, &balancer.name))
}

fn name_of<'a>(mut all: impl Iterator<Item = (&'a Id, &'a Name)>, id: &Id) -> Option<String> {
    all.find(|(known, _)| *known == id).map(|(_, name)| name.to_string())
}

fn id_of<'a>(mut all: impl Iterator<Item = (&'a Id, &'a Name)>, name: &str) -> Option<Id> {
    all.find(|(_, known)| known.as_str() == name).map(|(id, _)| id.clone())
}

impl<G: fmt::Display> OverrideKey<G> {
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

impl<G: fmt::Display> fmt::Display for OverrideKey<G> {
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

#[cfg(test)]
mod tests {
    use slb_common::abi::health::ServerHealth;

    use super::*;
    use crate::{
        desired::{ObservedInputs, desired},
        model::DesiredServer,
    };
    use slb_config::samples::shop;

    /// Without health checks, so that the servers count as able to serve.
    fn config() -> Config {
        shop(&[("tcp", "udp")])
    }

    fn web(server: &str) -> OverrideKey {
        OverrideKey::Group { group: "web".parse().unwrap(), server: server.parse().unwrap() }
    }

    fn of_default(server: &str) -> OverrideKey {
        OverrideKey::Default { load_balancer: "shop".parse().unwrap(), server: server.parse().unwrap() }
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
            OverrideKey::Group { group: "other".parse().unwrap(), server: "10.0.0.11:8080".parse().unwrap() };
        assert!(!other.exists(&config) && other.entries(&config).is_none());
    }

    #[test]
    fn override_stays_with_the_id_of_a_renamed_group() {
        let renamed = shop(&[
            ("name = \"web\"\nservers", "id = \"web\"\nname = \"www\"\nservers"),
            ("server_group = \"web\"", "server_group = \"www\""),
            ("name = \"shop\"", "id = \"shop\"\nname = \"store\""),
        ]);
        for (key, before, after) in [
            (web("10.0.0.11:8080"), "server group web", "server group www"),
            (of_default("10.0.0.21"), "default group of shop", "default group of store"),
        ] {
            assert!(key.exists(&config()) && key.exists(&renamed));
            assert_eq!(key.named([&config()]).group(), before);
            assert_eq!(key.named([&renamed, &config()]).group(), after);
            assert_eq!(key.named([&renamed]).key(&renamed), Some(key.clone()));
            assert_eq!(key.named([&renamed]).key(&config()), None, "the name of a group that is not there");
            let disabled = ServerOverride { weight: None, state: Some(AdminState::Disabled) };
            let overrides = Overrides::from([(key.clone(), disabled)]);
            let observations = ObservedInputs { overrides: Some(&overrides), ..ObservedInputs::default() };
            let pools = desired(&renamed, observations).pools;
            let mut servers = pools.into_iter().flat_map(|pool| pool.servers);
            assert!(servers.any(|(_, server)| server.server_override.as_ref() == Some(&key)), "{key}");
        }
    }

    #[test]
    fn override_does_not_follow_a_group_renamed_without_its_id() {
        let renamed = shop(&[("\"web\"", "\"www\""), ("\"shop\"", "\"store\"")]);
        for key in [web("10.0.0.11:8080"), of_default("10.0.0.21")] {
            assert!(!key.exists(&renamed) && key.entries(&renamed).is_none());
            assert_eq!(key.named([&renamed, &config()]), key.named([&config()]));
        }
        assert_eq!(web("10.0.0.11:8080").named([&renamed]).group(), "server group web", "the id");
    }

    /// A group that takes the name of another one does not take its overrides.
    #[test]
    fn override_follows_the_id_where_two_groups_swap_names() {
        let swapped = shop(&[
            ("name = \"web\"\nservers", "id = \"web\"\nname = \"old\"\nservers"),
            (
                "[[server_group]]",
                "[[server_group]]\nid = \"new\"\nname = \"web\"\n\
                 servers = [{ address = \"10.0.0.11\", port = 8080 }]\n[[server_group]]",
            ),
        ]);
        let key = web("10.0.0.11:8080");
        assert_eq!(key.named([&swapped]).group(), "server group old");
        let named = NamedServer::Group { group: "web".to_owned(), server: "10.0.0.11:8080".parse().unwrap() };
        let OverrideKey::Group { group, .. } = named.key(&swapped).unwrap() else { panic!("{named}") };
        assert_eq!(group.as_str(), "new");
    }

    #[test]
    fn groups_that_an_override_can_name_are_listed() {
        let pair = "[[primary_secondary_group]]\nname = \"db\"\n\
                    primary = { address = \"10.0.0.31\", port = 5432 }\n\
                    secondary = { address = \"10.0.0.32\", port = 5432 }\n[[server_group]]";
        let config = shop(&[("[[server_group]]", pair)]);
        assert_eq!(web("10.0.0.11:8080").named([&config]).groups(&config), ["web", "db"]);
        assert_eq!(of_default("10.0.0.21").named([&config]).groups(&config), ["shop"]);
    }
}
