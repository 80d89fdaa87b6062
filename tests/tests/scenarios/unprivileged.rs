//! The daemon as an unprivileged user with four capabilities.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result, bail, ensure};
use slb_tests::{
    World,
    client::PATIENCE,
    net::{Family, run},
    scenario,
    server::Service,
    traffic::Traffic,
    wait::wait_for,
};

use super::{
    modes::{DirectMode, prepare},
    restart::unnoticed,
};

const WEIGHTS: [u8; 3] = [50, 30, 20];
/// Long-lived connections per family, and exchanges of each kind that are required in each phase.
const LONG_LIVED: usize = 4;
const EXCHANGES: u64 = 100;

/// Names of setpriv(1), and their bits of capabilities(7).
const REQUIRED: [(&str, u32); 4] = [("bpf", 39), ("net_admin", 12), ("perfmon", 38), ("net_raw", 13)];

fn required() -> [&'static str; 4] {
    REQUIRED.map(|(name, _)| name)
}

#[test]
fn unprivileged_daemon_restarts_without_a_lost_packet() {
    scenario!(&WEIGHTS, |world| {
        world.run_unprivileged(&required())?;
        unnoticed(world, 1, |world| {
            expect_capabilities(world)?;
            world.terminate()
        })?;
        unnoticed_again(world)
    });
}

/// Kills the daemon, changes its configuration while it runs again, and detaches.
fn unnoticed_again(world: &mut World) -> Result<()> {
    world.terminate()?;
    unnoticed(world, 1, World::kill)?;
    world.plan.servers[0].weight = 10;
    let said = world.reload()?;
    ensure!(said.contains("weight"), "{said}");
    ensure!(!world.log().contains(" ERROR "), "{}", world.log());
    world.terminate()?;
    world.net.route_vips()?;
    world.detach()?;
    let is_detached = || Ok((world.programs()? == BTreeMap::new()).then_some(()));
    wait_for("interfaces without a program", PATIENCE, is_detached)?;
    ensure!(!world.plan.pin_dir.exists(), "pins are left");
    Ok(())
}

/// The daemon is another user, and has the four capabilities only.
fn expect_capabilities(world: &World) -> Result<()> {
    let pid = world.daemon_pid().context("no daemon")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::trim).context(name.to_owned())
    };
    ensure!(value("Uid:")?.split_whitespace().all(|id| id == "65534"), "{status}");
    let four = REQUIRED.iter().fold(0, |set, (_, bit)| set | 1_u64 << bit);
    for (set, expected) in [("CapPrm:", four), ("CapEff:", four), ("CapInh:", 0), ("CapAmb:", 0)] {
        ensure!(u64::from_str_radix(value(set)?, 16)? == expected, "{set} {status}");
    }
    Ok(())
}

#[test]
fn missing_capability_is_named_and_changes_nothing() {
    scenario!(&WEIGHTS, |world| {
        for (missing, _) in REQUIRED {
            let others: Vec<_> = required().into_iter().filter(|name| *name != missing).collect();
            let said = refused(world, &others)?;
            let name = format!("CAP_{}", missing.to_uppercase());
            ensure!(said.contains(&format!("slbd run needs {name}, which")), "without {missing}: {said}");
            ensure!(
                said.contains("AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_PERFMON CAP_NET_RAW")
                    && said.contains("--ambient-caps +bpf,+net_admin,+perfmon,+net_raw"),
                "{said}"
            );
        }
        let said = refused(world, &["net_admin", "net_raw"])?;
        ensure!(said.contains("needs CAP_BPF, CAP_PERFMON, which"), "{said}");
        ensure!(fs::read_dir(&world.plan.pin_dir)?.next().is_none(), "pins are left");
        ensure!(world.programs()? == BTreeMap::new());
        Ok(())
    });
}

/// What the daemon says with these capabilities, with which it must not start.
fn refused(world: &mut World, capabilities: &[&str]) -> Result<String> {
    world.run_unprivileged(capabilities)?;
    let before = world.log().len();
    if world.start().is_ok() {
        bail!("started with {capabilities:?}");
    }
    world.forget_daemon();
    Ok(world.log()[before..].to_owned())
}

