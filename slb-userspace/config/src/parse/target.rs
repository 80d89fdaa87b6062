//! The servers behind a listener: exactly one of four ways to specify them.

use std::{ops::RangeInclusive, time::Duration};

use slb_common::abi::ports::Ports;

use super::{
    families::Families,
    group::FoundGroup,
    mode, port_range,
    scope::{BalancerContext, BalancerScope},
};
use crate::{
    diagnostic::{Diagnostic, Span},
    field::Checker,
    model::{ListenerTarget, Mode, Name},
    raw::{self, Value},
    suggest::quoted,
};

/// The four ways to name servers, and their differences.
const TARGETS: &str = "`server_group`: one group | `primary_secondary_group`: two servers, of which only the primary is \
                       checked | `primary` with `secondary`: two groups, both checked | `default_group_port`: the load \
                       balancer's default server group";
/// Range of `failback_after`.
const FAILBACK: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);

/// Checks the time before failback. The default is zero.
pub(super) fn failback_after(checker: &mut Checker, value: Option<&Value>) -> Option<Duration> {
    value.map_or(Some(Duration::ZERO), |value| checker.duration("failback_after", value, FAILBACK))
}

/// Checks that a listener has exactly one set of servers, and that these can serve its VIPs.
pub(super) fn build(
    scope: &mut BalancerScope<'_, '_>,
    raw: &raw::RawListener,
    span: &Span,
    context: &BalancerContext,
    mode: Option<Mode>,
    port: Option<(Ports, Span)>,
) -> Option<ListenerTarget> {
    let ways = [
        ("server_group", raw.server_group.as_ref()),
        ("primary_secondary_group", raw.primary_secondary_group.as_ref()),
        ("primary", raw.primary.as_ref().or(raw.secondary.as_ref())),
        ("default_group_port", raw.default_group_port.as_ref()),
    ];
    let named: Vec<_> = ways.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    let [(key, value)] = named[..] else { return refuse(scope.checker, span, &named) };
    let mut servers = TargetChecker { scope, vips: context.vips, mode, mode_value: raw.mode.as_ref(), port };
    if key != "primary" {
        let only_there = [
            ("failover_threshold", raw.failover_threshold.as_ref(), "with `primary` and `secondary`"),
            (
                "failback_after",
                raw.failback_after.as_ref(),
                "with `primary` and `secondary`, or in a `[[primary_secondary_group]]`",
            ),
        ];
        for (key, value, place) in only_there {
            if let Some(value) = value {
                servers.scope.checker.note(
                    Diagnostic::error(
                        value.span(),
                        format!("`{key}` has no meaning here"),
                        format!("it belongs {place}"),
                    )
                    .help("remove it"),
                );
            }
        }
    }
    match key {
        "server_group" => {
            servers.group("server_group", value).map(|found| ListenerTarget::ServerGroup(name(&found)))
        }
        "primary_secondary_group" => servers.pair(value).map(ListenerTarget::PrimarySecondaryGroup),
        "primary" => two_groups(&mut servers, raw, span),
        _ => servers.default_group(value, context),
    }
}

/// Warns of a secondary that never receives traffic, because nothing checks the primary.
pub(super) fn warn_of_no_check(checker: &mut Checker, raw: &raw::RawListener, target: &ListenerTarget) {
    let value = match target {
        ListenerTarget::PrimarySecondaryGroup(_) => &raw.primary_secondary_group,
        ListenerTarget::PrimarySecondary { .. } => &raw.primary,
        ListenerTarget::DefaultGroup { .. } | ListenerTarget::ServerGroup(_) => return,
    };
    let Some(value) = value else { return };
    checker.note(
        Diagnostic::warning(
            value.span(),
            "without a health check nothing fails over",
            "the primary gets all traffic, whatever happens",
        )
        .help("add a `health_check` to this listener"),
    );
}

fn refuse(checker: &mut Checker, span: &Span, named: &[(&str, &Value)]) -> Option<ListenerTarget> {
    match named {
        [(first_key, first), (key, value), ..] => checker.refuse(
            Diagnostic::error(
                value.span(),
                format!("a listener has either `{first_key}` or `{key}`"),
                "names servers a second time",
            )
            .related(first.span(), "names servers")
            .help(format!("remove all but one: {TARGETS}")),
        ),
        _ => checker.refuse(
            Diagnostic::error(
                span.clone(),
                "the listener has no servers",
                "this needs exactly one of `server_group`, `primary_secondary_group`, `primary` with `secondary`, \
                 `default_group_port`",
            )
            .help(format!("for example `server_group = \"web\"`: {TARGETS}")),
        ),
    }
}

