//! Configurations for tests.

use super::{Config, parse};

/// A valid configuration: a load balancer with one listener on its default server group and one on a server group.
pub const SHOP: &str = r#"[daemon]
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
default_group_port = 5353

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

/// Parses a text without errors.
pub fn parsed(text: &str) -> Config {
    parse("sample.toml", text).unwrap_or_else(|rejected| panic!("{rejected}\n{text}")).config
}

/// Parses a text that is preceded by `[daemon]` settings.
pub fn forwarding(text: &str) -> Config {
    parsed(&format!("[daemon]\ninterfaces = [\"eth0\"]\n{text}"))
}

/// [`SHOP`] with replacements. Each replaced text must occur in it.
pub fn shop(replaced: &[(&str, &str)]) -> Config {
    parsed(&replaced.iter().fold(SHOP.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from:?} must stand in the base");
        text.replace(from, to)
    }))
}
