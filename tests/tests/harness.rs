//! The harness itself: its network, servers and clients work without SLB, and a world leaves nothing behind.

use std::{collections::BTreeMap, fs, process::Command, thread, time::Duration};

use anyhow::{Result, ensure};
use slb_tests::{
    World,
    client::{Direction, PATIENCE},
    leftovers::{self, RunId},
    net::{Family, Namespace, run},
    scenario,
    server::Service,
    wait::wait_for,
};

fn names_of(id: RunId) -> Result<Vec<String>> {
    let prefix = format!("{}-", id.prefix());
    Ok(Namespace::names()?.into_iter().filter(|name| name.starts_with(&prefix)).collect())
}

/// With forwarding in the kernel in place of XDP, every service of every backend is reached at its own address.
#[test]
fn clients_reach_servers_directly() {
    scenario!(&[1, 1], |world| {
        world.net.kernel_forwarding(true)?;
        let client = world.client();
        for family in Family::ALL {
            for backend in &world.net.backends {
                let at = |service: Service| (backend.address(family), service.backend_port()).into();
                for service in [Service::Http, Service::Echo] {
                    let batch = client.exchanges(service, at(service), 200, 16);
                    batch.expect_no_failure()?;
                    ensure!(
                        batch.tally == BTreeMap::from([(backend.name.clone(), 200)]),
                        "{:?}",
                        batch.tally
                    );
                }
                let connections = client.long_lived(at(Service::Lines), 4)?;
                connections.progress(3)?;
                connections.expect_unbroken(None)?;
                ensure!(connections.alive_with(&backend.name) == 4, "{:?}", connections.alive());
                for direction in [Direction::Upload, Direction::Download] {
                    client.bulk(at(Service::Bulk), direction, 3_000_001, 2)?;
                }
                ensure!(client.ping(backend.address(family), PATIENCE)?.is_some(), "no answer to a ping");
            }
        }
        Ok(())
    });
}

/// Without forwarding in the kernel no packet gets from client to backend: what reaches a server came by XDP.
#[test]
fn only_xdp_can_carry_traffic() {
    scenario!(&[1], |world| {
        for family in Family::ALL {
            let answer =
                world.client().ping(world.net.backends[0].address(family), Duration::from_millis(300))?;
            ensure!(answer.is_none(), "{family}: a ping got through");
        }
        Ok(())
    });
}

#[test]
fn killed_server_resets_connections_and_silent_server_answers_nothing() {
    scenario!(&[1, 1], |world| {
        world.net.kernel_forwarding(true)?;
        let client = world.client();
        let at = |world: &World, index: usize, service: Service| {
            (world.net.backends[index].address(Family::V4), service.backend_port()).into()
        };
        let connections = client.long_lived(at(world, 0, Service::Lines), 2)?;
        world.kill_servers(0);
        wait_for("resets", PATIENCE, || Ok((connections.breaks().len() == 2).then_some(())))?;
        ensure!(
            connections.expect_unbroken(None).is_err() && connections.expect_unbroken(Some("b1")).is_ok()
        );
        let batch = client.exchanges(Service::Http, at(world, 0, Service::Http), 10, 2);
        ensure!(batch.successes() == 0 && batch.failures.len() == 10, "{batch:?}");
        ensure!(batch.failures[0].error.contains("refused"), "{}", batch.failures[0]);

        world.start_servers(0)?;
        ensure!(client.exchange(Service::Http, at(world, 0, Service::Http))? == "b1");

        world.net.backends[1].go_silent()?;
        let address = world.net.backends[1].address(Family::V4);
        ensure!(client.ping(address, Duration::from_millis(300))?.is_none(), "a silent backend answers");
        world.net.backends[1].speak_again()?;
        ensure!(client.exchange(Service::Http, at(world, 1, Service::Http))? == "b2");
        Ok(())
    });
}

#[test]
fn dropped_world_leaves_nothing_behind() {
    let mut made = None;
    scenario!(&[1, 1], |world| {
        let names = names_of(world.id)?;
        ensure!(names.len() == 4, "{names:?}");
        made = Some((world.id, world.directory().to_owned()));
        Ok(())
    });
    let Some((id, directory)) = made else { return };
    assert!(names_of(id).unwrap().is_empty());
    assert!(!directory.exists() && !id.pin_dir().exists());
}

/// A killed run leaves namespaces, processes in them, pins and a directory; the next run removes them.
#[test]
fn leftovers_of_dead_runs_are_removed() {
    slb_tests::scenario_alone!(&[1], |_| {
        // The number of a process that has ended and been waited for; no process has it.
        let mut ended = Command::new("true").spawn()?;
        ended.wait()?;
        let prefix = format!("slbt-{}-1", ended.id());
        let name = format!("{prefix}-client");
        run(Command::new("ip").args(["netns", "add", &name]), "")?;
        let mut process = Command::new("ip").args(["netns", "exec", &name, "sleep", "1000"]).spawn()?;
        wait_for("a process in the namespace", PATIENCE, || {
            let pids = run(Command::new("ip").args(["netns", "pids", &name]), "")?;
            Ok((!pids.trim().is_empty()).then_some(()))
        })?;
        let pins = std::path::Path::new(leftovers::BPF_FS).join(&prefix);
        fs::create_dir(&pins)?;
        let directory = std::env::temp_dir().join(format!("{prefix}.test"));
        fs::create_dir(&directory)?;

        let waiter = thread::spawn(move || process.wait());
        leftovers::remove_dead()?;
        ensure!(!Namespace::names()?.contains(&name), "the namespace is still there");
        ensure!(!pins.exists() && !directory.exists(), "a directory is still there");
        ensure!(!waiter.join().expect("no panic")?.success(), "the process was not killed");
        Ok(())
    });
}
