//! Limits of a listener: bandwidth, new connections, and new connections without SYN cookies.

use std::ops::RangeInclusive;

use crate::{
    diagnostic::Diagnostic,
    field::{Checker, wrong_type},
    model::{Bandwidth, Mode, Protocol},
    raw::{self, Scalar, Value},
    suggest::quoted,
};

const NEW_CONNECTIONS: RangeInclusive<u32> = 0..=10_000_000;
const SYN_COOKIES: RangeInclusive<u32> = 0..=5_000_000;
/// `syn_cookies` is rounded up to a multiple of it.
const SYN_COOKIES_UNIT: u32 = 100;

/// Bandwidth, new connections per second, and those without SYN cookies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) bandwidth: Option<Bandwidth>,
    pub(super) new_connections: Option<u32>,
    pub(super) syn_cookies: Option<u32>,
}

/// Checks the limits. Without a setting, or with 0, there is no limit.
pub(super) fn build(
    checker: &mut Checker,
    raw: &raw::RawListener,
    protocol: Option<Protocol>,
    mode: Option<Mode>,
) -> Option<Limits> {
    let bandwidth = raw.bandwidth.as_ref().map_or(Some(None), |value| bandwidth(checker, value));
    let value = raw.new_connections.as_ref();
    let new_connections =
        value.map_or(Some(0), |value| checker.integer("new_connections", value, NEW_CONNECTIONS));
    if let (Some(value), Some(1..), Some(Protocol::Udp), Some(mode)) =
        (value, new_connections, protocol, mode)
        && !mode.sees_replies()
    {
        let mode = mode.name();
        checker.note(
            Diagnostic::error(
                value.span(),
                format!("`new_connections` cannot limit UDP in mode `{mode}`"),
                format!("in mode `{mode}` no datagram shows that it begins a flow"),
            )
            .help("remove it, or use mode `nat` or `full-nat`; `bandwidth` limits UDP in every mode"),
        );
    }
    let syn_cookies = syn_cookies(checker, raw.syn_cookies.as_ref(), protocol, mode);
    Some(Limits {
        bandwidth: bandwidth?,
        new_connections: new_connections.map(|n| (n != 0).then_some(n))?,
        syn_cookies: syn_cookies?,
    })
}

/// Checks the rate above which SYNs are answered by SYN cookies. 0 is never, which is `Some(None)`.
fn syn_cookies(
    checker: &mut Checker,
    value: Option<&Value>,
    protocol: Option<Protocol>,
    mode: Option<Mode>,
) -> Option<Option<u32>> {
    let Some(value) = value else { return Some(None) };
    let rate = checker.integer("syn_cookies", value, SYN_COOKIES)?;
    if rate == 0 {
        return Some(None);
    }
    let why = match (protocol, mode) {
        (Some(Protocol::Udp), _) => "for TCP listeners: UDP has no handshake".to_owned(),
        (_, Some(mode)) if !mode.sees_replies() => {
            format!("in mode `{}` servers answer clients themselves", mode.name())
        }
        _ => return Some(Some(rate.next_multiple_of(SYN_COOKIES_UNIT))),
    };
    checker.refuse(
        Diagnostic::error(value.span(), "`syn_cookies` has no meaning here", why)
            .help("remove it, or use it for a TCP listener of mode `nat` or `full-nat`"),
    )
}

/// Checks a bandwidth: an integer with a unit, such as "100Mbit". 0 is no limit, which is `Some(None)`.
fn bandwidth(checker: &mut Checker, value: &Value) -> Option<Option<Bandwidth>> {
    let range = format!("{} to {}, or 0 for no limit", Bandwidth::MIN, Bandwidth::MAX);
    let expected = format!("an integer and its unit (kbit, Mbit or Gbit per second) in quotes, {range}");
    let text = match value.as_ref() {
        Scalar::Integer(0) => return Some(None),
        Scalar::Text(text) => text,
        other => {
            let problem = wrong_type("bandwidth", value, other, "a bandwidth", expected);
            return checker.refuse(match other {
                Scalar::Integer(number) if *number > 0 => {
                    problem.help(format!("in Mbit per second this is `bandwidth = \"{number}Mbit\"`"))
                }
                _ => problem,
            });
        }
    };
    match Bandwidth::read(text) {
        Some(bandwidth) if Bandwidth::range().contains(&bandwidth) => Some(Some(bandwidth)),
        Some(bandwidth) if bandwidth.kilobits() == 0 => Some(None),
        Some(_) => checker.refuse(Diagnostic::error(
            value.span(),
            "`bandwidth` is out of range",
            format!("allowed: {range}"),
        )),
        None => checker.refuse(Diagnostic::error(
            value.span(),
            format!("{} is not a bandwidth", quoted(text)),
            format!("expected {expected}"),
        )),
    }
}
