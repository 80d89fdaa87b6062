//! Options of ipvsadm, short and long.

use crate::model::{Mode, Protocol};

/// What a line does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Service,
    Server,
    Clear,
}

/// A line with its options.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) command: Command,
    pub(super) protocol: Protocol,
    /// Address and port of the service, or its mark.
    pub(super) service: String,
    /// Why SLB cannot have this service.
    pub(super) refused: Option<&'static str>,
    pub(super) scheduler: Option<String>,
    pub(super) flags: Option<String>,
    /// `Some(None)` for the default time.
    pub(super) persistence: Option<Option<u64>>,
    pub(super) server: Option<String>,
    pub(super) mode: Option<Mode>,
    pub(super) weight: Option<u64>,
    pub(super) tunnel_port: Option<u16>,
    /// Options that say nothing to SLB, and why.
    pub(super) without_counterpart: Vec<(String, &'static str)>,
}

/// What was found, and what belongs there.
type Fault = (String, &'static str);

const LINE: &str = "a line of `ipvsadm -S -n`, which begins with `-A` or `-a`";
const FWMARK: &str = "SLB has no services by firewall mark: write a listener for each address and port";
const SCTP: &str = "SLB forwards TCP and UDP only";

/// Long options and their short ones. Long ones without a short one have a letter of their own here.
const LONG: [(&str, char); 29] = [
    ("add-service", 'A'),
    ("add-server", 'a'),
    ("clear", 'C'),
    ("tcp-service", 't'),
    ("udp-service", 'u'),
    ("fwmark-service", 'f'),
    ("sctp-service", 'S'),
    ("scheduler", 's'),
    ("sched-flags", 'b'),
    ("persistent", 'p'),
    ("netmask", 'M'),
    ("real-server", 'r'),
    ("gatewaying", 'g'),
    ("ipip", 'i'),
    ("masquerading", 'm'),
    ("weight", 'w'),
    ("u-threshold", 'x'),
    ("l-threshold", 'y'),
    ("ops", 'o'),
    ("pe", 'P'),
    ("ipv6", '6'),
    ("numeric", 'n'),
    ("tun-type", 'T'),
    ("tun-port", 'U'),
    ("tun-nocsum", 'N'),
    ("tun-csum", 'K'),
    ("tun-remcsum", 'R'),
    ("exact", 'E'),
    ("restore", 'X'),
];

/// Whether an option has a value.
const fn has_value(option: char) -> bool {
    matches!(option, 't' | 'u' | 'f' | 'S' | 's' | 'b' | 'M' | 'r' | 'w' | 'x' | 'y' | 'P' | 'T' | 'U')
}

/// Reads a line.
pub(super) fn read(line: &str) -> Result<Rule, Fault> {
    let mut words = line.split_whitespace().peekable();
    while words.next_if(|word| *word == "sudo" || word.rsplit('/').next() == Some("ipvsadm")).is_some() {}
    let mut options: Vec<(char, String)> = Vec::new();
    while let Some(word) = words.next().filter(|word| !word.starts_with('#')) {
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) =
                long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
            let Some((_, option)) = LONG.iter().find(|(known, _)| *known == name) else {
                return Err((format!("`{word}` is no option of it"), LINE));
            };
            let value = match value {
                Some(value) => value.to_owned(),
                None => value_after(*option, word, &mut words)?,
            };
            options.push((*option, value));
        } else if let Some(cluster) = word.strip_prefix('-').filter(|cluster| !cluster.is_empty()) {
            short(cluster, word, &mut words, &mut options)?;
        } else {
            return Err((format!("`{word}` is no option"), LINE));
        }
    }
    rule(options)
}

/// Reads short options that share a dash, as in `-At ADDRESS`.
fn short<'a>(
    cluster: &str,
    word: &str,
    words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>,
    options: &mut Vec<(char, String)>,
) -> Result<(), Fault> {
    let mut rest = cluster.chars();
    while let Some(option) = rest.next() {
        // `-S` is the option that saves, `-o` and others are ours.
        if !LONG.iter().any(|(_, known)| *known == option) || "SoPTUNKREX".contains(option) && option != 'o' {
            return Err((format!("`-{option}` is no option of it"), LINE));
        }
        let tail = rest.as_str();
        if (has_value(option) || option == 'p') && !tail.is_empty() {
            options.push((option, tail.to_owned()));
            return Ok(());
        }
        options.push((option, value_after(option, word, words)?));
    }
    Ok(())
}

/// The next word, if the option has a value.
fn value_after<'a>(
    option: char,
    word: &str,
    words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>,
) -> Result<String, Fault> {
    let next = words.next_if(|next| (has_value(option) || option == 'p') && !next.starts_with('-'));
    match next {
        Some(next) => Ok(next.to_owned()),
        None if has_value(option) => Err((format!("`{word}` has no value"), "a value after this option")),
        None => Ok(String::new()),
    }
}

