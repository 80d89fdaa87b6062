//! Attacks by forged frames: what they achieve, in numbers, and what they must not. Also legitimate behaviour that a
//! defence could mistake for an attack.
//!
//! `cargo xtask test forgers` runs them all. Lines that begin with `attack:` report the result of an attack. `SLBD` and
//! `SLB` may name other programs than this build's, to compare their results.

mod blind;
mod diverted;
mod errors;
mod fill;
mod floods;
mod flush;
mod foreign;
mod leaving;
mod nodes;
mod noticed;
mod share;
mod sides;
mod sources;
mod stray;
mod victims;

use std::fmt::Display;

use anyhow::Result;
use slb_tests::{
    World,
    forge::{Flooded, Forger, Way},
    net::Namespace,
};

/// Two servers with equal weights.
const WEIGHTS: [u8; 2] = [50, 50];

/// A report calls fewer frames "at once", since their rate means nothing.
const MANY: u64 = 1_000;

/// Prints the result of an attack.
fn report(attack: impl Display, sent: Flooded, achieved: impl Display) {
    let Flooded { frames, time } = sent;
    let pace = if frames < MANY {
        "at once".to_owned()
    } else {
        format!("{} a second for {:.1} s", sent.rate(), time.as_secs_f64())
    };
    println!("attack: {attack}: {frames} frames, {pace}: {achieved}");
}

/// An attacker in this namespace, to which an interface of `slb` leads: its socket, and the MAC pair of its frames.
fn at(world: &World, namespace: &Namespace, interface: &str) -> Result<(Forger, Way)> {
    let forger = Forger::at(namespace, "eth0")?;
    let way = Way { sender: forger.mac, receiver: world.net.slb.mac(interface)? };
    Ok((forger, way))
}

/// An attacker on the clients' link, with the client's MAC.
fn on_clients_side(world: &World) -> Result<(Forger, Way)> {
    at(world, &world.net.client, "client0")
}

/// A hardware address in the notation of `ip`.
fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
