//! PACKET_OTHERHOST: frames to MACs of other hosts, as a flooding switch or a promiscuous NIC delivers them.

use std::{
    io::{Read as _, Write as _},
    net::{TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use slb_tests::{World, client::PATIENCE, net::Family, scenario, server::Service, wait::wait_for};

const FOREIGN: &str = "02:00:5e:10:00:77";
const NEXT: &str = "02:00:5e:10:00:78";
/// MAC of a virtual router (VRRP).
const ROUTER: &str = "00:00:5e:00:01:01";
const BRIDGE: &str = "02:00:5e:10:00:79";
/// Time within which frames to a new MAC of the interface are forwarded.
const LIMIT: Duration = Duration::from_secs(1);

/// Makes the client send all frames to this MAC.
fn send_to(world: &World, mac: &str) -> Result<()> {
    let entry = |family| {
        format!("neigh replace {} lladdr {mac} dev eth0 nud permanent", world.net.slb_address(family))
    };
    world.net.client.ip(&Family::ALL.map(entry).join("\n"))
}

/// Whether a datagram to a VIP is answered.
fn is_answered(world: &World, socket: &UdpSocket, family: Family) -> Result<bool> {
    socket.send_to(b"hello", world.vip(family, Service::Echo))?;
    Ok(socket.recv(&mut [0; 64]).is_ok())
}

fn sockets(world: &World) -> Result<[(Family, UdpSocket); 2]> {
    let socket = |family| {
        let socket =
            world.net.client.on_thread(|| Ok(UdpSocket::bind((world.net.sources(family)[0], 0))?))?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        Ok::<_, anyhow::Error>((family, socket))
    };
    Ok([socket(Family::V4)?, socket(Family::V6)?])
}

/// Checks that frames are neither forwarded nor answered, and are counted.
fn expect_left_alone(world: &World, sockets: &[(Family, UdpSocket)]) -> Result<()> {
    let passed = world.packets("pass", Some("other_host"))?;
    let forwarded = world.packets("forward", None)? + world.packets("answer", None)?;
    for (family, socket) in sockets {
        ensure!(!is_answered(world, socket, *family)?, "{family}: a frame for another host is forwarded");
        let ping = world.client().ping(family.vip(), Duration::from_millis(100))?;
        ensure!(ping.is_none(), "{family}: a frame for another host is answered");
    }
    // Health checks go on meanwhile; SLB does not forward their packets.
    let now = world.packets("forward", None)? + world.packets("answer", None)?;
    ensure!(now == forwarded, "{} frames were forwarded", now - forwarded);
    let counted = world.packets("pass", Some("other_host"))? - passed;
    ensure!(counted >= 4, "{counted} frames are counted");
    Ok(())
}

/// Checks that datagrams are answered again within [`LIMIT`].
fn expect_answers(world: &World, sockets: &[(Family, UdpSocket)], what: &str) -> Result<()> {
    let begun = Instant::now();
    for (family, socket) in sockets {
        wait_for(what, LIMIT, || Ok(is_answered(world, socket, *family)?.then_some(())))?;
    }
    println!("{what}: {:?}", begun.elapsed());
    Ok(())
}

/// The MAC of a macvlan on top of the interface, as a virtual router (VRRP) has it, is the host's while the device is
/// up.
fn expect_virtual_address(world: &World, sockets: &[(Family, UdpSocket)]) -> Result<()> {
    let slb = &world.net.slb;
    if world.net.lacks(&["macvlan"])?.is_some() {
        println!("skipped: this kernel has no macvlan devices");
        return Ok(());
    }
    send_to(world, ROUTER)?;
    slb.ip(&format!("link add link client0 name virtual address {ROUTER} type macvlan mode bridge"))?;
    expect_left_alone(world, sockets)?;
    slb.ip("link set virtual up")?;
    expect_answers(world, sockets, "answers at the address of a macvlan")?;
    // As when the MAC moves to another node: only one node may answer.
    slb.ip("link del virtual")?;
    wait_for("an address that is no longer the host's", LIMIT, || {
        Ok(expect_left_alone(world, sockets).is_ok().then_some(()))
    })
}

#[test]
fn frames_for_other_hosts_pass_to_the_kernel() {
    scenario!(&[100], |world| {
        world.start()?;
        let sockets = sockets(world)?;
        expect_answers(world, &sockets, "answers at first")?;
        let mut connections = Vec::new();
        for family in Family::ALL {
            let vip = world.vip(family, Service::Lines);
            let stream = world.net.client.on_thread(|| Ok(TcpStream::connect_timeout(&vip, PATIENCE)?))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            connections.push(stream);
        }
        send_to(world, FOREIGN)?;
        expect_left_alone(world, &sockets)?;

        // The interface gets another MAC.
        world.net.slb.ip(&format!("link set client0 address {NEXT}"))?;
        send_to(world, NEXT)?;
        expect_answers(world, &sockets, "answers at another address")?;
        send_to(world, FOREIGN)?;
        expect_left_alone(world, &sockets)?;

        expect_virtual_address(world, &sockets)?;

        // The interface becomes a port of a bridge, which has its own MAC.
        let addresses = Family::ALL.map(|family| {
            let length = if family == Family::V4 { 24 } else { 64 };
            format!("addr add {}/{length} dev br0", world.net.slb_address(family))
        });
        world.net.slb.ip(&format!(
            "link add br0 address {BRIDGE} type bridge\naddr flush dev client0\nlink set client0 master br0\nlink set br0 up\n{}",
            addresses.join("\n")
        ))?;
        send_to(world, BRIDGE)?;
        expect_answers(world, &sockets, "answers at the bridge's address")?;
        send_to(world, NEXT)?;
        expect_answers(world, &sockets, "answers at the port's address")?;
        send_to(world, FOREIGN)?;
        expect_left_alone(world, &sockets)?;

        // Connections have survived all changes.
        send_to(world, BRIDGE)?;
        for connection in &mut connections {
            connection.write_all(b"still there\n")?;
            ensure!(connection.read(&mut [0; 64])? > 0, "a connection has ended");
        }
        Ok(())
    });
}
