//! Random access lists: networks around the addresses of clients.

use std::net::IpAddr;

use super::configuration::CLIENTS;
use crate::{
    choices::Choices,
    world::{Access, Network},
};

/// Number of lists in a configuration.
const LISTS: u32 = 4;

/// The lists. Some are empty.
pub(super) fn lists(choices: &mut impl Choices) -> Vec<Vec<Network>> {
    (0..LISTS)
        .map(|_| {
            let networks = choices.pick(&[0, 1, 1, 2, 2, 4, 8]);
            (0..networks).map(|_| network(choices)).collect()
        })
        .collect()
}

/// The list of a listener. Most listeners have none.
pub(super) fn of_listener(choices: &mut impl Choices) -> Option<Access> {
    choices.rarely(5).then(|| Access { list: choices.below(LISTS) as usize, admits: choices.rarely(2) })
}

fn network(choices: &mut impl Choices) -> Network {
    match choices.pick(&CLIENTS) {
        IpAddr::V4(client) => {
            let length = choices.pick(&[0, 1, 8, 23, 24, 29, 30, 31, 32, 32, 32]);
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            (IpAddr::V4((u32::from(client) & mask).into()), length)
        }
        IpAddr::V6(client) => {
            let length = choices.pick(&[0, 3, 32, 33, 44, 48, 64, 96, 125, 127, 128, 128, 128]);
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            (IpAddr::V6((u128::from(client) & mask).into()), length)
        }
    }
}
