//! The table of packet cases.

mod flows;
mod foreign;
mod forged;
mod forward;
mod headers;
mod keepers;
mod martians;
mod modes;
mod priority;
mod reopened;
mod replies;
mod resets;
mod resizing;
mod roles;
mod scheduling;
mod told;
mod truncations;
mod unmatched;

use super::scenario::Scenario;

/// Every case.
pub fn all() -> Vec<Scenario> {
    [
        forward::cases(),
        replies::cases(),
        headers::cases(),
        truncations::cases(),
        flows::cases(),
        forged::cases(),
        reopened::cases(),
        modes::cases(),
        priority::cases(),
        keepers::cases(),
        martians::cases(),
        told::cases(),
        resets::cases(),
        resizing::cases(),
        scheduling::cases(),
        unmatched::cases(),
        foreign::cases(),
        roles::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
