//! The listeners that use a server or a health check, for the fields of log lines. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::{
    listener_servers::{ServerGroups, group_of, running},
    model::Side,
};
use crate::inputs::Target;
use slb_config::model::Config;

/// Names of one kind that a log line lists at most.
const MAX_NAMES: usize = 3;

/// A listener, with the server group of one of its sides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ListenerSide {
    load_balancer: String,
    listener: String,
    server_group: Option<String>,
    check: Option<&'static str>,
}

/// The running listeners, by server and health check.
#[derive(Debug, Default)]
pub struct ListenerIndex {
    all: Vec<ListenerSide>,
    targets: BTreeMap<Target, Vec<usize>>,
    servers: BTreeMap<SocketAddr, Vec<usize>>,
    /// The health checks of a server endpoint. They may probe another port.
    checks: BTreeMap<SocketAddr, BTreeSet<Target>>,
}

/// Users as texts: at most three names of each kind, then how many more. A field is `None` if there is no name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogNames {
    /// Names of load balancers.
    pub load_balancer: Option<String>,
    /// Names of listeners; as `load balancer/listener` if there are several load balancers.
    pub listener: Option<String>,
    /// Names of server groups. A default server group has none.
    pub server_group: Option<String>,
    /// Kinds of health checks.
    pub check: Option<String>,
}

impl ListenerIndex {
    /// The users in these configurations together.
    pub fn of<'a>(configs: impl IntoIterator<Item = &'a Config>) -> Self {
        let mut known = BTreeMap::new();
        let mut users = Self::default();
        for config in configs {
            let members = ServerGroups::of(config);
            for (balancer, listener) in running(config) {
                let servers = members.servers_behind(balancer, listener).servers;
                for side in [Side::Primary, Side::Secondary] {
                    let user = ListenerSide {
                        load_balancer: balancer.name.to_string(),
                        listener: listener.name.to_string(),
                        server_group: group_of(listener, side).map(ToString::to_string),
                        check: listener.health_check.as_ref().map(|check| check.kind.name()),
                    };
                    let next = users.all.len();
                    let user = *known.entry(user).or_insert_with_key(|user| {
                        users.all.push(user.clone());
                        next
                    });
                    for member in servers.iter().filter(|member| member.weight(side).is_some()) {
                        note(users.servers.entry(member.address).or_default(), user);
                        let target =
                            member.is_checked.then(|| Target::of(balancer, listener, member.address));
                        if let Some(target) = target.flatten() {
                            users.checks.entry(member.address).or_default().insert(target.clone());
                            note(users.targets.entry(target).or_default(), user);
                        }
                    }
                }
            }
        }
        users
    }

    /// All targets of health checks.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        self.targets.keys()
    }

    /// Whether the target has a health check.
    pub fn check(&self, target: &Target) -> bool {
        self.targets.contains_key(target)
    }

    /// The users of a health check.
    pub fn of_target(&self, target: &Target) -> LogNames {
        self.named(self.targets.get(target).into_iter().flatten().copied())
    }

    /// The users of several health checks together.
    pub fn of_targets<'a>(&self, targets: impl IntoIterator<Item = &'a Target>) -> LogNames {
        self.named(targets.into_iter().filter_map(|target| self.targets.get(target)).flatten().copied())
    }

    /// The users of the servers with these addresses, on any port.
    pub fn of_servers(&self, addresses: &[IpAddr]) -> LogNames {
        let ports = |address: &IpAddr| SocketAddr::new(*address, 0)..=SocketAddr::new(*address, u16::MAX);
        let servers = addresses.iter().flat_map(|address| self.servers.range(ports(address)));
        self.named(servers.flat_map(|(_, users)| users).copied())
    }

    /// The users of a server endpoint.
    pub fn of_endpoint(&self, server: &SocketAddr) -> LogNames {
        self.named(self.servers.get(server).into_iter().flatten().copied())
    }

    /// The health checks of a server endpoint.
    pub fn checks_of(&self, server: &SocketAddr) -> impl Iterator<Item = &Target> + use<'_> {
        self.checks.get(server).into_iter().flatten()
    }

    fn named(&self, users: impl Iterator<Item = usize>) -> LogNames {
        named(&users.filter_map(|user| self.all.get(user)).collect())
    }
}

