//! `health_check` of a listener.

use std::{ops::RangeInclusive, time::Duration};

use crate::config::{
    diagnostic::Diagnostic,
    field::Checker,
    model::{CheckKind, HealthCheck, Protocol},
    raw::{self, Value},
};

const DEFAULT: HealthCheck = HealthCheck {
    kind: CheckKind::Tcp,
    port: None,
    interval: Duration::from_secs(2),
    timeout: Duration::from_secs(5),
    healthy_threshold: 3,
    unhealthy_threshold: 3,
};

const KINDS: [(&str, Option<CheckKind>); 2] = [("tcp", Some(CheckKind::Tcp)), ("none", None)];
const INTERVAL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(50);
const TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(300);
const THRESHOLD: RangeInclusive<u8> = 1..=10;

/// Checks a health check. Without one, TCP listeners have the default and UDP listeners have none: a TCP connection
/// says nothing of a UDP service, unless its operator knows that it does.
///
/// Returns `None` after a problem, and `Some(None)` for no check.
pub(super) fn build(
    checker: &mut Checker,
    table: Option<&raw::Table<raw::HealthCheck>>,
    protocol: Option<Protocol>,
) -> Option<Option<HealthCheck>> {
    let Some(table) = table else {
        return Some((protocol == Some(Protocol::Tcp)).then_some(DEFAULT));
    };
    let raw = &table.as_ref().0;
    let kind = checker.required(raw.kind.as_ref(), "kind", &table.span(), "kind = \"tcp\"");
    let kind = kind.and_then(|value| checker.choice("kind", value, &KINDS));
    let port = raw.port.as_ref().map_or(Some(None), |value| checker.port("port", value).map(Some));
    let interval = duration(checker, "interval", raw.interval.as_ref(), INTERVAL, DEFAULT.interval);
    let timeout = duration(checker, "timeout", raw.timeout.as_ref(), TIMEOUT, DEFAULT.timeout);
    let healthy =
        threshold(checker, "healthy_threshold", raw.healthy_threshold.as_ref(), DEFAULT.healthy_threshold);
    let unhealthy = threshold(
        checker,
        "unhealthy_threshold",
        raw.unhealthy_threshold.as_ref(),
        DEFAULT.unhealthy_threshold,
    );

    let Some(kind) = kind? else {
        let settings =
            [&raw.port, &raw.interval, &raw.timeout, &raw.healthy_threshold, &raw.unhealthy_threshold];
        if let Some(setting) = settings.into_iter().flatten().next() {
            checker.note(
                Diagnostic::warning(
                    setting.span(),
                    "settings of a health check that is off",
                    "this has no effect",
                )
                .help("remove it, or write `kind = \"tcp\"`"),
            );
        }
        return Some(None);
    };
    Some(Some(HealthCheck {
        kind,
        port: port?,
        interval: interval?,
        timeout: timeout?,
        healthy_threshold: healthy?,
        unhealthy_threshold: unhealthy?,
    }))
}

fn duration(
    checker: &mut Checker,
    key: &str,
    value: Option<&Value>,
    allowed: RangeInclusive<Duration>,
    default: Duration,
) -> Option<Duration> {
    value.map_or(Some(default), |value| checker.duration(key, value, allowed))
}

fn threshold(checker: &mut Checker, key: &str, value: Option<&Value>, default: u8) -> Option<u8> {
    value.map_or(Some(default), |value| checker.integer(key, value, THRESHOLD))
}
