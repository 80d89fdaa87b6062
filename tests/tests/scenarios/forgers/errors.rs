//! Floods that provoke ICMP errors and echo replies; path-MTU discovery of other clients still works.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use slb_tests::{
    client::PATIENCE,
    forge::{CapturedFrame, FloodStats, Forger, Tap},
    net::Family,
    packets::frames::{self, Frame},
    scenario,
    server::Service,
};

use super::{WEIGHTS, on_clients_side, report};

/// MTU of the links to the servers.
const MTU: u16 = 1_300;
/// Frames per second that provoke answers; above SLB's rate limit.
const RATE: u32 = 6_000;
/// Number of oversized packets, and the time between them. Together they outlast the window of the rate limiter.
const TOO_BIG: u16 = 60;
const PAUSE: Duration = Duration::from_millis(25);

/// Builds frame number n.
type Forge<'a> = &'a (dyn Fn(u16) -> Frame + Sync);

/// Packets without hops left provoke ICMP errors, and echo requests provoke replies.
#[test]
fn icmp_error_floods_starve_no_path_mtu_discovery() {
    scenario!(&WEIGHTS, |world| {
        for backend in &world.net.backends {
            world.net.slb.ip(&format!("link set {} mtu {MTU}", backend.name))?;
        }
        world.start()?;
        let (forger, mac_pair) = on_clients_side(world)?;
        let tap = Tap::at(&world.net.client, "eth0")?;
        let mut starved = Vec::new();
        for family in Family::ALL {
            let (sources, echo) = (world.net.sources(family), world.vip(family, Service::Echo));
            let expired = |number: u16| {
                let from = (sources[usize::from(number) % 4], 1_024 + number % 512).into();
                let datagram = frames::udp(from, echo, b"far").hop_limit(1);
                datagram.macs(mac_pair.sender, mac_pair.receiver).build()
            };
            let ping = |number: u16| {
                let from = sources[usize::from(number) % 4];
                frames::echo(from, echo.ip(), b"ping").macs(mac_pair.sender, mac_pair.receiver).build()
            };
            let too_big = mac_pair.datagram((sources[7], 700).into(), echo, &[7; MTU as usize]);
            let (fragment, exceeded) = if family == Family::V4 { (3, 11) } else { (2, 3) };
            let floods: [(&str, Forge<'_>, u8); 2] = [
                ("packets without hops left", &expired, exceeded),
                ("echo requests", &ping, if family == Family::V4 { 0 } else { 129 }),
            ];
            for (name, forge, drawn) in floods {
                tap.seen()?;
                let (sent, seen) = beside(&forger, &tap, forge, &too_big)?;
                let of = |kind: u8| seen.iter().filter(|seen| seen.icmp == Some(kind)).count();
                let told =
                    seen.iter().filter(|s| s.icmp == Some(fragment) && s.to.ip() == sources[7]).count();
                report(
                    format!("{name}, {family}"),
                    sent,
                    format!(
                        "{} answers; {told} of {TOO_BIG} packets that are too big have an error",
                        of(drawn)
                    ),
                );
                starved.extend(
                    (told < usize::from(TOO_BIG) * 9 / 10).then(|| format!("{name}, {family}: {told}")),
                );
            }
        }
        ensure!(
            starved.is_empty(),
            "of {TOO_BIG} packets that are too big so few have an error: {starved:?}"
        );
        Ok(())
    });
}

/// Sends oversized frames during a flood. Returns what arrives at the client meanwhile.
fn beside(
    forger: &Forger,
    tap: &Tap,
    forge: Forge<'_>,
    too_big: &Frame,
) -> Result<(FloodStats, Vec<CapturedFrame>)> {
    let are_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let numbers = (0..=u16::MAX).cycle().take_while(|_| !are_done.load(Ordering::Relaxed));
        let flood = scope.spawn(|| forger.flood(RATE, numbers.map(forge)));
        let paced = (0..TOO_BIG).map(|_| too_big.clone());
        let paced = paced.inspect(|_| thread::sleep(PAUSE));
        let sent = forger.send_all(paced);
        are_done.store(true, Ordering::Relaxed);
        let flooded = flood.join().ok().context("the flood panicked")??;
        sent?;
        let mut seen = tap.seen()?;
        // The flood always has an answer in flight: an echo reply or an ICMP error.
        if let Ok(last) = tap.wait("what is under way", PATIENCE / 50, |_| true) {
            seen.push(last);
            seen.extend(tap.seen()?);
        }
        Ok((flooded, seen))
    })
}
