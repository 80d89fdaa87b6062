//! VIPs in the subnet of the client's link: the client has neither a route nor a neighbour entry for them.

use std::{
    net::{IpAddr, Ipv4Addr},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use slb_tests::{
    World,
    client::PATIENCE,
    daemon::program,
    forge::ArpSocket,
    net::{Family, run},
    scenario,
    server::Service,
    wait::wait_for,
};

use super::modes::{DirectMode, prepare};

const WEIGHTS: [u8; 2] = [50, 50];
/// Longer than an answer takes.
const SILENCE: Duration = Duration::from_millis(300);
/// Longer than the first probe for other hosts takes.
const PROBED: Duration = Duration::from_secs(30);

/// Starts the daemon, which is to announce the VIPs, and checks that the client reaches them.
fn start(world: &mut World) -> Result<()> {
    world.net.put_vips_on_link()?;
    world.plan.announce = Some("arp");
    world.start()?;
    expect_reached(world, "after the start")?;
    // Gratuitous messages may have come before the client asked.
    for family in Family::ALL {
        wait_for(&format!("{family}: an answer"), PATIENCE, || {
            world.net.forget_neighbours()?;
            world.client().ping(family.vip(), SILENCE)?;
            Ok((answers(world, family)? > 0).then_some(()))
        })?;
    }
    Ok(())
}

/// Answers for the VIP of a family.
fn answers(world: &World, family: Family) -> Result<u64> {
    let vips = world.status()?.daemon.context("no daemon")?.vips;
    let vip = vips.iter().find(|vip| vip.address == family.vip()).context("no such VIP")?;
    Ok(vip.announced.iter().flatten().map(|at| at.answers).sum())
}

/// Waits until the client, whose neighbour entries are flushed, reaches the VIPs. Each has the hardware address of the
/// client's link.
fn expect_reached(world: &World, when: &str) -> Result<()> {
    for family in Family::ALL {
        wait_for(&format!("{family}: answers {when}"), PATIENCE, || {
            world.net.forget_neighbours()?;
            world.client().ping(family.vip(), SILENCE)
        })?;
        for service in [Service::Http, Service::Echo] {
            world.client().exchange(service, world.vip(family, service)).context(when.to_owned())?;
        }
        let mac = text(world.net.slb.mac("client0")?);
        let found = world.net.vip_neighbour(family)?;
        ensure!(found.as_deref() == Some(&*mac), "{family}: {found:?} in place of {mac}");
    }
    Ok(())
}

/// The client's neighbour entries for the VIPs, which it uses.
fn entries(world: &World) -> Result<Vec<(Family, String)>> {
    let entry = |family: Family| {
        ensure!(world.client().ping(family.vip(), PATIENCE)?.is_some(), "{family}: no answer");
        Ok((family, world.net.vip_neighbour(family)?.context("no entry")?))
    };
    Family::ALL.into_iter().map(entry).collect()
}

/// Waits until an announcement has changed the client's entries. The client sends nothing.
fn expect_entries(world: &World, before: Vec<(Family, String)>, mac: &str) -> Result<()> {
    for (family, before) in before {
        ensure!(before != mac, "{family}: {mac} before the announcement");
        wait_for(&format!("{family}: the announced hardware address"), PROBED, || {
            Ok((world.net.vip_neighbour(family)?.as_deref() == Some(mac)).then_some(()))
        })?;
    }
    Ok(())
}

/// Waits until no host answers for the VIPs.
fn expect_silence(world: &World, when: &str) -> Result<()> {
    for family in Family::ALL {
        wait_for(&format!("{family}: silence {when}"), PATIENCE, || {
            world.net.forget_neighbours()?;
            let answered = world.client().ping(family.vip(), SILENCE)?.is_some();
            Ok((!answered && world.net.vip_neighbour(family)?.is_none()).then_some(()))
        })?;
    }
    Ok(())
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Filters at the ingress of the client's interface.
fn filters(world: &World) -> Result<String> {
    let arguments = ["filter", "show", "dev", "client0", "ingress"];
    run(world.net.slb.command("tc").args(arguments), "")
}

#[test]
fn announced_vips_are_reached_in_nat() {
    scenario!(&WEIGHTS, |world| {
        start(world)?;
        let status = world.status()?;
        let daemon = status.daemon.as_ref().context("a daemon")?;
        for vip in &daemon.vips {
            let announced = vip.announced.as_ref().context("not announced")?;
            let interfaces: Vec<_> = announced.iter().map(|at| at.interface.as_str()).collect();
            ensure!(interfaces == ["client0"] && announced[0].answers > 0, "{vip:?}");
            ensure!(vip.unanswered.is_none() && vip.announcement_troubles.is_empty(), "{vip:?}");
        }
        let shown = world.slb(&["status"])?;
        ensure!(shown.contains("announces 2 VIPs on client0: "), "{shown}");
        Ok(())
    });
}

#[test]
fn announced_vips_are_reached_in_dsr() {
    scenario!(&WEIGHTS, |world| {
        prepare(world, DirectMode::Dsr)?;
        start(world)
    });
}

#[test]
fn announced_vips_are_reached_in_ipip() {
    scenario!(&WEIGHTS, |world| {
        prepare(world, DirectMode::Ipip(Family::V4))?;
        start(world)
    });
}

#[test]
fn announced_vips_stay_reachable_without_the_daemon_and_over_its_restart() {
    scenario!(&WEIGHTS, |world| {
        start(world)?;
        world.kill()?;
        expect_reached(world, "after SIGKILL")?;
        world.start()?;
        expect_reached(world, "after another start")?;
        ensure!(filters(world)?.matches("direct-action").count() == 1, "{}", filters(world)?);
        world.terminate()?;
        expect_reached(world, "after SIGTERM")?;

        world.detach()?;
        expect_silence(world, "after slbd detach")?;
        ensure!(!filters(world)?.contains("slb_answer"), "{}", filters(world)?);
        ensure!(proxies(world)?.is_empty(), "{}", proxies(world)?);
        Ok(())
    });
}

#[test]
fn announcement_follows_the_configuration() {
    scenario!(&WEIGHTS, |world| {
        start(world)?;
        let announcing = world.plan.clone();

        world.plan.announce = None;
        world.write(&world.plan.toml())?;
        let diff = world.slb(&["diff"])?;
        ensure!(diff.contains("announce") && diff.contains("arp") && diff.contains("off"), "{diff}");
        world.slb(&["reload"])?;
        expect_silence(world, "without `announce`")?;

        let file = world.write_other(&announcing.toml())?;
        world.slb(&["apply", &file, "--confirm-within", "2s"])?;
        expect_reached(world, "while a change is not confirmed")?;
        expect_silence(world, "after the rollback")?;

        world.plan = announcing.clone();
        world.plan.state = Some("stopped");
        world.reload()?;
        expect_silence(world, "of a stopped load balancer")?;

        world.plan = announcing.clone();
        world.plan.roles.insert("client0".to_owned(), "server");
        world.reload()?;
        expect_silence(world, "at an interface of role server")?;

        world.plan = announcing;
        world.reload()?;
        expect_reached(world, "as at first")
    });
}

#[test]
fn announcement_follows_addresses_of_the_interface() {
    scenario!(&WEIGHTS, |world| {
        start(world)?;
        world.net.set_vip_subnet(false)?;
        world.wait_for_line(&["WARN", "VIPs are not announced", "198.51.100.10"])?;
        expect_silence(world, "without an address of the subnet")?;
        let shown = world.slb(&["status"])?;
        ensure!(shown.contains("VIP 198.51.100.10: is not announced: no interface"), "{shown}");
        world.net.set_vip_subnet(true)?;
        expect_reached(world, "with addresses again")?;

        let (before, mac) = (entries(world)?, "02:00:5e:10:00:77");
        world.net.slb.ip(&format!("link set client0 address {mac}"))?;
        expect_entries(world, before, mac)?;
        expect_reached(world, "at another hardware address")
    });
}

/// Asks for the VIP, and then for an address of the host that its kernel answers for.
#[test]
fn arp_probe_and_request_are_answered_once_also_for_a_vip_of_the_host() {
    scenario!(&WEIGHTS, |world| {
        start(world)?;
        let (IpAddr::V4(vip), IpAddr::V4(own), IpAddr::V4(sender)) =
            (Family::V4.vip(), world.net.slb_address(Family::V4), world.net.sources(Family::V4)[0])
        else {
            bail!("no IPv4 addresses")
        };
        let mac = world.net.slb.mac("client0")?;
        let arp = ArpSocket::at(&world.net.client, "eth0")?;
        for is_own_address in [false, true] {
            if is_own_address {
                world.net.slb.ip(&format!("addr add {vip}/32 dev client0"))?;
            }
            for sender in [sender, Ipv4Addr::UNSPECIFIED] {
                arp.ask(sender, vip)?;
                arp.ask(sender, own)?;
                let replies = [arp.next_reply(PATIENCE)?, arp.next_reply(PATIENCE)?];
                ensure!(replies == [(vip, mac), (own, mac)], "{sender}, {is_own_address}: {replies:?}");
            }
        }
        Ok(())
    });
}

#[test]
fn host_that_wants_an_announced_address_notices_it() {
    scenario!(&WEIGHTS, |world| {
        start(world)?;
        let vip = Family::V6.vip();
        let (before, client) = (answers(world, Family::V6)?, &world.net.client);
        client.sysctl("net/ipv6/conf/eth0/accept_dad", "1")?;
        // An announcement at the same time has the same effect, and no probe is sent then.
        wait_for("an answered probe", PROBED, || {
            client.ip(&format!("addr add {vip}/64 dev eth0"))?;
            wait_for("a duplicate address", PATIENCE, || {
                let arguments = ["-6", "addr", "show", "dev", "eth0", "dadfailed"];
                let shown = run(client.command("ip").args(arguments), "")?;
                Ok(shown.contains(&vip.to_string()).then_some(()))
            })?;
            client.ip(&format!("addr del {vip}/64 dev eth0"))?;
            Ok((answers(world, Family::V6)? > before).then_some(()))
        })
    });
}

#[test]
fn other_host_with_an_announced_vip_is_named() {
    scenario!(&WEIGHTS, |world| {
        world.net.put_vips_on_link()?;
        for family in Family::ALL {
            world.net.client.ip(&format!("addr add {} dev eth0", family.vip()))?;
        }
        world.plan.announce = Some("arp");
        world.start()?;
        let mac = text(world.net.client.mac("eth0")?);
        for family in Family::ALL {
            let vip = family.vip().to_string();
            wait_for(&format!("a warning of {vip}"), PROBED, || {
                let log = world.log();
                let mut lines = log.lines().filter(|line| line.contains("another host answers for the VIP"));
                Ok(lines.any(|line| line.contains(&vip) && line.contains(&mac)).then_some(()))
            })?;
            let shown = world.slb(&["status"])?;
            let line = format!("VIP {vip}: another host on client0, {mac}, answers for it");
            ensure!(shown.contains(&line), "{line:?} is not in: {shown}");
        }
        Ok(())
    });
}

#[test]
fn clients_follow_the_announcement_of_a_node_that_takes_over() {
    scenario!(&WEIGHTS, |world| {
        prepare(world, DirectMode::Ipip(Family::V4))?;
        start(world)?;
        world.net.bridge_client()?;
        expect_reached(world, "behind a bridge")?;
        let before = entries(world)?;
        world.kill()?;
        world.net.slb.ip("link set client0 down")?;

        let node = world.second_node()?;
        world.net.bridge_second(&node.net)?;
        expect_entries(world, before, &text(node.net.slb.mac("client0")?))?;
        for family in Family::ALL {
            ensure!(world.client().ping(family.vip(), PATIENCE)?.is_some(), "{family}: no answer");
        }
        Ok(())
    });
}

/// The daemon of the first node is killed, and its filter goes on answering. The second node probes.
#[test]
fn probe_for_another_node_changes_no_entry_of_a_client() {
    scenario!(&WEIGHTS, |world| {
        prepare(world, DirectMode::Ipip(Family::V4))?;
        start(world)?;
        world.net.bridge_client()?;
        expect_reached(world, "behind a bridge")?;
        let (before, first) = (entries(world)?, text(world.net.slb.mac("client0")?));
        world.kill()?;

        let node = world.second_node()?;
        world.net.bridge_second(&node.net)?;
        let second = text(node.net.slb.mac("client0")?);
        expect_entries(world, before, &second)?;
        for family in Family::ALL {
            let vip = family.vip().to_string();
            wait_for(&format!("{family}: an answer to the probe"), PROBED, || {
                let log = node.log();
                let mut lines = log.lines().filter(|line| line.contains("another host answers for the VIP"));
                Ok(lines.any(|line| line.contains(&vip) && line.contains(&first)).then_some(()))
            })?;
        }
        for family in Family::ALL {
            let entry = world.net.vip_neighbour(family)?;
            ensure!(entry.as_deref() == Some(&*second), "{family}: {entry:?} in place of {second}");
        }
        Ok(())
    });
}

/// Proxy entries of the host for IPv6.
fn proxies(world: &World) -> Result<String> {
    run(world.net.slb.command("ip").args(["-6", "neigh", "show", "proxy"]), "")
}

/// The operator's entries have the protocol number of SLB, or another one, also for a VIP.
#[test]
fn proxy_entries_of_the_operator_stay() {
    scenario!(&WEIGHTS, |world| {
        let vip = Family::V6.vip();
        let (other, own) = ("2001:db8:77::1", format!("{vip} dev client0"));
        world.net.slb.ip(&format!("neigh add proxy {other} dev client0 protocol 91"))?;
        world.net.slb.ip(&format!("neigh add proxy {own} protocol 4"))?;
        let before = proxies(world)?;
        ensure!(before.contains(other) && before.contains(&vip.to_string()), "{before}");
        start(world)?;
        ensure!(proxies(world)? == before, "{} in place of {before}", proxies(world)?);
        world.terminate()?;
        world.detach()?;
        ensure!(proxies(world)? == before, "{} in place of {before}", proxies(world)?);
        Ok(())
    });
}

#[test]
fn vips_are_not_announced_where_forwarding_ends_with_the_daemon() {
    scenario!(&WEIGHTS, |world| {
        world.net.put_vips_on_link()?;
        world.plan.announce = Some("arp");
        world.hide("/sys/fs/bpf");
        world.start()?;
        world.wait_for_line(&["WARN", "VIPs are not announced", "mount namespace"])?;
        let shown = world.slb(&["status"])?;
        ensure!(shown.contains("is not announced: the pins are in a mount namespace"), "{shown}");
        ensure!(!filters(world)?.contains("slb_answer"), "{}", filters(world)?);
        expect_silence(world, "with pins that end with the daemon")
    });
}

/// The pins of a running daemon are out of sight.
#[test]
fn detach_without_pins_keeps_announcements_of_a_running_daemon() {
    scenario!(&WEIGHTS, |world| {
        start(world)?;
        let config = world.write_other(&world.plan.toml())?;
        let slbd = program("slbd", "SLBD")?;
        let detach =
            format!("mount -t tmpfs none /sys/fs/bpf && exec {} detach --config {config}", slbd.display());
        let said = run(world.net.slb.command("unshare").args(["--mount", "sh", "-c", &detach]), "")?;
        ensure!(said.contains("nothing to detach") && said.contains("its announcements stay"), "{said}");
        ensure!(filters(world)?.contains("slb_answer"), "{}", filters(world)?);
        expect_reached(world, "after slbd detach")
    });
}

/// Forwarding ends with the daemon: hosts must not send packets to where nothing forwards them.
#[test]
fn announcements_end_with_a_daemon_whose_pins_are_missing() {
    scenario!(&WEIGHTS, |world| {
        let mount = world.mount_bpf()?;
        world.plan.pin_dir = mount.path().join("slb");
        start(world)?;
        run(Command::new("umount").arg("-l").arg(mount.path()), "")?;
        wait_for("missing pins", PROBED, || {
            Ok(world.slb(&["status"])?.contains("pins are missing").then_some(()))
        })?;
        expect_reached(world, "while the daemon runs")?;
        world.terminate()?;
        ensure!(!filters(world)?.contains("slb_answer"), "{}", filters(world)?);
        ensure!(proxies(world)?.is_empty(), "{}", proxies(world)?);
        Ok(())
    });
}