/// Parses primary/secondary mode.
fn two_groups(
    servers: &mut TargetChecker<'_, '_, '_>,
    raw: &raw::RawListener,
    span: &Span,
) -> Option<ListenerTarget> {
    let checker = &mut *servers.scope.checker;
    let primary = checker.required(raw.primary.as_ref(), "primary", span, "primary = \"web-a\"");
    let secondary = checker.required(raw.secondary.as_ref(), "secondary", span, "secondary = \"web-b\"");
    let threshold = checker.required(
        raw.failover_threshold.as_ref(),
        "failover_threshold",
        span,
        "failover_threshold = 2",
    );
    let threshold_value = threshold;
    let threshold = threshold.and_then(|value| checker.integer("failover_threshold", value, 1..=1024));
    let failback_after = failback_after(checker, raw.failback_after.as_ref());
    let (primary, secondary) = (primary?, secondary?);
    let found = servers.group("primary", primary);
    let most = found.as_ref().map(|found| found.servers);
    let primary_name = found.as_ref().map(name);
    let secondary_name = servers.group("secondary", secondary).as_ref().map(name);
    let checker = &mut *servers.scope.checker;
    if let (Some(threshold), Some(most), Some(value)) = (threshold, most, threshold_value)
        && usize::from(threshold) > most
    {
        checker.note(
            Diagnostic::error(
                value.span(),
                format!("{threshold} servers of the primary group can never be unhealthy"),
                format!("it has {most}"),
            )
            .help(format!("allowed: 1 to {}", most.max(1))),
        );
    }
    let (primary_name, secondary_name) = (primary_name?, secondary_name?);
    if primary_name == secondary_name {
        return checker.refuse(
            Diagnostic::error(secondary.span(), "primary and secondary are the same group", "the same group")
                .related(primary.span(), "the primary")
                .help("name another group here"),
        );
    }
    Some(ListenerTarget::PrimarySecondary {
        primary: primary_name,
        secondary: secondary_name,
        failover_threshold: threshold?,
        failback_after: failback_after?,
    })
}

fn name(found: &FoundGroup<'_, '_>) -> Name {
    Name(found.name.to_owned())
}

/// The servers of a listener, checked against its VIPs and its mode.
struct TargetChecker<'r, 's, 'a> {
    scope: &'r mut BalancerScope<'s, 'a>,
    vips: Families,
    mode: Option<Mode>,
    mode_value: Option<&'r Value>,
    /// The listener's ports.
    port: Option<(Ports, Span)>,
}

impl<'s, 'a> TargetChecker<'_, 's, 'a> {
    fn group(&mut self, key: &str, value: &Value) -> Option<FoundGroup<'s, 'a>> {
        let text = self.scope.checker.text(key, value, "the name of a server group")?;
        let groups = self.scope.groups;
        let found = groups.find(self.scope.checker, text, value.span())?;
        self.scope.used.insert(found.name);
        self.check_found(value, &found);
        Some(found)
    }

    fn pair(&mut self, value: &Value) -> Option<Name> {
        let expected = "the name of a primary/secondary server group";
        let text = self.scope.checker.text("primary_secondary_group", value, expected)?;
        let pairs = self.scope.pairs;
        let found = pairs.find(self.scope.checker, text, value.span())?;
        self.scope.used_pairs.insert(found.name);
        self.check_found(value, &found);
        Some(name(&found))
    }

    fn default_group(&mut self, value: &Value, context: &BalancerContext) -> Option<ListenerTarget> {
        if self.is_range() {
            return port_range::refuse_default_group(self.scope.checker, value);
        }
        let default_group_port = self.scope.checker.port("default_group_port", value);
        let Some(families) = context.default_servers else {
            return self.scope.checker.refuse(
                Diagnostic::error(
                    value.span(),
                    "`default_group_port` without a default server group",
                    "the load balancer has no `[[load_balancer.server]]`",
                )
                .help("add one, or name a `server_group`"),
            );
        };
        self.check_families(value, "the default server group", families, context.all_default_servers);
        if let (Some(mode), Some(port), Some(default_group_port)) =
            (self.mode, self.single_port(), default_group_port)
        {
            mode::check_port(self.scope, mode, port, (default_group_port, value.span()));
        }
        self.check_tunnels(context.all_default_servers);
        Some(ListenerTarget::DefaultGroup { default_group_port: default_group_port? })
    }

    fn check_found(&mut self, value: &Value, found: &FoundGroup<'_, '_>) {
        let group = format!("group {}", quoted(found.name));
        self.check_families(value, &group, found.families, found.all_families);
        if self.is_range() {
            port_range::check_group(self.scope.checker, self.scope.behind_ranges, found.name, value);
        } else if let (Some(mode), Some(port)) = (self.mode, self.single_port()) {
            mode::check_ports(self.scope, mode, port, found);
        }
        self.check_tunnels(found.all_families);
    }

    fn is_range(&self) -> bool {
        self.port.as_ref().is_some_and(|(ports, _)| ports.is_range())
    }

    fn single_port(&self) -> Option<(u16, Span)> {
        let (ports, at) = self.port.as_ref()?;
        Some((ports.as_single()?, at.clone()))
    }

    fn check_tunnels(&mut self, families: Families) {
        if let (Some(mode @ (Mode::Ipip | Mode::Gue)), Some(value)) = (self.mode, self.mode_value) {
            mode::check_tunnels(self.scope, (mode, value), families);
        }
    }

    /// Refuses a VIP's family without servers in mode `full-nat`, and warns of one without servers that take new flows.
    fn check_families(&mut self, at: &Value, group: &str, serving: Families, all: Families) {
        let missing = self.vips.without(all);
        if self.mode == Some(Mode::FullNat) && !missing.is_empty() && !all.is_empty() {
            mode::refuse_families(self.scope, at, missing, all);
        } else {
            self.warn_of_families(at, group, serving);
        }
    }

    /// Without NAT, a server of either address family that holds the VIP can serve it.
    fn warn_of_families(&mut self, at: &Value, group: &str, families: Families) {
        let missing = match self.mode {
            Some(Mode::Nat | Mode::FullNat) => self.vips.without(families),
            _ => Families::default(),
        };
        if !missing.is_empty() {
            let message = format!("{group} has no {missing} server that takes new connections");
            let label = format!("{missing} connections to the VIPs will be dropped");
            self.scope.checker.note(
                Diagnostic::warning(at.span(), message, label)
                    .help("add such a server with a weight above 0, or remove the VIPs of this family"),
            );
        }
    }
}
