//! `health_check` of a listener.

mod http;
mod kind;
pub(super) mod passive;
mod udp;

use std::{ops::RangeInclusive, time::Duration};

use kind::KindWord;

use crate::{
    diagnostic::Diagnostic,
    field::Checker,
    model::{CheckKind, HealthCheck, Protocol},
    raw::{self, Value},
};

const INTERVAL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(50);
const TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(300);
const THRESHOLD: RangeInclusive<u8> = 1..=10;
const THRESHOLD_DEFAULT: u8 = 3;

/// Checks a health check. Without one, TCP listeners get the default check and UDP listeners none: a TCP connection
/// proves nothing about a UDP service unless the operator knows that it does.
///
/// Returns `None` after an error, and `Some(None)` for no check.
pub(super) fn build(
    checker: &mut Checker,
    table: Option<&raw::RawTable<raw::RawHealthCheck>>,
    protocol: Option<Protocol>,
) -> Option<Option<HealthCheck>> {
    let Some(table) = table else {
        return Some((protocol == Some(Protocol::Tcp)).then(default));
    };
    let raw = &table.as_ref().0;
    let kind = checker.required(raw.kind.as_ref(), "kind", &table.span(), "kind = \"tcp\"");
    let kind = kind.and_then(|value| checker.choice("kind", value, &KindWord::WORDS));
    let (interval, timeout) = kind.map_or_else(|| KindWord::Tcp.timing(), KindWord::timing);
    let port = raw.port.as_ref().map_or(Some(None), |value| checker.port("port", value).map(Some));
    let interval = duration(checker, "interval", raw.interval.as_ref(), INTERVAL, interval);
    let timeout = duration(checker, "timeout", raw.timeout.as_ref(), TIMEOUT, timeout);
    let healthy = threshold(checker, "healthy_threshold", raw.healthy_threshold.as_ref());
    let unhealthy = threshold(checker, "unhealthy_threshold", raw.unhealthy_threshold.as_ref());
    let passive = raw.passive.as_ref().map_or(Some(None), |table| passive::build(checker, table).map(Some));
    let kind = kind?;
    let fits = kind.refuse_others(checker, raw);
    let kind = match kind {
        KindWord::None => {
            if let Some(table) = &raw.passive {
                return passive::refuse_alone(checker, table);
            }
            warn_of_settings(checker, raw);
            return Some(None);
        }
        KindWord::Tcp => Some(CheckKind::Tcp),
        KindWord::Icmp => Some(CheckKind::Icmp),
        KindWord::Udp => udp::build(checker, raw).map(CheckKind::Udp),
        KindWord::Tls => http::tls(checker, raw).map(CheckKind::Tls),
        KindWord::Http => http::build(checker, raw, false).map(CheckKind::Http),
        KindWord::Https => http::build(checker, raw, true).map(CheckKind::Http),
    };
    fits?;
    Some(Some(HealthCheck {
        kind: kind?,
        port: port?,
        interval: interval?,
        timeout: timeout?,
        healthy_threshold: healthy?,
        unhealthy_threshold: unhealthy?,
        passive: passive?,
    }))
}

/// The check of a TCP listener without `health_check`.
fn default() -> HealthCheck {
    let (interval, timeout) = KindWord::Tcp.timing();
    HealthCheck {
        kind: CheckKind::Tcp,
        port: None,
        interval,
        timeout,
        healthy_threshold: THRESHOLD_DEFAULT,
        unhealthy_threshold: THRESHOLD_DEFAULT,
        passive: None,
    }
}

fn warn_of_settings(checker: &mut Checker, raw: &raw::RawHealthCheck) {
    let settings = [&raw.port, &raw.interval, &raw.timeout, &raw.healthy_threshold, &raw.unhealthy_threshold];
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

fn threshold(checker: &mut Checker, key: &str, value: Option<&Value>) -> Option<u8> {
    value.map_or(Some(THRESHOLD_DEFAULT), |value| checker.integer(key, value, THRESHOLD))
}