fn rule(options: Vec<(char, String)>) -> Result<Rule, Fault> {
    let mut commands = options.iter().filter_map(|(option, _)| match option {
        'A' => Some(Command::Service),
        'a' => Some(Command::Server),
        'C' | 'X' => Some(Command::Clear),
        _ => None,
    });
    let command = commands.next().ok_or_else(|| ("no command".to_owned(), LINE))?;
    let mut rule = Rule {
        command,
        protocol: Protocol::Tcp,
        service: String::new(),
        refused: None,
        scheduler: None,
        flags: None,
        persistence: None,
        server: None,
        mode: None,
        weight: None,
        tunnel_port: None,
        without_counterpart: Vec::new(),
    };
    for (option, value) in options {
        take(&mut rule, option, value)?;
    }
    if rule.service.is_empty() && command != Command::Clear {
        return Err(("the line names no service".to_owned(), "`-t`, `-u` or `-f` with a value"));
    }
    if rule.server.is_none() && command == Command::Server {
        return Err(("the line names no server".to_owned(), "`-r` with a value"));
    }
    Ok(rule)
}

fn take(rule: &mut Rule, option: char, value: String) -> Result<(), Fault> {
    let number = |value: &str| {
        value
            .parse::<u64>()
            .map_err(|_| (format!("`{value}` after `-{option}` is no number"), "a number from 0"))
    };
    match option {
        't' => rule.service = value,
        'u' => (rule.service, rule.protocol) = (value, Protocol::Udp),
        'f' => (rule.service, rule.refused) = (format!("fwmark {value}"), Some(FWMARK)),
        'S' => (rule.service, rule.refused) = (format!("sctp {value}"), Some(SCTP)),
        's' => rule.scheduler = Some(value),
        'b' => rule.flags = Some(value),
        'p' if value.is_empty() => rule.persistence = Some(None),
        'p' => rule.persistence = Some(Some(number(&value)?)),
        'r' => rule.server = Some(value),
        'g' => rule.mode = Some(Mode::Dsr),
        // The type of the tunnel may stand before.
        'i' => rule.mode = Some(rule.mode.filter(|mode| *mode == Mode::Gue).unwrap_or(Mode::Ipip)),
        'm' => rule.mode = Some(Mode::Nat),
        'w' => rule.weight = Some(number(&value)?),
        'T' => match value.as_str() {
            "gue" => rule.mode = Some(Mode::Gue),
            "ipip" => rule.mode = Some(Mode::Ipip),
            _ => {
                rule.mode = Some(Mode::Ipip);
                rule.without_counterpart
                    .push((format!("--tun-type {value}"), "SLB has IP-in-IP and GUE tunnels"));
            }
        },
        'U' => {
            let port = value.parse().ok().filter(|port| *port != 0);
            let fault = || (format!("`{value}` is no port"), "a port from 1 to 65535");
            rule.tunnel_port = Some(port.ok_or_else(fault)?);
        }
        'M' => rule
            .without_counterpart
            .push((format!("-M {value}"), "persistence of SLB is that of single addresses, not of networks")),
        'x' | 'y' if value == "0" => {}
        'x' | 'y' => rule.without_counterpart.push((
            format!("-{option} {value}"),
            "SLB has no limit of connections for a server; `new_connections` limits a listener",
        )),
        'o' => rule.without_counterpart.push((
            "--ops".to_owned(),
            "each datagram goes to a server of its own in IPVS; SLB keeps the datagrams of a flow together",
        )),
        'P' => {
            rule.without_counterpart.push((format!("--pe {value}"), "SLB does not read what packets carry"));
        }
        'N' | 'K' | 'R' => {
            rule.without_counterpart.push(("checksum of tunnels".to_owned(), "SLB has no such setting"));
        }
        _ => {}
    }
    Ok(())
}

/// Names that `ipvsadm -S` writes for ports without `-n`.
const PORTS: [(&str, u16); 16] = [
    ("ftp", 21),
    ("ssh", 22),
    ("telnet", 23),
    ("smtp", 25),
    ("domain", 53),
    ("http", 80),
    ("pop3", 110),
    ("ntp", 123),
    ("imap2", 143),
    ("snmp", 161),
    ("ldap", 389),
    ("https", 443),
    ("ldaps", 636),
    ("imaps", 993),
    ("mysql", 3306),
    ("postgresql", 5432),
];

/// A port by number or name.
pub(super) fn port(text: &str) -> Option<u16> {
    text.parse().ok().or_else(|| PORTS.iter().find(|(name, _)| *name == text).map(|(_, port)| *port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_options_say_the_same() {
        let short = read("/sbin/ipvsadm -at 192.0.2.1:80 -r 10.0.0.1:80 -i -w 5").expect("read");
        let long =
            read("--add-server --tcp-service 192.0.2.1:80 --real-server=10.0.0.1:80 --ipip --weight 5")
                .expect("read");
        for rule in [short, long] {
            assert_eq!(rule.command, Command::Server);
            assert_eq!((rule.mode, rule.weight), (Some(Mode::Ipip), Some(5)));
            assert_eq!(rule.server.as_deref(), Some("10.0.0.1:80"));
        }
    }

    #[test]
    fn persistence_has_a_default_time() {
        assert_eq!(read("-A -t a:80 -p").expect("read").persistence, Some(None));
        assert_eq!(read("-A -t a:80 -p 50 -s rr \t# note").expect("read").persistence, Some(Some(50)));
        assert!(read("-A -t a:80 -p x").is_err());
    }

    #[test]
    fn tunnel_type_is_known_in_any_order() {
        for line in [
            "-a -t a:80 -r b:80 -i --tun-type gue --tun-port 6080",
            "-a -t a:80 -r b:80 --tun-type gue --tun-port 6080 -i",
        ] {
            let rule = read(line).expect("read");
            assert_eq!((rule.mode, rule.tunnel_port), (Some(Mode::Gue), Some(6080)));
        }
    }
}
