//! Attacks by forged frames: what they achieve, in numbers, and what they must not. Also legitimate behaviour that a
//! defence could mistake for an attack.
//!
//! `cargo xtask test forgers` runs them all. Lines that begin with `attack:` report the result of an attack. `SLBD` and
//! `SLB` may name other programs than this build's, to compare their results.

mod blind;
mod diverted_answers;
mod draining;
mod errors;
mod fill;
mod floods;
mod flush;
mod legitimate;
mod nodes;
mod other_host;
mod share;
mod sides;
mod sources;
mod stray;
mod victims;

use std::fmt::Display;

use anyhow::Result;
use slb_tests::{
    World,
    forge::{FloodStats, Forger, MacPair},
    net::Namespace,
};

/// Two servers with equal weights.
const WEIGHTS: [u8; 2] = [50, 50];

/// A report calls fewer frames "at once", since their rate means nothing.
const MANY: u64 = 1_000;

/// Prints the result of an attack.
fn report(attack: impl Display, sent: FloodStats, achieved: impl Display) {
    let FloodStats { frames, time } = sent;
    let pace = if frames < MANY {
        "at once".to_owned()
    } else {
        format!("{} a second for {:.1} s", sent.rate(), time.as_secs_f64())
    };
    println!("attack: {attack}: {frames} frames, {pace}: {achieved}");
}

/// An attacker in this namespace, to which an interface of `slb` leads: its socket, and the MAC pair of its frames.
fn at(world: &World, namespace: &Namespace, interface: &str) -> Result<(Forger, MacPair)> {
    let forger = Forger::at(namespace, "eth0")?;
    let mac_pair = MacPair { sender: forger.mac, receiver: world.net.slb.mac(interface)? };
    Ok((forger, mac_pair))
}

/// An attacker on the clients' link, with the client's MAC.
fn on_clients_side(world: &World) -> Result<(Forger, MacPair)> {
    at(world, &world.net.client, "client0")
}

/// A hardware address in the notation of `ip`.
fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
