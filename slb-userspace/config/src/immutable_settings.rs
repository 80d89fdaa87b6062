//! Settings that cannot change while the daemon runs. Pure.

use std::fmt::Display;

use super::model::{DaemonConfig, XdpMode};

/// For each setting of `wanted` that differs from `running` and cannot change: the reason and what to do instead.
pub fn violations(running: &DaemonConfig, wanted: &DaemonConfig) -> Vec<String> {
    const RESTART: &str = "restart slbd for it to take effect: forwarding continues meanwhile";
    const DETACH: &str = "stop slbd, run `slbd detach`, which interrupts forwarding, and start it again";
    let mut refused = Vec::new();
    let mut fixed = |key: &str, running: &dyn Display, wanted: &dyn Display, instead: &str| {
        let (running, wanted) = (running.to_string(), wanted.to_string());
        if running != wanted {
            refused.push(format!(
                "`[daemon] {key}` cannot change from {running} to {wanted} while slbd runs: {instead}; or write \
                 `{key} = {running}`"
            ));
        }
    };
    let with_old = format!("{DETACH} (the first two with the configuration as it was)");
    let quoted = |path: &std::path::Path| format!("{:?}", path.display().to_string());
    fixed("pin_dir", &quoted(&running.pin_dir), &quoted(&wanted.pin_dir), &with_old);
    fixed("socket", &quoted(&running.socket), &quoted(&wanted.socket), RESTART);
    let read_only =
        |daemon: &DaemonConfig| daemon.read_only_socket.as_deref().map_or("\"off\"".to_owned(), quoted);
    fixed("read_only_socket", &read_only(running), &read_only(wanted), RESTART);
    let metrics = |daemon: &DaemonConfig| {
        daemon.metrics_address.map_or("\"off\"".to_owned(), |address| format!("\"{address}\""))
    };
    fixed("metrics_address", &metrics(running), &metrics(wanted), RESTART);
    fixed("state_dir", &quoted(&running.state_dir), &quoted(&wanted.state_dir), RESTART);
    fixed("flow_table_entries", &running.flow_table_entries, &wanted.flow_table_entries, RESTART);
    fixed("max_servers", &running.max_servers, &wanted.max_servers, DETACH);
    let seed = "restart slbd for it to take effect: untracked connections then move";
    fixed("hash_seed", &running.seed(), &wanted.seed(), seed);
    fixed("xdp_mode", &mode(running.xdp_mode), &mode(wanted.xdp_mode), DETACH);
    // Servers and tables would have to change atomically: tunnel headers in between would have a wrong checksum.
    fixed(
        "tunnel_sources",
        &quoted_list(&running.tunnel_sources),
        &quoted_list(&wanted.tunnel_sources),
        RESTART,
    );
    for address in
        running.tunnel_addresses.iter().filter(|address| !wanted.tunnel_addresses.contains(address))
    {
        refused.push(format!(
            "`[daemon] tunnel_addresses` cannot lose {address} while slbd runs: {RESTART}; or write \
             `tunnel_addresses = {}`",
            quoted_list(&running.tunnel_addresses)
        ));
    }
    refused
}

/// A list as the configuration file has it.
fn quoted_list(items: &[impl Display]) -> String {
    let quoted: Vec<_> = items.iter().map(|item| format!("\"{item}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

fn mode(mode: XdpMode) -> &'static str {
    match mode {
        XdpMode::Auto => "\"auto\"",
        XdpMode::Native => "\"native\"",
        XdpMode::Generic => "\"generic\"",
    }
}

#[cfg(test)]
mod tests {
    use super::violations;
    use crate::{model::DaemonConfig, parse};

    fn daemon(lines: &str) -> DaemonConfig {
        let text = format!("[daemon]\ninterfaces = [\"eth0\"]\n{lines}\n");
        parse("slb.toml", &text).unwrap_or_else(|rejected| panic!("{rejected}")).config.daemon
    }

    #[test]
    fn change_of_a_fixed_setting_is_refused_with_a_remedy() {
        for (line, word) in [
            ("pin_dir = \"/sys/fs/bpf/other\"", "slbd detach"),
            ("socket = \"/run/other.sock\"", "restart slbd"),
            ("read_only_socket = \"/run/status.sock\"", "restart slbd"),
            ("metrics_address = \"127.0.0.1:9813\"", "restart slbd"),
            ("state_dir = \"/var/lib/other\"", "restart slbd"),
            ("flow_table_entries = 1024", "restart slbd"),
            ("max_servers = 1024", "slbd detach"),
            ("hash_seed = 1", "restart slbd"),
            ("xdp_mode = \"generic\"", "slbd detach"),
        ] {
            let refused = violations(&daemon(""), &daemon(line));
            let key = line.split(' ').next().unwrap_or_default();
            assert_eq!(refused.len(), 1, "{refused:?}");
            assert!(
                refused[0].contains(&format!("`[daemon] {key}`")) && refused[0].contains(word),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn refusal_names_the_value_to_restore() {
        let refused = violations(&daemon(""), &daemon("hash_seed = 1"));
        assert_eq!(
            refused,
            [
                "`[daemon] hash_seed` cannot change from 0 to 1 while slbd runs: restart slbd for it to take effect: \
              untracked connections then move; or write `hash_seed = 0`"
            ]
        );
    }

    #[test]
    fn tunnel_sources_are_fixed_while_slbd_runs() {
        let with = |text: &str| daemon(&format!("tunnel_sources = [{text}]"));
        assert!(violations(&with("\"10.200.0.0/16\""), &with("\"10.200.0.0/16\"")).is_empty());
        for (running, wanted) in [("", "\"10.200.0.0/16\""), ("\"10.200.0.0/16\"", "")] {
            let refused = violations(&with(running), &with(wanted));
            assert!(refused[0].contains(&format!("tunnel_sources = [{running}]")), "{refused:?}");
        }
    }

    #[test]
    fn tunnel_addresses_may_be_added_and_not_removed() {
        let with = |text: &str| daemon(&format!("tunnel_addresses = [{text}]"));
        assert!(violations(&daemon(""), &with("\"10.0.0.5\"")).is_empty());
        assert!(violations(&with("\"10.0.0.5\""), &with("\"fd00::5\", \"10.0.0.5\"")).is_empty());
        let refused = violations(&with("\"10.0.0.5\""), &with("\"10.0.0.6\""));
        assert!(
            refused[0].contains("cannot lose 10.0.0.5") && refused[0].contains("[\"10.0.0.5\"]"),
            "{refused:?}"
        );
    }
}
