//! Ports of listeners: a number, a range as `"8000-8999"`, or `"any"`. And what a range requires of the servers behind it,
//! which receive packets at the port that the client used.

use std::collections::{HashMap, HashSet};

use slb_common::abi::{ports::Ports, service::MAX_RANGES};

use crate::{
    diagnostic::{Diagnostic, Span},
    field::Checker,
    model::{CheckKind, HealthCheck, Protocol},
    raw::{self, Scalar, Value},
    suggest::quoted,
};

const EXPECTED: &str = "a port from 1 to 65535, a range as \"8000-8999\", or \"any\"";

/// Checks the port of a listener.
pub(super) fn ports(checker: &mut Checker, value: &Value) -> Option<Ports> {
    let Some(text) = range_text(value) else { return checker.port("port", value).map(Ports::single) };
    if text == "any" {
        return Some(Ports::ANY);
    }
    let ends = text.split_once('-').and_then(|(first, last)| Some((end(first)?, end(last)?)));
    let Some((first, last)) = ends else {
        let message = format!("{} is no port and no range of ports", quoted(text));
        return checker.refuse(Diagnostic::error(value.span(), message, format!("expected {EXPECTED}")));
    };
    let (Ok(low), Ok(high)) = (u16::try_from(first), u16::try_from(last)) else {
        return out_of_range(checker, value);
    };
    match Ports::range(low, high) {
        Some(ports) => Some(ports),
        None if low == 0 || high == 0 => out_of_range(checker, value),
        None => {
            let instead = if low == high { low.to_string() } else { format!("\"{high}-{low}\"") };
            let message = format!("{} is no range of ports", quoted(text));
            checker.refuse(
                Diagnostic::error(value.span(), message, "the first port must be below the last one")
                    .help(format!("write `port = {instead}`")),
            )
        }
    }
}

/// The text of a range. A number in quotes is none: it is refused as a single port.
fn range_text(value: &Value) -> Option<&str> {
    match value.as_ref() {
        Scalar::Text(text) if text.parse::<i128>().is_err() => Some(text),
        _ => None,
    }
}

fn end(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn out_of_range<T>(checker: &mut Checker, value: &Value) -> Option<T> {
    checker.refuse(Diagnostic::error(value.span(), "`port` is out of range", format!("allowed: {EXPECTED}")))
}

/// Ports that listeners of a load balancer use so far.
#[derive(Default)]
pub(super) struct UsedPorts {
    whole: HashMap<(Protocol, Ports), Span>,
    ranges: Vec<(Protocol, Ports, Span)>,
}

impl UsedPorts {
    /// Adds the ports of a listener. Refuses ports that another one has, ranges that overlap, and too many of them. A
    /// single port may lie in a range, and both in that of any port: packets go to the narrower listener.
    pub(super) fn add(
        &mut self,
        checker: &mut Checker,
        (protocol, word): (Protocol, &str),
        ports: Ports,
        at: Span,
    ) {
        let (name, before) = (format!("{word} port {ports}"), checker.diagnostics.len());
        checker.unique(&mut self.whole, (protocol, ports), at.clone(), &name);
        if !ports.is_range() || ports.is_any() || checker.diagnostics.len() > before {
            return;
        }
        let same_protocol = || self.ranges.iter().filter(|(other, ..)| *other == protocol);
        if let Some((_, other, there)) = same_protocol().find(|(_, other, _)| other.overlaps(ports)) {
            checker.note(
                Diagnostic::error(
                    at.clone(),
                    format!("the {word} port ranges {ports} and {other} overlap"),
                    "a packet would belong to both listeners",
                )
                .related(there.clone(), "the other range")
                .help(
                    "divide the ports between both; single ports of a range may have listeners of their own",
                ),
            );
        } else if same_protocol().count() == MAX_RANGES {
            checker.note(
                Diagnostic::error(
                    at.clone(),
                    format!("a load balancer cannot have more than {MAX_RANGES} {word} port ranges"),
                    "this is the first one too many",
                )
                .help("join ranges, write `port = \"any\"`, or add a load balancer with a VIP of its own"),
            );
        }
        self.ranges.push((protocol, ports, at));
    }
}

/// The server groups behind port ranges, by name.
#[derive(Debug, Default)]
pub(super) struct GroupsBehindRanges<'a> {
    ranges: HashSet<&'a str>,
    single: HashMap<&'a str, Span>,
}

