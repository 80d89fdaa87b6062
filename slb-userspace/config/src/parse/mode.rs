//! What a listener's mode requires of its servers and of the daemon.

use super::{families::Families, group::FoundGroup, scope::BalancerScope};
use crate::{
    diagnostic::{Diagnostic, Span},
    field::Checker,
    model::{Mode, Protocol, Tracking, UnknownDatagrams},
    raw::{self, Value},
};

const MODES: [(&str, Mode); 5] = [
    (Mode::Nat.name(), Mode::Nat),
    (Mode::FullNat.name(), Mode::FullNat),
    (Mode::Dsr.name(), Mode::Dsr),
    (Mode::Ipip.name(), Mode::Ipip),
    (Mode::Gue.name(), Mode::Gue),
];
const TRACKING: [(&str, Tracking); 2] = [("auto", Tracking::Auto), ("always", Tracking::Always)];
const UNKNOWN_DATAGRAMS: [(&str, UnknownDatagrams); 2] =
    [("keep", UnknownDatagrams::Keep), ("follow", UnknownDatagrams::Follow)];

/// How a listener's packets reach their server, and which flows are tracked.
#[derive(Debug, Clone, Copy)]
pub(super) struct ModeSettings {
    pub(super) mode: Mode,
    pub(super) toa: bool,
    pub(super) tracking: Tracking,
    pub(super) unknown_datagrams: UnknownDatagrams,
}

/// Checks mode, `toa`, tracking and `unknown_datagrams`.
pub(super) fn build(
    scope: &mut BalancerScope<'_, '_>,
    raw: &raw::RawListener,
    protocol: Option<Protocol>,
) -> Option<ModeSettings> {
    let checker = &mut *scope.checker;
    let mode = raw.mode.as_ref().map_or(Some(Mode::Nat), |value| checker.choice("mode", value, &MODES));
    let tracking = raw
        .tracking
        .as_ref()
        .map_or(Some(Tracking::Auto), |value| checker.choice("tracking", value, &TRACKING));
    let unknown_datagrams = raw.unknown_datagrams.as_ref().map_or(Some(UnknownDatagrams::Keep), |value| {
        checker.choice("unknown_datagrams", value, &UNKNOWN_DATAGRAMS)
    });
    if let (Some(value), Some(mode), Some(protocol)) = (&raw.unknown_datagrams, mode, protocol)
        && (mode.sees_replies() || protocol != Protocol::Udp)
    {
        checker.note(
            Diagnostic::error(
                value.span(),
                "`unknown_datagrams` has no meaning here",
                "for listeners of UDP in the modes `dsr`, `ipip` and `gue`",
            )
            .help("remove it"),
        );
    }
    let toa = toa(checker, raw.toa.as_ref(), mode, protocol);
    Some(ModeSettings { mode: mode?, toa: toa?, tracking: tracking?, unknown_datagrams: unknown_datagrams? })
}

/// Checks `toa`, which is off by default.
fn toa(
    checker: &mut Checker,
    value: Option<&Value>,
    mode: Option<Mode>,
    protocol: Option<Protocol>,
) -> Option<bool> {
    let Some(value) = value else { return Some(false) };
    let toa = checker.boolean("toa", value)?;
    let why = match (mode, protocol) {
        (Some(mode), _) if mode != Mode::FullNat => {
            format!("in mode `{}` servers see the client's own address", mode.name())
        }
        (_, Some(Protocol::Udp)) => "for TCP listeners: datagrams have no options".to_owned(),
        _ => return Some(toa),
    };
    if toa {
        checker.note(
            Diagnostic::error(value.span(), "`toa` has no meaning here", why)
                .help("remove it, or use it for a TCP listener of mode `full-nat`"),
        );
    }
    Some(toa)
}

/// Checks that packets arrive at a port that the server listens on. Without NAT that is the listener's own port.
pub(super) fn check_port(
    scope: &mut BalancerScope<'_, '_>,
    mode: Mode,
    listener: (u16, Span),
    server: (u16, Span),
) {
    if mode.rewrites_port() || listener.0 == server.0 {
        return;
    }
    scope.checker.note(
        Diagnostic::error(
            server.1,
            format!("port {} is not the listener's, and mode `{}` does not translate", server.0, mode.name()),
            format!("packets arrive at port {}", listener.0),
        )
        .related(listener.1, "the listener's port")
        .help(format!(
            "write {} here and let the server listen on it, or use mode `nat` or `full-nat`",
            listener.0
        )),
    );
}

/// [`check_port`] for all servers of a group. Reports the first that differs.
pub(super) fn check_ports(
    scope: &mut BalancerScope<'_, '_>,
    mode: Mode,
    listener: (u16, Span),
    group: &FoundGroup<'_, '_>,
) {
    if let Some(server) = group.ports.iter().find(|(port, _)| *port != listener.0) {
        check_port(scope, mode, listener, server.clone());
    }
}

/// Checks that a tunnel source address exists for these servers' address families.
pub(super) fn check_tunnels(
    scope: &mut BalancerScope<'_, '_>,
    (mode, at): (Mode, &Value),
    servers: Families,
) {
    let Some(tunnels) = scope.tunnels else { return };
    let missing = servers.without(tunnels);
    if !missing.is_empty() {
        scope.checker.note(
            Diagnostic::error(
                at.span(),
                format!("mode `{}` to {missing} servers needs a `tunnel_addresses` of that family", mode.name()),
                "the outer header needs a source address",
            )
            .help(
                "in `[daemon]`, write an address of this host: `tunnel_addresses = [\"10.0.0.5\"]`; servers accept tunnels \
                 from it",
            ),
        );
    }
}

/// Checks that a local address exists for the address families of a listener's VIPs.
pub(super) fn check_local_addresses(scope: &mut BalancerScope<'_, '_>, mode: &Value, vips: Families) {
    let Some(locals) = scope.locals else { return };
    let missing = vips.without(locals);
    if !missing.is_empty() {
        scope.checker.note(
            Diagnostic::error(
                mode.span(),
                format!("mode `full-nat` of {missing} VIPs needs `local_addresses` of that family"),
                "connections to servers need a source address",
            )
            .help(
                "in `[daemon]`, write addresses to which servers' answers reach this host: \
                 `local_addresses = [\"10.0.0.5\", \"fd00::5\"]`",
            ),
        );
    }
}

/// Refuses a group that has `servers` and none of the VIPs' families in `missing`. `group` is where it is named.
pub(super) fn refuse_families(
    scope: &mut BalancerScope<'_, '_>,
    group: &Value,
    missing: Families,
    servers: Families,
) {
    scope.checker.note(
        Diagnostic::error(
            group.span(),
            format!("mode `full-nat` needs {missing} servers for {missing} VIPs"),
            format!("there are {servers} servers only: SLB does not translate between IPv4 and IPv6"),
        )
        .help("add servers of the VIPs' family, or remove the VIPs of this family"),
    );
}
