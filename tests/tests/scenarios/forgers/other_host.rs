//! PACKET_OTHERHOST: SLB ignores frames to other MACs, as a switch floods them, in any mode and from either side.

use anyhow::{Result, ensure};
use slb_tests::{
    World,
    client::PATIENCE,
    forge::{CapturedFrame, FloodStats, MacPair, Tap},
    net::Family,
    packets::frames::{self, Frame, flag},
    scenario,
    server::Service,
};

use super::{WEIGHTS, at, on_clients_side, report, victims::Victim};

/// Number of foreign destination MACs: another host's, one that differs in the last bit, and broadcast.
const OTHERS: usize = 3;
/// Payload of forged frames.
const MARK: &[u8] = b"foreign";
/// Payload of the last frame.
const LAST: &[u8] = b"last";

/// Every kind of packet that SLB handles from clients: new flows, an existing flow, echo requests.
fn from_client(world: &World, family: Family, mac_pair: MacPair, victim: &Victim) -> Vec<Frame> {
    let source = world.net.sources(family)[1];
    let dsr = (family.vip(), Service::Lines.backend_port()).into();
    vec![
        mac_pair.carrying((source, 600).into(), world.vip(family, Service::Lines), flag::SYN, [7, 0], MARK),
        mac_pair.carrying((source, 600).into(), dsr, flag::SYN, [7, 0], MARK),
        mac_pair.carrying(victim.local, victim.target, flag::PSH | flag::ACK, [7, 7], MARK),
        mac_pair.datagram((source, 601).into(), world.vip(family, Service::Echo), MARK),
        frames::echo(source, family.vip(), MARK).macs(mac_pair.sender, mac_pair.receiver).build(),
    ]
}

#[test]
fn forged_frames_to_other_macs_are_not_forwarded() {
    scenario!(&WEIGHTS, |world| {
        world.plan.direct = true;
        world.net.backends.iter().try_for_each(slb_tests::net::Backend::add_vips)?;
        // Broadcast frames reach the kernel, which must not answer them in this test.
        world.net.slb.sysctl("net/ipv4/icmp_echo_ignore_all", "1")?;
        world.net.slb.sysctl("net/ipv6/icmp/echo_ignore_all", "1")?;
        world.start()?;
        let (forger, own) = on_clients_side(world)?;
        let at_client = Tap::at(&world.net.client, "eth0")?;
        let taps = world.net.backends.iter().map(|backend| Tap::at(&backend.namespace, "eth0"));
        let taps = taps.collect::<Result<Vec<_>>>()?;
        let others: [[u8; 6]; OTHERS] = [[2, 0, 0, 0, 0x77, 1], last_bit(own.receiver), [0xff; 6]];
        let (mut sent, mut forwarded) = (FloodStats::default(), Vec::new());
        for family in Family::ALL {
            let source = world.net.sources(family)[0];
            let victim =
                Victim::open(&world.net.client, (source, 0).into(), world.vip(family, Service::Lines))?;
            let foreign = |receiver| from_client(world, family, MacPair { receiver, ..own }, &victim);
            sent = sent.and(forger.send_all(others.into_iter().flat_map(foreign))?);
            // A server's answer of an existing flow.
            let server = &world.net.backends[usize::from(victim.server == "b2")];
            let (answers, mac_pair) = at(world, &server.namespace, &server.name)?;
            let from = (server.address(family), Service::Lines.backend_port()).into();
            let answer = |receiver| {
                let mac_pair = MacPair { receiver, ..mac_pair };
                mac_pair.carrying(from, victim.local, flag::PSH | flag::ACK, [7, 7], MARK)
            };
            sent =
                sent.and(answers.send_all([others[0], last_bit(mac_pair.receiver), others[2]].map(answer))?);
            // A frame to SLB's own MAC passes: earlier frames have been processed by then.
            let last = own.datagram((source, 700).into(), world.vip(family, Service::Echo), LAST);
            forger.send(&last)?;
            let is_last = |seen: &CapturedFrame| seen.payload.ends_with(LAST);
            let mut take = |seen: &CapturedFrame| {
                forwarded.extend(seen.payload.ends_with(MARK).then(|| seen.clone()));
                is_last(seen)
            };
            at_client.wait("the answer to what comes last", PATIENCE, &mut take)?;
            for tap in &taps {
                for seen in tap.seen()? {
                    take(&seen);
                }
            }
            let sound = forger.send_all(from_client(world, family, own, &victim))?.frames;
            forger.send(&last)?;
            at_client.wait("the answer to what comes last", PATIENCE, is_last)?;
            let marked =
                |tap: &Tap| Ok(tap.seen()?.iter().filter(|seen| seen.payload == MARK).count() as u64);
            let seen = taps.iter().map(marked).sum::<Result<u64>>()?;
            // SLB answers the echo request itself.
            ensure!(seen == sound - 1, "{family}: {seen} frames that are for SLB reach servers");
        }
        let shown: Vec<_> = forwarded.iter().map(|seen| format!("{} to {}", seen.from, seen.to)).collect();
        report("frames for other MAC addresses", sent, format!("{} frames leave", forwarded.len()));
        ensure!(forwarded.is_empty(), "forwarded or answered: {shown:?}");
        Ok(())
    });
}

fn last_bit(mac: [u8; 6]) -> [u8; 6] {
    let [a, b, c, d, e, f] = mac;
    [a, b, c, d, e, f ^ 1]
}
