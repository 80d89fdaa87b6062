//! Limits of a listener: bandwidth and new connections.

use std::ops::RangeInclusive;

use crate::{
    diagnostic::Diagnostic,
    field::{Checker, wrong_type},
    model::{Bandwidth, Mode, Protocol},
    raw::{self, Scalar, Value},
    suggest::quoted,
};

const NEW_CONNECTIONS: RangeInclusive<u32> = 0..=10_000_000;

/// Bandwidth and new connections per second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) bandwidth: Option<Bandwidth>,
    pub(super) new_connections: Option<u32>,
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
    Some(Limits { bandwidth: bandwidth?, new_connections: new_connections.map(|n| (n != 0).then_some(n))? })
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