/// Kind of the health check of a listener; `None` if it has none or does not exist.
pub fn check_of(config: &Config, load_balancer: &str, listener: &str) -> Option<&'static str> {
    let balancer = config.load_balancers.iter().find(|balancer| balancer.name.as_str() == load_balancer)?;
    let listener = balancer.listeners.iter().find(|known| known.name.as_str() == listener)?;
    listener.health_check.as_ref().map(|check| check.kind.name())
}

/// Names of these listeners, as (load balancer, listener), and of the server group that they share.
pub fn of_listeners(config: &Config, listeners: &[(String, String)], server_group: Option<&str>) -> LogNames {
    let user = |(load_balancer, listener): &(String, String)| ListenerSide {
        check: check_of(config, load_balancer, listener),
        load_balancer: load_balancer.clone(),
        listener: listener.clone(),
        server_group: server_group.map(str::to_owned),
    };
    let users: Vec<_> = listeners.iter().map(user).collect();
    named(&users.iter().collect())
}

fn named(users: &BTreeSet<&ListenerSide>) -> LogNames {
    let balancers: BTreeSet<_> = users.iter().map(|user| user.load_balancer.as_str()).collect();
    let listener = |user: &&ListenerSide| match balancers.len() {
        1 => user.listener.clone(),
        _ => format!("{}/{}", user.load_balancer, user.listener),
    };
    LogNames {
        listener: join_names(&users.iter().map(listener).collect()),
        load_balancer: join_names(&balancers),
        server_group: join_names(&users.iter().filter_map(|user| user.server_group.as_deref()).collect()),
        check: join_names(&users.iter().filter_map(|user| user.check).collect()),
    }
}

/// Adds a user unless it was added last.
fn note(users: &mut Vec<usize>, user: usize) {
    if users.last() != Some(&user) {
        users.push(user);
    }
}

