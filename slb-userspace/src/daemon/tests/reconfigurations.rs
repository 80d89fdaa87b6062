//! Reload, apply, commit-confirm and rollback.

use std::net::IpAddr;

use slb_common::net::vlan::Vlan;
use slb_control::dataplane::fake::FailurePoint;
use tokio::time::sleep;

use super::{SECOND, World, answered, is_outstanding, run};
use crate::{
    devices::VlanExit,
    server::requests::{ApiCommand, RequestError},
    telemetry::logged,
};

#[test]
fn reload_keeps_the_active_configuration_until_new_servers_are_checked() {
    run(async {
        let world = World::start(&[1]).await;
        world.host.borrow_mut().silent.insert([10, 0, 0, 2].into());
        let mut answer = world.reload(&[2]).await;
        assert!(is_outstanding(&mut answer, 2 * SECOND).await);
        assert_eq!((world.active(), world.serving()), ([1].into(), [1].into()));
        world.check(2, true);
        let changed = answered(answer).await.unwrap();
        assert!(!changed.changes.is_empty() && changed.waited.is_some(), "{changed:?}");
        assert_eq!((world.active(), world.serving()), ([2].into(), [2].into()));
    });
}

#[test]
fn reload_goes_ahead_without_a_server_that_is_never_checked() {
    run(async {
        let world = World::start(&[1]).await;
        world.host.borrow_mut().silent.insert([10, 0, 0, 2].into());
        answered(world.reload(&[1, 2]).await).await.unwrap();
        assert_eq!((world.active(), world.serving()), ([1, 2].into(), [1].into()));
        world.check(2, true);
        world.until_serving(&[1, 2]).await;
    });
}

#[test]
fn later_reload_answers_the_earlier_one_too() {
    run(async {
        let world = World::start(&[1]).await;
        world.host.borrow_mut().silent.extend([2, 3].map(|n| IpAddr::from([10, 0, 0, n])));
        let mut first = world.reload(&[2]).await;
        assert!(is_outstanding(&mut first, 2 * SECOND).await);
        let second = world.reload(&[3]).await;
        assert!(is_outstanding(&mut first, SECOND / 10).await);
        world.check(3, true);
        assert_eq!(answered(first).await.unwrap().changes, answered(second).await.unwrap().changes);
        assert_eq!((world.active(), world.serving()), ([3].into(), [3].into()));
    });
}

#[test]
fn unconfirmed_configuration_rolls_back_at_its_deadline() {
    run(async {
        let world = World::start(&[1]).await;
        answered(world.apply(&[1, 2], Some(60 * SECOND)).await).await.unwrap();
        assert_eq!(world.active(), [1, 2].into());
        sleep(59 * SECOND).await;
        assert_eq!(world.active(), [1, 2].into());
        world.until_serving(&[1]).await;
        assert_eq!(world.active(), [1].into());
        let refused = answered(world.command(ApiCommand::Confirm).await).await;
        assert!(matches!(refused, Err(RequestError::Conflict(_))), "{refused:?}");
    });
}

#[test]
fn log_lines_of_changes_count_objects() {
    let log = logged(|| {
        run(async {
            let world = World::start(&[1]).await;
            let mut loaded = world.config("eth0", &[1]);
            // Two fields of one object, which have a line of text each.
            let listener = &mut loaded.config.load_balancers[0].listeners[0];
            (listener.drain_timeout, listener.session_persistence) = (Some(20 * SECOND), Some(60 * SECOND));
            let (loaded, confirm_within) = (Box::new(loaded), Some(10 * SECOND));
            answered(world.command(ApiCommand::Apply { loaded, confirm_within }).await).await.unwrap();
            sleep(12 * SECOND).await;
        });
    });
    for event in ["done", "rolled back"] {
        let line = log.lines().find(|line| line.contains(event)).unwrap_or_else(|| panic!("{log}"));
        assert!(line.contains("changes=1"), "{line}");
    }
}