/// A daemon of root is replaced by one of another user, and that by root's again.
#[test]
fn change_of_user_disturbs_no_flow() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        let traffic = Traffic::start(world, LONG_LIVED)?;
        traffic.progress(EXCHANGES)?;
        let dropped = world.packets("drop", None)?;
        world.terminate()?;
        world.run_unprivileged(&required())?;
        world.start()?;
        traffic.progress(EXCHANGES)?;
        world.terminate()?;
        run(std::process::Command::new("chown").arg("-R").arg("0").arg(&world.plan.pin_dir), "")?;
        world.run_as_root();
        world.start()?;
        traffic.progress(EXCHANGES)?;
        world.terminate()?;
        // What root has left is not passed over: the document of the API may be in it.
        let refused = |world: &mut World| {
            let said = world.start().err().context("started")?;
            world.forget_daemon();
            Ok::<_, anyhow::Error>(format!("{said:#}"))
        };
        world.run_unprivileged(&required())?;
        run(std::process::Command::new("chown").arg("0").arg(&world.plan.state_dir), "")?;
        let said = refused(world)?;
        ensure!(said.contains("chown -R") && said.contains("made through the API"), "{said}");
        world.run_unprivileged(&required())?;
        world.start()?;
        traffic.progress(EXCHANGES)?;
        ensure!(world.packets("drop", None)? == dropped, "dropped: {:?}", world.status()?.reasons);
        traffic.expect_unbroken(None)?;
        traffic.stop().expect_no_failure()
    });
}

#[test]
fn pins_of_another_user_are_refused_with_the_command_that_helps() {
    scenario!(&[1], |world| {
        world.run_unprivileged(&required())?;
        run(std::process::Command::new("chown").arg("0").arg(&world.plan.pin_dir), "")?;
        let said = { world.start().err().context("started")? };
        world.forget_daemon();
        let said = format!("{said:#}");
        ensure!(said.contains("this user may not use it"), "{said}");
        fs::remove_dir(&world.plan.pin_dir)?;
        world.run_unprivileged(&required())?;
        world.start().map(drop)
    });
}

/// Without CAP_SYS_ADMIN probes of `dsr` go to the servers' own addresses; the log says what to add.
#[test]
fn probes_of_dsr_fall_back_without_sys_admin_and_name_it() {
    const FALLBACK: &str = "go to the servers' own addresses";
    scenario!(&WEIGHTS, |world| {
        prepare(world, DirectMode::Dsr)?;
        world.run_unprivileged(&required())?;
        world.start()?;
        world.wait_for_line(&[FALLBACK, "that needs CAP_SYS_ADMIN: add it to AmbientCapabilities"])?;
        world.client().exchange(Service::Http, world.vip(Family::V4, Service::Http))?;
        world.terminate()?;
        let told = world.log().matches(FALLBACK).count();
        // Not every machine lets all users open /dev/net/tun.
        world.run_unprivileged(&[&required()[..], &["sys_admin", "dac_override"]].concat())?;
        world.start()?;
        world.client().exchange(Service::Http, world.vip(Family::V6, Service::Http))?;
        ensure!(world.log().matches(FALLBACK).count() == told, "{}", world.log());
        Ok(())
    });
}

/// The next run leaves the groups of VIPs that it does not announce, although it may not open maps by their ids.
#[test]
fn unprivileged_daemon_ends_announcements_of_an_earlier_run() {
    scenario!(&WEIGHTS, |world| {
        let proxies =
            |world: &World| run(world.net.slb.command("ip").args(["-6", "neigh", "show", "proxy"]), "");
        let vip = Family::V6.vip().to_string();
        world.net.put_vips_on_link()?;
        world.plan.announce = Some("arp");
        world.run_unprivileged(&required())?;
        world.start()?;
        for family in Family::ALL {
            world.client().exchange(Service::Http, world.vip(family, Service::Http))?;
        }
        wait_for("a proxy entry", PATIENCE, || Ok(proxies(world)?.contains(&vip).then_some(())))?;
        world.terminate()?;
        world.plan.announce = None;
        world.start()?;
        wait_for("no proxy entry", PATIENCE, || Ok((!proxies(world)?.contains(&vip)).then_some(())))?;
        ensure!(!world.log().contains("stay joined"), "{}", world.log());
        Ok(())
    });
}
