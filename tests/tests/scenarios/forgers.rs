//! Attacks by forged frames: what they achieve, in numbers, and what they must not. Beside them what real clients do that a defence
//! could take for an attack.
//!
//! `cargo xtask test forgers` runs them all. A line that begins with `attack:` says what an attack came to. `SLBD` and `SLB` name other
//! programs than this build's, of which the same lines say what it came to there.

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

/// Of two servers that share all.
const WEIGHTS: [u8; 2] = [50, 50];

/// Frames that take a while; fewer are sent at once.
const MANY: u64 = 1_000;

/// Says what an attack came to.
fn report(attack: impl Display, sent: Flooded, achieved: impl Display) {
    let Flooded { frames, time } = sent;
    let pace = if frames < MANY {
        "at once".to_owned()
    } else {
        format!("{} a second for {:.1} s", sent.rate(), time.as_secs_f64())
    };
    println!("attack: {attack}: {frames} frames, {pace}: {achieved}");
}

/// An attacker in this namespace, which an interface of `slb` leads to: its socket, and the hardware addresses of both ends.
fn at(world: &World, namespace: &Namespace, interface: &str) -> Result<(Forger, Way)> {
    let forger = Forger::at(namespace, "eth0")?;
    let way = Way { sender: forger.mac, receiver: world.net.slb.mac(interface)? };
    Ok((forger, way))
}

/// An attacker on the clients' link, with the client's hardware address.
fn on_clients_side(world: &World) -> Result<(Forger, Way)> {
    at(world, &world.net.client, "client0")
}

/// A hardware address as `ip` takes it.
fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