#[test]
fn confirmed_configuration_stays() {
    run(async {
        let world = World::start(&[1]).await;
        answered(world.apply(&[1, 2], Some(60 * SECOND)).await).await.unwrap();
        let refused = answered(world.reload(&[1]).await).await;
        assert!(matches!(refused, Err(RequestError::Conflict(_))), "another change waits: {refused:?}");
        answered(world.command(ApiCommand::Confirm).await).await.unwrap();
        sleep(120 * SECOND).await;
        assert_eq!((world.active(), world.serving()), ([1, 2].into(), [1, 2].into()));
    });
}

#[test]
fn rollback_is_retried_until_the_data_plane_takes_it() {
    run(async {
        let world = World::start(&[1]).await;
        answered(world.apply(&[1, 2], Some(10 * SECOND)).await).await.unwrap();
        sleep(9 * SECOND).await;
        {
            let mut plane = world.plane.borrow_mut();
            (plane.fail_after, plane.fails) = (Some(0), FailurePoint::Before);
        }
        sleep(2 * SECOND).await;
        world.until_serving(&[1]).await;
        assert_eq!(world.active(), [1].into());
    });
}

#[test]
fn failed_change_leaves_the_active_configuration_and_is_undone() {
    run(async {
        let world = World::start(&[1]).await;
        for fails in [FailurePoint::Before, FailurePoint::Halfway, FailurePoint::After] {
            for operations in 0..3 {
                {
                    let mut plane = world.plane.borrow_mut();
                    (plane.fail_after, plane.fails) = (Some(operations), fails);
                }
                let failed = answered(world.reload(&[1, 2]).await).await;
                let Err(RequestError::Failed(why)) = failed else { panic!("{fails:?}: {failed:?}") };
                assert!(why.contains("the active configuration is unchanged"), "{why}");
                assert_eq!(world.active(), [1].into(), "{fails:?}");
                world.until_serving(&[1]).await;
                sleep(60 * SECOND).await;
                assert_eq!(world.alive(), [1].into(), "{fails:?} {operations}");
            }
        }
    });
}

#[test]
fn interface_that_refuses_the_program_refuses_the_configuration() {
    run(async {
        let world = World::start(&[1]).await;
        world.host.borrow_mut().refusal = Some("another program is attached".to_owned());
        let loaded = Box::new(world.config("eth0 eth1", &[1, 2]));
        let refused = answered(world.command(ApiCommand::Reload { loaded }).await).await;
        let Err(RequestError::Failed(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains("another program is attached"), "{why}");
        assert_eq!((world.active(), world.serving()), ([1].into(), [1].into()));
        world.host.borrow_mut().refusal = None;
        let loaded = Box::new(world.config("eth0 eth1", &[1, 2]));
        answered(world.command(ApiCommand::Reload { loaded }).await).await.unwrap();
        assert_eq!(world.host.borrow().attached, ["eth0", "eth1"].map(str::to_owned).into());
        assert_eq!(world.plane.borrow().state.interfaces, [1, 2].into());
    });
}

#[test]
fn servers_behind_a_vlan_device_stay_reached_when_the_interface_below_replaces_it() {
    run(async {
        let world = World::start(&[1]).await;
        let vlan = Vlan::new(100, false);
        // eth0, by which the server is reached, is a VLAN device upon eth1.
        world.host.borrow_mut().vlan_devices = [(1, VlanExit { below: 2, vlan })].into();
        let exits = |world: &World| -> Vec<_> {
            world.plane.borrow().state.next_hops.values().map(|hop| (hop.ifindex, hop.macs.vlan)).collect()
        };
        for (interfaces, exit) in [
            ("eth1", (2, vlan)),
            ("eth0", (1, Vlan::NONE)),
            ("eth1", (2, vlan)),
            ("eth0 eth1", (1, Vlan::NONE)),
        ] {
            let loaded = Box::new(world.config(interfaces, &[1]));
            answered(world.command(ApiCommand::Reload { loaded }).await).await.unwrap();
            assert_eq!(exits(&world), [exit], "{interfaces}");
        }
    });
}

#[test]
fn server_that_fails_its_check_leaves_and_returns() {
    run(async {
        let world = World::start(&[1, 2]).await;
        world.check(2, false);
        world.until_serving(&[1]).await;
        world.check(2, true);
        world.until_serving(&[1, 2]).await;
    });
}