impl<'a> GroupsBehindRanges<'a> {
    /// Those of a document.
    pub(super) fn of(document: &'a raw::RawDocument) -> Self {
        let mut groups = Self::default();
        let balancers = document.load_balancer.0.iter();
        for table in balancers.flat_map(|table| &table.as_ref().0.listener.0) {
            let listener = &table.as_ref().0;
            let is_range = listener.port.as_ref().and_then(range_text).is_some();
            let names = [
                &listener.server_group,
                &listener.primary_secondary_group,
                &listener.primary,
                &listener.secondary,
            ];
            for value in names.into_iter().flatten() {
                let Scalar::Text(name) = value.as_ref() else { continue };
                if is_range {
                    groups.ranges.insert(name);
                } else {
                    groups.single.entry(name).or_insert_with(|| value.span());
                }
            }
        }
        groups
    }

    /// Whether servers of this group have no ports: all its listeners have ranges.
    pub(super) fn has_no_ports(&self, group: Option<&Value>) -> bool {
        match group.map(Value::as_ref) {
            Some(Scalar::Text(name)) => {
                self.ranges.contains(name.as_str()) && !self.single.contains_key(name.as_str())
            }
            _ => false,
        }
    }
}

/// Checks the port of a server, which it must not have in a group without ports: 0 then.
pub(super) fn of_server(
    checker: &mut Checker,
    span: &Span,
    port: Option<&Value>,
    has_no_ports: bool,
) -> Option<u16> {
    if !has_no_ports {
        let port = checker.required(port, "port", span, "port = 8080");
        return port.and_then(|value| checker.port("port", value));
    }
    let Some(value) = port else { return Some(0) };
    checker.refuse(
        Diagnostic::error(
            value.span(),
            "a server behind a port range has no port",
            "it receives packets at the port that the client used",
        )
        .help("remove it; for a single port write a listener and a group of its own"),
    )
}

/// Refuses a group that is also behind a single port.
pub(super) fn check_group(checker: &mut Checker, groups: &GroupsBehindRanges<'_>, name: &str, at: &Value) {
    if let Some(single) = groups.single.get(name) {
        checker.note(
            Diagnostic::error(
                at.span(),
                format!("group {} is behind a port range and behind a single port", quoted(name)),
                "servers behind a range have no ports of their own",
            )
            .related(single.clone(), "here with a single port")
            .help("write a second group with the same addresses and without ports, and name it here"),
        );
    }
}

/// Refuses the default server group behind a range.
pub(super) fn refuse_default_group<T>(checker: &mut Checker, at: &Value) -> Option<T> {
    checker.refuse(
        Diagnostic::error(
            at.span(),
            "`default_group_port` has no meaning for a port range",
            "servers behind a range have no port of their own",
        )
        .help("write the servers in a `[[server_group]]` without ports, and name that by `server_group`"),
    )
}

/// Refuses a health check by connection without a port of its own.
pub(super) fn check_health_check(checker: &mut Checker, check: Option<&HealthCheck>, at: &Span) {
    let lacks_port = |check: &HealthCheck| check.port.is_none() && check.kind != CheckKind::Icmp;
    if check.is_some_and(lacks_port) {
        checker.note(
            Diagnostic::error(
                at.clone(),
                "the health check of a port range needs a port",
                "servers behind a range have none that could be probed",
            )
            .help(
                "write the port on which servers answer, as in `health_check = { kind = \"tcp\", port = 8000 }`, or \
                 `kind = \"icmp\"`, or `kind = \"none\"`",
            ),
        );
    }
}
