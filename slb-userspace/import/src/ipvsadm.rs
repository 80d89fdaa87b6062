//! `ipvsadm -S`: one service or server on each line.

use std::{net::IpAddr, time::Duration};

use crate::{
    ImportError, ipvs,
    ledger::Ledger,
    limits,
    model::{Check, CheckKind, Mode, Model, Pool, Ports, Protocol, Scheduler, Server, Service, Vip},
    source::{Lines, Sources},
};

mod options;

use options::{Command, Rule};

const NAMES: &str = "numbers, as `ipvsadm -S -n` writes them";
const DEFAULT_PERSISTENCE: Duration = Duration::from_secs(300);

/// What the servers after a service line belong to.
struct Read {
    key: (Protocol, String),
    at: Lines,
    /// `None` if it is left out.
    service: Option<Service>,
    modes: Vec<(Lines, Mode)>,
    is_failover: bool,
}

/// Reads all lines.
pub(crate) fn read(sources: &Sources<'_>, ledger: &mut Ledger, model: &mut Model) -> Result<(), ImportError> {
    let mut services: Vec<Read> = Vec::new();
    for (index, line) in sources.text(0).lines().enumerate() {
        let at = Lines::one(0, index + 1);
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let rule = options::read(line).map_err(|(found, expected)| sources.error(at, found, expected))?;
        match rule.command {
            Command::Clear => {
                ledger.left_out(at, "SLB's file is a whole configuration: nothing is cleared before");
            }
            Command::Service => {
                let service = service(sources, ledger, at, &rule)?;
                if services.iter().any(|read| read.key == service.key) {
                    return Err(sources.error(at, "this service is a second one", "each service once"));
                }
                services.push(service);
            }
            Command::Server => {
                let key = (rule.protocol, rule.service.clone());
                let Some(read) = services.iter_mut().find(|read| read.key == key) else {
                    let expected = "a line `-A` of the server's service before it";
                    return Err(sources.error(at, "a server without its service", expected));
                };
                server(sources, ledger, model, (at, &rule), read)?;
            }
        }
    }
    for Read { service, modes, is_failover, .. } in services {
        let Some(mut service) = service else { continue };
        ipvs::one_mode(ledger, &mut service, &modes);
        if is_failover {
            ipvs::weighted_failover(&mut service);
        }
        model.services.push(service);
    }
    Ok(())
}

fn service(sources: &Sources<'_>, ledger: &mut Ledger, at: Lines, rule: &Rule) -> Result<Read, ImportError> {
    let key = (rule.protocol, rule.service.clone());
    let left_out = |ledger: &mut Ledger, key, reason: &str| {
        ledger.left_out(at, reason);
        Ok(Read { key, at, service: None, modes: Vec::new(), is_failover: false })
    };
    if let Some(reason) = rule.refused {
        return left_out(ledger, key, reason);
    }
    let Some((host, port)) = endpoint(&rule.service) else {
        return Err(sources.error(at, format!("`{}` is no address and port", rule.service), NAMES));
    };
    let Ok(vip) = host.parse::<IpAddr>() else {
        return left_out(
            ledger,
            key,
            "the VIP is a host name, which SLB does not look up: use `ipvsadm -S -n`",
        );
    };
    ledger.used(at);
    let hashes_port = rule.flags.iter().any(|flags| flags.contains("port") || flags.contains("flag-2"));
    let name = rule.scheduler.as_deref().unwrap_or("wlc");
    let scheduler = ipvs::scheduler(ledger, at, name, hashes_port);
    let persistence = match &rule.persistence {
        None | Some(Some(0)) => None,
        Some(None) => Some(DEFAULT_PERSISTENCE),
        Some(Some(seconds)) => Some(Duration::from_secs(*seconds)),
    };
    let persistence = persistence.map(|time| limits::PERSISTENCE.fit(ledger, at, time));
    for (option, reason) in &rule.without_counterpart {
        ledger.left_out(at, format!("`{option}`: {reason}"));
    }
    let protocol = rule.protocol;
    let word = if protocol == Protocol::Udp { "udp" } else { "tcp" };
    let name = format!("{word}-{vip}-{}", port.unwrap_or_default());
    let service = Service {
        at,
        sources: vec![at],
        name: name.clone(),
        vips: vec![(Vip::Address(vip), at)],
        protocol,
        ports: Ports::of(port.unwrap_or_default()),
        mode: Mode::Nat,
        scheduler,
        persistence,
        established_timeout: None,
        slow_start: None,
        // IPVS itself checks no servers.
        check: Check::new(CheckKind::None),
        primary: Pool { name, servers: Vec::new() },
        backup: Pool::default(),
        failover_threshold: None,
        is_stopped: false,
    };
    if protocol == Protocol::Tcp {
        ledger.changed(at, "IPVS checks no servers, and neither does this listener: write a `health_check`");
    }
    let is_failover = rule.scheduler.as_deref() == Some("fo");
    let service =
        Some(Service { scheduler: if is_failover { Scheduler::Maglev } else { scheduler }, ..service });
    Ok(Read { key, at, service, modes: Vec::new(), is_failover })
}

