//! The table of packet cases.

mod access;
mod flows;
mod forged;
mod forward;
mod fragments;
pub(super) mod full_nat;
mod headers;
mod icmp_errors;
mod limits;
mod martians;
mod modes;
mod other_host;
mod previous_backends;
mod priority;
mod quic;
mod ranges;
pub(super) mod related;
mod reopened;
mod replies;
mod resets;
mod resizing;
mod roles;
mod scheduling;
mod toa;
mod truncations;
mod unmatched;
mod vlans;

use super::scenario::Scenario;

/// Every case.
pub fn all() -> Vec<Scenario> {
    [
        access::cases(),
        limits::cases(),
        forward::cases(),
        replies::cases(),
        headers::cases(),
        fragments::cases(),
        truncations::cases(),
        flows::cases(),
        forged::cases(),
        reopened::cases(),
        modes::cases(),
        full_nat::cases(),
        ranges::cases(),
        toa::cases(),
        quic::cases(),
        priority::cases(),
        previous_backends::cases(),
        martians::cases(),
        icmp_errors::cases(),
        related::cases(),
        resets::cases(),
        resizing::cases(),
        scheduling::cases(),
        unmatched::cases(),
        other_host::cases(),
        roles::cases(),
        vlans::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
