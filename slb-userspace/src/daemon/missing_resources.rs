//! What the configuration names and this machine does not have, but may get: at boot the daemon may come before it. It is
//! warned of, at a start and with another configuration, and nothing is refused for it.

use std::net::IpAddr;

use super::ports::{Links, missing};
use crate::{config::model::Daemon, health::path};

/// What is named and not there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct MissingResources {
    interfaces: Vec<String>,
    probe_sources: Vec<IpAddr>,
}

impl MissingResources {
    /// What these settings name and is not there now; `links` are the interfaces that are.
    pub(super) fn of(settings: &Daemon, links: &Links) -> Self {
        Self {
            interfaces: missing(&settings.interfaces, links),
            probe_sources: settings
                .probe_source
                .iter()
                .copied()
                .filter(|source| !path::is_here(*source))
                .collect(),
        }
    }

    /// Says so in the log.
    pub(super) fn log(&self) {
        for name in &self.interfaces {
            tracing::warn!(interface = name, "there is no such interface yet: attached when it comes");
        }
        for source in &self.probe_sources {
            tracing::warn!(probe_source = %source, "there is no such address yet: {UNTIL}");
        }
    }

    /// Warnings for whoever has asked.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        let of_interface =
            |name: &String| format!("warning: there is no interface {name} yet: attached when it comes");
        let of_source =
            |source: &IpAddr| format!("warning: there is no address {source} yet, a probe_source: {UNTIL}");
        let interfaces = self.interfaces.iter().map(of_interface);
        interfaces.chain(self.probe_sources.iter().map(of_source))
    }
}

/// What comes of a source of probes that is not there.
const UNTIL: &str = "servers of its family are not probed until it comes";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::parsed;

    #[test]
    fn what_is_not_there_is_named() {
        // An address of every machine, and one that is for documentation only.
        let text = "[daemon]\ninterfaces = [\"lo\", \"absent0\"]\nprobe_source = [\"198.51.100.1\"]\n";
        let mut settings = parsed(text).daemon;
        let lo = crate::neigh::Link {
            index: 1,
            name: "lo".to_owned(),
            altnames: Vec::new(),
            mac: None,
            up: true,
            kind: None,
            xdp: None,
            mtu: 65_536,
            master: None,
            below: None,
        };
        let links = Links::from([(lo.name.clone(), lo)]);
        let warnings: Vec<_> = MissingResources::of(&settings, &links).warnings().collect();
        assert_eq!(
            warnings,
            [
                "warning: there is no interface absent0 yet: attached when it comes",
                "warning: there is no address 198.51.100.1 yet, a probe_source: servers of its family are not probed \
                 until it comes"
            ]
        );
        settings.interfaces.pop();
        settings.probe_source = vec![IpAddr::from([127, 0, 0, 1])];
        assert_eq!(MissingResources::of(&settings, &links), MissingResources::default());
    }
}
