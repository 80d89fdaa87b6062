//! `[[load_balancer.listener]]`.

use std::collections::HashMap;

use super::{
    access_list, health_check, limits, mode, port_range,
    port_range::UsedPorts,
    quic, scheduling,
    scope::{BalancerContext, BalancerScope},
    target, timeouts,
};
use crate::{
    diagnostic::Span,
    field::{Checker, UsedIds, Written},
    model::{Listener, Mode, OnNoHealthy, Protocol, RunState},
    raw::{self, Value},
};

const STATES: [(&str, RunState); 2] = [("running", RunState::Running), ("stopped", RunState::Stopped)];
const ON_NO_HEALTHY: [(&str, OnNoHealthy); 2] = [("drop", OnNoHealthy::Drop), ("all", OnNoHealthy::All)];
const PROTOCOLS: [(&str, Protocol); 2] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];

/// Names, ids and ports that listeners of a load balancer use so far.
#[derive(Default)]
pub(super) struct UsedNames {
    names: HashMap<String, Span>,
    ids: UsedIds,
    ports: UsedPorts,
}

pub(super) fn build(
    scope: &mut BalancerScope<'_, '_>,
    table: &raw::RawTable<raw::RawListener>,
    context: &BalancerContext,
    seen: &mut UsedNames,
) -> Option<Listener> {
    let raw = &table.as_ref().0;
    let span = table.span();
    let checker = &mut *scope.checker;

    let name_value = checker.required(raw.name.as_ref(), "name", &span, "name = \"web\"");
    let name = name_value.and_then(|value| checker.name(value));
    if let (Some(name), Some(value)) = (&name, name_value) {
        checker.unique(&mut seen.names, name.to_string(), value.span(), &format!("listener `{name}`"));
    }
    let id = checker.id(raw.id.as_ref(), name.as_ref());
    if let Some(id) = &id {
        let written = Written { id: raw.id.as_ref(), name: name_value };
        checker.unique_id(&mut seen.ids, id, written, "listener");
    }
    let protocol = checker.required(raw.protocol.as_ref(), "protocol", &span, "protocol = \"tcp\"");
    let protocol = protocol.and_then(|value| checker.choice("protocol", value, &PROTOCOLS));
    let port_value = checker.required(raw.port.as_ref(), "port", &span, "port = 80");
    let port = port_value.and_then(|value| port_range::ports(checker, value));
    if let (Some(protocol), Some(port), Some(value)) = (protocol, port, port_value) {
        let word = PROTOCOLS.iter().find(|(_, known)| *known == protocol).map_or("", |(word, _)| word);
        seen.ports.add(checker, (protocol, word), port, value.span());
    }
    let health_check = health_check::build(checker, raw.health_check.as_ref(), protocol);
    if let (Some(Some(check)), Some(port), Some(value)) = (&health_check, port, port_value)
        && port.is_range()
    {
        let at = raw.health_check.as_ref().map_or_else(|| value.span(), toml::Spanned::span);
        port_range::check_health_check(checker, Some(check), &at);
    }
    let ending = timeouts::build(checker, raw, protocol);
    let state = state(checker, raw.state.as_ref());
    let on_no_healthy = raw.on_no_healthy.as_ref();
    let on_no_healthy = on_no_healthy
        .map_or(Some(OnNoHealthy::Drop), |value| checker.choice("on_no_healthy", value, &ON_NO_HEALTHY));
    let scheduling = scheduling::build(checker, raw);
    let quic = quic::build(checker, raw, protocol);
    let access = access_list::of_listener(checker, raw, scope.lists, scope.used_lists);
    let forwarding = mode::build(scope, raw, protocol);
    let mode = forwarding.map(|forwarding| forwarding.mode);
    let limits = limits::build(scope.checker, raw, protocol, mode);
    if let (Some(Mode::FullNat), Some(value)) = (mode, &raw.mode) {
        mode::check_local_addresses(scope, value, context.vips);
    }
    health_check::passive::check(scope.checker, raw.health_check.as_ref(), protocol, mode, port);
    let at = port.zip(port_value.map(toml::Spanned::span));
    let target = target::build(scope, raw, &span, context, mode, at);
    if let (Some(target), Some(None)) = (&target, &health_check) {
        target::warn_of_no_check(scope.checker, raw, target);
    }
    let (forwarding, ending, scheduling, limits) = (forwarding?, ending?, scheduling?, limits?);
    Some(Listener {
        id: id?,
        name: name?,
        protocol: protocol?,
        port: port?,
        state: state?,
        target: target?,
        mode: forwarding.mode,
        toa: forwarding.toa,
        tracking: forwarding.tracking,
        unknown_datagrams: forwarding.unknown_datagrams,
        drain_timeout: ending.drain_timeout,
        idle_timeout: ending.idle_timeout,
        health_check: health_check?,
        on_no_healthy: on_no_healthy?,
        scheduler: scheduling.scheduler,
        session_persistence: scheduling.session_persistence,
        access: access?,
        bandwidth: limits.bandwidth,
        new_connections: limits.new_connections,
        quic: quic?,
        syn_cookies: limits.syn_cookies,
    })
}

/// Checks whether a load balancer or a listener is running, which is the default.
pub(super) fn state(checker: &mut Checker, value: Option<&Value>) -> Option<RunState> {
    value.map_or(Some(RunState::Running), |value| checker.choice("state", value, &STATES))
}
