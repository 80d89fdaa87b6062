//! Drain deadline and idle timeout of a listener.

use std::{ops::RangeInclusive, time::Duration};

use crate::{diagnostic::Diagnostic, field::Checker, model::Protocol, raw};

const CONNECTION_DRAIN: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(900);
const ESTABLISHED_TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(900);
const DEFAULT_ESTABLISHED_TIMEOUT: Duration = Duration::from_secs(900);
/// Idle timeout of UDP flows.
const UDP_IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// Drain deadline and idle timeout.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    pub(super) drain_timeout: Option<Duration>,
    pub(super) idle_timeout: Duration,
}

/// Checks drain deadline and idle timeout.
pub(super) fn build(
    checker: &mut Checker,
    raw: &raw::RawListener,
    protocol: Option<Protocol>,
) -> Option<Timeouts> {
    let drain_timeout =
        checker.optional_duration("drain_timeout", raw.drain_timeout.as_ref(), CONNECTION_DRAIN);
    let established = raw.established_timeout.as_ref().map_or(Some(DEFAULT_ESTABLISHED_TIMEOUT), |value| {
        checker.duration("established_timeout", value, ESTABLISHED_TIMEOUT)
    });
    if let (Some(value), Some(Protocol::Udp)) = (&raw.established_timeout, protocol) {
        checker.note(
            Diagnostic::error(
                value.span(),
                "`established_timeout` has no meaning here",
                "for TCP listeners: UDP flows expire after 90 s without a packet",
            )
            .help("remove it"),
        );
    }
    let idle_timeout = if protocol == Some(Protocol::Udp) { UDP_IDLE_TIMEOUT } else { established? };
    Some(Timeouts { drain_timeout: drain_timeout?, idle_timeout })
}
