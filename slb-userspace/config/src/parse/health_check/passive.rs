//! `passive` of a health check.

use std::{ops::RangeInclusive, time::Duration};

use slb_common::abi::ports::Ports;

use crate::{
    diagnostic::Diagnostic,
    field::Checker,
    model::{Mode, PassiveCheck, Protocol},
    raw,
};

const FAILURES: RangeInclusive<u32> = 2..=1_000;
const FAILURES_DEFAULT: u32 = 5;
const WITHIN: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(60);
const WITHIN_DEFAULT: Duration = Duration::from_secs(10);

/// Checks the ejection policy.
pub(super) fn build(
    checker: &mut Checker,
    table: &raw::RawTable<raw::RawPassiveCheck>,
) -> Option<PassiveCheck> {
    let raw = &table.as_ref().0;
    let failures = raw.failures.as_ref();
    let failures =
        failures.map_or(Some(FAILURES_DEFAULT), |value| checker.integer("failures", value, FAILURES));
    let within = super::duration(checker, "within", raw.within.as_ref(), WITHIN, WITHIN_DEFAULT);
    Some(PassiveCheck { failures: failures?, within: within? })
}

/// Refuses `passive` without a health check.
pub(super) fn refuse_alone<T>(
    checker: &mut Checker,
    table: &raw::RawTable<raw::RawPassiveCheck>,
) -> Option<T> {
    checker.refuse(
        Diagnostic::error(
            table.span(),
            "`passive` without a health check",
            "nothing would return an ejected server to service",
        )
        .help("remove it, or write `kind = \"tcp\"`"),
    )
}

/// Refuses `passive` where outcomes of connections prove nothing or are not seen.
pub(in crate::parse) fn check(
    checker: &mut Checker,
    check: Option<&raw::RawTable<raw::RawHealthCheck>>,
    protocol: Option<Protocol>,
    mode: Option<Mode>,
    ports: Option<Ports>,
) {
    let Some(table) = check.and_then(|check| check.as_ref().0.passive.as_ref()) else { return };
    let (message, label, help) = match (protocol, mode) {
        (Some(Protocol::Udp), _) => (
            "`passive` has no meaning for a UDP listener".to_owned(),
            "a server need not answer a datagram",
            "remove it; a check of kind `udp` with `request` and `expect` asks the service itself",
        ),
        (_, Some(mode)) if !mode.sees_replies() => (
            format!("`passive` has no meaning in mode `{}`", mode.name()),
            "answers do not pass through SLB, which cannot observe them",
            "remove it, or write `mode = \"nat\"` or `mode = \"full-nat\"`",
        ),
        _ if ports.is_some_and(Ports::is_range) => (
            "`passive` has no meaning for a port range".to_owned(),
            "a healthy server refuses connections to those of its ports that nothing listens on",
            "remove it, or give the port that shows the server's health a listener and a group of its own",
        ),
        _ => return,
    };
    checker.note(Diagnostic::error(table.span(), message, label).help(help));
}
