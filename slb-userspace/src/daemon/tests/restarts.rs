//! A daemon takes over what an earlier one has left.

use std::net::IpAddr;

use slb_api::types::Set;
use tokio::time::sleep;

use super::{SECOND, World, answered, run};

#[test]
fn next_daemon_keeps_handles_and_health_until_it_has_results() {
    run(async {
        let mut world = World::start(&[1, 2]).await;
        world.check(2, false);
        world.until_serving(&[1]).await;
        let before = world.plane.borrow().state.clone();
        world.kill().await;
        world.host.borrow_mut().silent.extend([1, 2].map(|n| IpAddr::from([10, 0, 0, n])));
        world.begin(&[1, 2]).await;
        sleep(30 * SECOND).await;
        assert_eq!(world.plane.borrow().state.backends, before.backends);
        assert_eq!(world.serving(), [1].into(), "server 2 was unhealthy before");
        world.check(2, true);
        world.until_serving(&[1, 2]).await;
    });
}

#[test]
fn next_daemon_rolls_back_what_was_not_confirmed() {
    run(async {
        let mut world = World::start(&[1]).await;
        answered(world.apply(&[1, 2], Some(60 * SECOND)).await).await.unwrap();
        world.kill().await;
        // Its file still has the configuration of before.
        world.begin(&[1]).await;
        assert_eq!((world.active(), world.serving()), ([1].into(), [1].into()));
    });
}

#[test]
fn next_daemon_has_the_overrides_of_the_earlier_one() {
    run(async {
        let mut world = World::start(&[1, 2]).await;
        answered(world.set(2, Set::Disable).await).await.unwrap();
        assert_eq!(world.serving(), [1].into());
        world.kill().await;
        world.begin(&[1, 2]).await;
        assert_eq!(world.serving(), [1].into());
        answered(world.set(2, Set::Enable).await).await.unwrap();
        assert_eq!(world.serving(), [1, 2].into());
    });
}

/// The daemon may start after a change of its file. Its servers replace those that serve.
#[test]
fn start_waits_for_servers_that_replace_healthy_ones() {
    run(async {
        let mut world = World::start(&[1]).await;
        world.kill().await;
        world.host.borrow_mut().silent.insert([10, 0, 0, 2].into());
        let begun = tokio::time::Instant::now();
        world.begin(&[2]).await;
        assert!(begun.elapsed() > 2 * SECOND, "{:?}", begun.elapsed());
        world.check(2, true);
        world.until_serving(&[2]).await;
    });
}
