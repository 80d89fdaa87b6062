//! Configured interfaces and addresses that this machine does not have yet: at boot the daemon may start before them.
//! They cause warnings and are never refused.

use std::net::IpAddr;

use super::{environment::Links, ports::missing};
use crate::health::path;
use slb_config::model::DaemonConfig;

/// Configured resources that do not exist now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct MissingResources {
    interfaces: Vec<String>,
    probe_sources: Vec<IpAddr>,
}

impl MissingResources {
    /// Resources of these settings that do not exist now. `links` are the existing interfaces.
    pub(super) fn of(settings: &DaemonConfig, links: &Links) -> Self {
        Self {
            interfaces: missing(&settings.interfaces, links),
            probe_sources: settings
                .probe_source
                .iter()
                .copied()
                .filter(|source| !path::is_own_address(*source))
                .collect(),
        }
    }

    /// Logs a warning for each.
    pub(super) fn log(&self) {
        for name in &self.interfaces {
            tracing::warn!(interface = name, "there is no such interface yet: attached when it appears");
        }
        for source in &self.probe_sources {
            tracing::warn!(probe_source = %source, "there is no such address yet: {UNTIL}");
        }
    }

    /// The warnings, for the answer to the caller.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        let of_interface =
            |name: &String| format!("warning: there is no interface {name} yet: attached when it appears");
        let of_source =
            |source: &IpAddr| format!("warning: there is no address {source} yet, a probe_source: {UNTIL}");
        let interfaces = self.interfaces.iter().map(of_interface);
        interfaces.chain(self.probe_sources.iter().map(of_source))
    }
}

/// Consequence of a missing probe source.
const UNTIL: &str = "servers of its family are not probed until it appears";

#[cfg(test)]
mod tests {
    use super::*;
    use slb_config::samples::parsed;

    #[test]
    fn missing_interfaces_and_probe_sources_are_named() {
        // An address of every machine, and one reserved for documentation (RFC 5737).
        let text = "[daemon]\ninterfaces = [\"lo\", \"absent0\"]\nprobe_source = [\"198.51.100.1\"]\n";
        let mut settings = parsed(text).daemon;
        let lo = crate::neigh::Link {
            index: 1,
            name: "lo".to_owned(),
            altnames: Vec::new(),
            mac: None,
            up: true,
            is_enabled: true,
            kind: None,
            xdp: None,
            mtu: 65_536,
            master: None,
            vlan: None,
            below: None,
        };
        let links = Links::from([(lo.name.clone(), lo)]);
        let warnings: Vec<_> = MissingResources::of(&settings, &links).warnings().collect();
        assert_eq!(
            warnings,
            [
                "warning: there is no interface absent0 yet: attached when it appears",
                "warning: there is no address 198.51.100.1 yet, a probe_source: servers of its family are not probed until it appears"
            ]
        );
        settings.interfaces.pop();
        settings.probe_source = vec![IpAddr::from([127, 0, 0, 1])];
        assert_eq!(MissingResources::of(&settings, &links), MissingResources::default());
    }
}