/// The first names, and how many more there are; `None` without names.
pub fn join_names<T: ToString>(names: &BTreeSet<T>) -> Option<String> {
    let mut words: Vec<_> = names.iter().take(MAX_NAMES).map(ToString::to_string).collect();
    let last = words.pop()?;
    let more = names.len().saturating_sub(MAX_NAMES);
    words.push(if more == 0 { last } else { format!("{last} and {more} more") });
    Some(words.join(", "))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use slb_config::samples::{forwarding, shop};

    fn target(config: &Config, server: &str) -> Target {
        let all = super::super::targets::targets(config);
        all.into_iter().find(|target| target.address.to_string() == server).unwrap()
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn users_of_a_server_and_its_check_are_listener_and_group() {
        let config = shop(&[(
            "server_group = \"web\"\n",
            "server_group = \"web\"\nhealth_check = { kind = \"http\", path = \"/\" }\n",
        )]);
        let users = ListenerIndex::of([&config]);
        let web = LogNames {
            load_balancer: some("shop"),
            listener: some("web"),
            server_group: some("web"),
            check: some("http"),
        };
        assert_eq!(users.of_target(&target(&config, "10.0.0.11:8080")), web);
        assert_eq!(users.of_servers(&["10.0.0.12".parse().unwrap()]), web);
        assert_eq!(users.of_endpoint(&"10.0.0.12:8081".parse().unwrap()), web);
        assert_eq!(users.of_endpoint(&"10.0.0.12:8080".parse().unwrap()), LogNames::default());
        let default = users.of_servers(&["10.0.0.21".parse().unwrap()]);
        assert_eq!((default.listener, default.server_group), (some("dns"), None));
        assert_eq!(users.of_servers(&["10.0.0.99".parse().unwrap()]), LogNames::default());
    }

    #[test]
    fn checks_of_a_server_are_found_by_its_port_not_the_check_port() {
        let group = "server_group = \"web\"\n";
        let check = format!("{group}health_check = {{ kind = \"http\", path = \"/\", port = 9000 }}\n");
        let users = ListenerIndex::of([&shop(&[(group, &check)])]);
        let checks = |server: &str| {
            let checks = users.checks_of(&server.parse().unwrap());
            checks.map(|target| target.address.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(checks("10.0.0.11:8080"), ["10.0.0.11:9000"]);
        assert_eq!(checks("10.0.0.11:9000"), [""; 0], "another server of the same address");
    }

    #[test]
    fn pending_configuration_adds_only_its_new_users() {
        let (before, after) = (shop(&[]), shop(&[("name = \"web\"\nprotocol", "name = \"www\"\nprotocol")]));
        let named = ListenerIndex::of([&before, &after]).of_servers(&["10.0.0.11".parse().unwrap()]);
        assert_eq!((named.listener, named.server_group), (some("web, www"), some("web")));
        let named = ListenerIndex::of([&before, &before]).of_servers(&["10.0.0.11".parse().unwrap()]);
        assert_eq!(named.listener, some("web"));
    }

    #[test]
    fn check_of_a_listener_is_that_of_the_active_configuration() {
        let with = |check: &str| {
            let group = "server_group = \"web\"\n";
            shop(&[(group, &format!("{group}health_check = {{ {check} }}\n"))])
        };
        let (before, after) = (with("kind = \"tcp\""), with("kind = \"http\", path = \"/\""));
        let check = |config| check_of(config, "shop", "web");
        assert_eq!((check(&before), check(&after)), (Some("tcp"), Some("http")));
        assert_eq!(check_of(&after, "shop", "mail"), None);
        let named = |config| of_listeners(config, &[("shop".to_owned(), "web".to_owned())], Some("web"));
        assert_eq!((named(&before).check, named(&after).check), (some("tcp"), some("http")));
    }

    #[test]
    fn users_in_several_load_balancers_are_qualified_and_counted() {
        let mut text = String::new();
        for n in 0..5 {
            write!(
                text,
                "[[load_balancer]]\nname = \"lb{n}\"\naddresses = [\"192.0.2.1{n}\"]\n\
                 [[load_balancer.listener]]\nname = \"web\"\nprotocol = \"tcp\"\nport = 80\nserver_group = \"g\"\n"
            )
            .unwrap();
        }
        text += "[[server_group]]\nname = \"g\"\nservers = [{ address = \"10.0.0.11\", port = 80 }]\n";
        let named = ListenerIndex::of([&forwarding(&text)]).of_servers(&["10.0.0.11".parse().unwrap()]);
        assert_eq!(named.load_balancer, some("lb0, lb1, lb2 and 2 more"));
        assert_eq!(named.listener, some("lb0/web, lb1/web, lb2/web and 2 more"));
        assert_eq!(named.server_group, some("g"));
    }

    #[test]
    fn each_side_names_its_own_group() {
        let listener = "server_group = \"web\"\n";
        let sides = "primary = \"web\"\nsecondary = \"spare\"\n\
                     failover_threshold = 1\n";
        let spare = "[[server_group]]\nname = \"spare\"\nservers = [{ address = \"10.0.0.31\", port = 80 }]\n\
                     [[server_group]]\nname = \"web\"\n";
        let config = shop(&[(listener, sides), ("[[server_group]]\nname = \"web\"\n", spare)]);
        let users = ListenerIndex::of([&config]);
        let group = |address: &str| users.of_servers(&[address.parse().unwrap()]).server_group;
        assert_eq!((group("10.0.0.11"), group("10.0.0.31")), (some("web"), some("spare")));
    }
}