fn server(
    sources: &Sources<'_>,
    ledger: &mut Ledger,
    model: &mut Model,
    (at, rule): (Lines, &Rule),
    read: &mut Read,
) -> Result<(), ImportError> {
    let Some(service) = &mut read.service else {
        ledger.left_out(at, format!("its service in line {} is left out", read.at.first));
        return Ok(());
    };
    let Some((host, port)) = rule.server.as_deref().and_then(endpoint) else {
        let found = format!("`{}` is no address and port", rule.server.as_deref().unwrap_or_default());
        return Err(sources.error(at, found, NAMES));
    };
    ledger.used(at);
    let mode = rule.mode.unwrap_or(Mode::Dsr);
    if let (Mode::Gue, Some(port)) = (mode, rule.tunnel_port) {
        if model.gue_port.is_some_and(|other| other != port) {
            ledger.changed(at, "the port of GUE tunnels is one for all servers: `gue_port`");
        } else {
            model.gue_port = Some(port);
        }
    }
    for (option, reason) in &rule.without_counterpart {
        ledger.left_out(at, format!("`{option}`: {reason}"));
    }
    read.modes.push((at, mode));
    service.sources.push(at);
    let port = port.filter(|port| *port != 0);
    service.primary.servers.push(Server { at, host, port, weight: rule.weight.unwrap_or(1) });
    Ok(())
}

/// Host and port of `192.0.2.1:80`, `[2001:db8::1]:80`, `web.example:http`, or without a port.
fn endpoint(text: &str) -> Option<(String, Option<u16>)> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some((address.to_string(), None));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(options::port(port)?)),
        None => (text, None),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::endpoint;
    use crate::{Format, NoFiles, NoteKind, import};

    #[test]
    fn endpoints_have_both_families_and_names_of_ports() {
        assert_eq!(endpoint("192.0.2.1:80"), Some(("192.0.2.1".to_owned(), Some(80))));
        assert_eq!(endpoint("[2001:db8::1]:443"), Some(("2001:db8::1".to_owned(), Some(443))));
        assert_eq!(endpoint("2001:db8::1"), Some(("2001:db8::1".to_owned(), None)));
        assert_eq!(endpoint("web:http"), Some(("web".to_owned(), Some(80))));
        assert_eq!(endpoint("web:no-such-port"), None);
        assert_eq!(endpoint(":80"), None);
    }

    #[test]
    fn services_and_servers_become_listeners_and_groups() {
        let text = "-A -t 192.0.2.10:80 -s wrr -p 600\n\
                    -a -t 192.0.2.10:80 -r 10.0.0.1:80 -g -w 3\n\
                    -a -t 192.0.2.10:80 -r 10.0.0.2:8080 -g -w 1\n\
                    -A -u [2001:db8::10]:53 -s rr\n\
                    -a -u [2001:db8::10]:53 -r [fd00::1]:5353 -m -w 1\n\
                    -A -f 7 -s rr\n-a -f 7 -r 10.0.0.1:0 -m\n";
        let imported = import(Format::Ipvsadm, "dump", text, &NoFiles).expect("readable");
        let toml = &imported.toml;
        slb_config::parse("slb.toml", toml).unwrap_or_else(|error| panic!("{error}\n{toml}"));
        assert_eq!(imported.listeners, 2);
        for part in [
            "mode = \"dsr\"",
            "scheduler = \"wrr\"",
            "session_persistence = \"600s\"",
            "{ address = \"10.0.0.2\", port = 80, weight = 1 }",
            "{ address = \"fd00::1\", port = 5353 }",
        ] {
            assert!(toml.contains(part), "{part}\n{toml}");
        }
        let left_out: Vec<usize> = imported
            .notes
            .iter()
            .filter(|note| note.kind == NoteKind::LeftOut)
            .map(|note| note.first_line)
            .collect();
        assert_eq!(left_out, [6, 7]);
    }

    #[test]
    fn lines_of_another_format_are_refused_with_their_place() {
        for (text, line, part) in [
            ("-A -t 192.0.2.1:80 -s rr\nvirtual_server {\n", 2, "`-A`"),
            ("-a -t 192.0.2.1:80 -r 10.0.0.1:80 -m\n", 1, "without its service"),
            ("-A -t\n", 1, "`-t`"),
            ("-A -s rr\n", 1, "names no service"),
            ("-A -t 192.0.2.1:99999 -s rr\n", 1, "no address and port"),
            ("-A -t 192.0.2.1:80 -z\n", 1, "`-z`"),
        ] {
            let error = import(Format::Ipvsadm, "dump", text, &NoFiles).expect_err(text);
            assert_eq!(error.line, line, "{error}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn persistence_of_zero_seconds_is_none() {
        let text = "-A -t 192.0.2.1:80 -s rr -p 0\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -m\n";
        let imported = import(Format::Ipvsadm, "dump", text, &NoFiles).expect("readable");
        assert!(!imported.toml.contains("session_persistence ="), "{}", imported.toml);
    }
}
