//! Configurations that tests begin with.

use super::{Config, parse};

/// One without problems: a load balancer with a listener of its default group and one of a server group.
pub(crate) const SHOP: &str = r#"[daemon]
interfaces = ["eth0"]

[[load_balancer]]
name = "shop"
addresses = ["192.0.2.10"]

[[load_balancer.server]]
address = "10.0.0.21"

[[load_balancer.listener]]
name = "dns"
protocol = "udp"
port = 53
backend_port = 5353

[[load_balancer.listener]]
name = "web"
protocol = "tcp"
port = 80
server_group = "web"

[[server_group]]
name = "web"
servers = [
  { address = "10.0.0.11", port = 8080 },
  { address = "10.0.0.12", port = 8081 },
]
"#;

/// Parses a text that is without errors.
pub(crate) fn parsed(text: &str) -> Config {
    parse("sample.toml", text).unwrap_or_else(|rejected| panic!("{rejected}\n{text}")).config
}

/// Parses what stands behind the settings of the daemon.
pub(crate) fn forwarding(text: &str) -> Config {
    parsed(&format!("[daemon]\ninterfaces = [\"eth0\"]\n{text}"))
}

/// [`SHOP`] with pieces replaced, each of which stands in it.
pub(crate) fn shop(replaced: &[(&str, &str)]) -> Config {
    parsed(&replaced.iter().fold(SHOP.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from:?} must stand in the base");
        text.replace(from, to)
    }))
}
