//! Unmatched packets for a VIP do not return to the router; a host that owns the VIP keeps its own services.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use slb_tests::{World, client::PATIENCE, net::Family, scenario, server::Service, wait::wait_for};

/// A port without a listener.
const PORT: u16 = 4443;
/// Bytes of a datagram that needs fragmentation.
const LARGE: usize = 4000;
/// Longer than an answer takes.
const SILENCE: Duration = Duration::from_millis(300);

/// Result of a request.
#[derive(Debug, PartialEq, Eq)]
enum ReplyOutcome {
    Answered,
    Refused,
    Silence,
}

#[test]
fn unmatched_packets_do_not_loop_and_host_services_work() {
    scenario!(&[50], |world| {
        // As on a gateway: VIPs are routed to this host, whose kernel would route the packets back.
        world.net.route_vips()?;
        world.net.kernel_forwarding(true)?;
        world.start()?;
        let forwarded = forwarded(world)?;
        for family in Family::ALL {
            ensure!(tcp(world, family.vip(), PORT)? == ReplyOutcome::Refused, "{family}: TCP");
            ensure!(udp(world, family.vip(), 100)? == ReplyOutcome::Refused, "{family}: UDP");
            // The first fragment has the port. Packets with IPv6 extension headers get no answer.
            let of_fragments =
                if family == Family::V4 { ReplyOutcome::Refused } else { ReplyOutcome::Silence };
            ensure!(udp(world, family.vip(), LARGE)? == of_fragments, "{family}: fragments");
            ensure!(world.client().ping(family.vip(), PATIENCE)?.is_some(), "{family}: ping");
        }

        let now = self::forwarded(world)?;
        ensure!(now == forwarded, "the kernel has forwarded {} packets", now - forwarded);
        added_and_removed(world)?;

        let forwarded = self::forwarded(world)?;
        world.plan.unmatched = Some("drop");
        world.reload()?;
        ensure!(tcp(world, Family::V4.vip(), PORT)? == ReplyOutcome::Silence, "dropped");

        (world.plan.unmatched, world.plan.state) = (None, Some("stopped"));
        world.reload()?;
        for family in Family::ALL {
            let port = world.plan.vip_port(Service::Http);
            ensure!(tcp(world, family.vip(), port)? == ReplyOutcome::Refused, "{family}: a stopped listener");
            ensure!(world.client().ping(family.vip(), SILENCE)?.is_none(), "{family}: stopped, and answers");
        }
        let now = self::forwarded(world)?;
        ensure!(now == forwarded, "the kernel has forwarded {} packets", now - forwarded);
        Ok(())
    });
}

/// VIPs are added to the host's addresses while the daemon runs, and removed again.
fn added_and_removed(world: &World) -> Result<()> {
    let (v4, v6) = (Family::V4.vip(), Family::V6.vip());
    world.net.slb.ip(&format!("addr add {v4}/32 dev lo\naddr add {v6}/128 dev lo"))?;
    for family in Family::ALL {
        wait_for("the host's own datagrams", PATIENCE, || {
            Ok((udp(world, family.vip(), LARGE)? == ReplyOutcome::Answered).then_some(()))
        })?;
        ensure!(tcp(world, family.vip(), PORT)? == ReplyOutcome::Refused, "{family}: the kernel's answer");
    }
    world.net.slb.ip(&format!("addr del {v4}/32 dev lo\naddr del {v6}/128 dev lo"))?;
    for family in Family::ALL {
        wait_for("SLB's answer", PATIENCE, || {
            let before = world.packets("answer", Some("unmatched"))?;
            // Until SLB takes these packets, the kernel routes them back.
            let is_refused = tcp(world, family.vip(), PORT)? == ReplyOutcome::Refused;
            Ok((is_refused && world.packets("answer", Some("unmatched"))? > before).then_some(()))
        })?;
    }
    Ok(())
}

fn tcp(world: &World, vip: IpAddr, port: u16) -> Result<ReplyOutcome> {
    world.net.client.on_thread(|| match TcpStream::connect_timeout(&SocketAddr::new(vip, port), SILENCE) {
        Ok(_) => Ok(ReplyOutcome::Answered),
        Err(error) => outcome(error),
    })
}

/// Sends a datagram to a socket of the host itself.
fn udp(world: &World, vip: IpAddr, len: usize) -> Result<ReplyOutcome> {
    let any = |port| SocketAddr::new(if vip.is_ipv4() { [0; 4].into() } else { [0; 16].into() }, port);
    let server = world.net.slb.on_thread(|| Ok(UdpSocket::bind(any(PORT))?))?;
    server.set_nonblocking(true)?;
    world.net.client.on_thread(|| {
        let socket = UdpSocket::bind(any(0))?;
        socket.set_read_timeout(Some(SILENCE))?;
        socket.connect((vip, PORT))?;
        socket.send(&vec![7; len])?;
        match socket.recv(&mut [0; 1]) {
            Ok(_) => bail!("no process answers datagrams"),
            Err(error) => match outcome(error)? {
                ReplyOutcome::Silence if server.recv(&mut vec![0; LARGE]).is_ok_and(|got| got == len) => {
                    Ok(ReplyOutcome::Answered)
                }
                silent_or_refused => Ok(silent_or_refused),
            },
        }
    })
}

fn outcome(error: std::io::Error) -> Result<ReplyOutcome> {
    match error.kind() {
        ErrorKind::ConnectionRefused => Ok(ReplyOutcome::Refused),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Ok(ReplyOutcome::Silence),
        _ => Err(error.into()),
    }
}

/// Packets that the host's kernel has forwarded.
fn forwarded(world: &World) -> Result<u64> {
    let v6 = world.net.slb.on_thread(|| {
        let all = std::fs::read_to_string("/proc/thread-self/net/snmp6")?;
        let found = all.lines().find_map(|line| line.strip_prefix("Ip6OutForwDatagrams"));
        Ok(found.unwrap_or("0").trim().parse::<u64>()?)
    })?;
    Ok(world.net.slb.counter("Ip:", "ForwDatagrams")? + v6)
}
