//! GC passes and flushes beside other events.

use std::net::SocketAddr;

use slb_api::{
    flows::Flushed,
    types::{Requester, Set},
};
use slb_control::{dataplane::state::FlowRecord, flush::FlushFilter};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::{LIMIT, SECOND, World, answered, fake::finish_gc, run};
use crate::daemon::environment::Event;
use crate::server::requests::{Request, RequestError};

impl World {
    /// Adds a live flow of each server.
    fn add_flows(&self) {
        let mut plane = self.plane.borrow_mut();
        let tag = plane.state.index.entries.values().next().expect("a listener").tag();
        let flows: Vec<_> =
            plane.state.backends.values().map(|it| FlowRecord::sample(tag, it.handle)).collect();
        plane.flows.extend(flows);
    }

    /// Asks for a flush of flows of this server, by the last octet.
    async fn flush(&self, last: u8, erases: bool) -> Result<Flushed, RequestError> {
        let server = SocketAddr::from(([10, 0, 0, last], 8080)).to_string();
        let filter = FlushFilter { server: Some(server.parse().unwrap()), ..FlushFilter::default() };
        let (answer, answered) = oneshot::channel();
        let request = Request::Flush { filter, erases, by: Requester::default(), answer };
        self.daemon().requests.send(request).await.expect("the event loop runs");
        timeout(LIMIT, answered).await.expect("an answer").expect("the event loop answers")
    }

    /// Ends the GC pass that is held.
    fn release_gc(&self) {
        let mut host = self.host.borrow_mut();
        host.holds_gc = false;
        let finished = finish_gc(host.held_gc.take().expect("a pass runs"), &self.plane);
        assert!(self.daemon().events.send(Event::GcFinished(finished)).is_ok(), "the event loop has ended");
    }
}

/// A scan of a large flow table takes seconds.
#[test]
fn changes_do_not_wait_for_a_gc_pass() {
    run(async {
        let world = World::start(&[1, 2, 3]).await;
        world.host.borrow_mut().holds_gc = true;
        // The removed server is terminating at once, which asks for a pass.
        answered(world.reload(&[1, 2]).await).await.unwrap();
        let passes = world.host.borrow().gc_passes;
        world.check(2, false);
        world.until_serving(&[1]).await;
        answered(world.set(1, Set::Weight(7)).await).await.unwrap();
        answered(world.reload(&[1, 2, 4]).await).await.unwrap();
        world.until_serving(&[1, 4]).await;
        assert_eq!(world.host.borrow().gc_passes, passes, "the pass has not ended");
        sleep(60 * SECOND).await;
        assert!(world.known().contains(&3), "no pass has found its flows ended");
        world.release_gc();
        sleep(60 * SECOND).await;
        assert!(!world.known().contains(&3));
        assert_eq!(world.serving(), [1, 4].into());
    });
}

#[test]
fn flush_counts_or_erases_the_flows_of_a_server() {
    run(async {
        let world = World::start(&[1, 2]).await;
        world.add_flows();
        assert_eq!(world.flush(2, false).await.unwrap().entries, 1);
        assert!(world.plane.borrow().erased_slots.is_empty());
        let passes = world.host.borrow().gc_passes;
        assert_eq!(world.flush(2, true).await.unwrap().entries, 1);
        assert_eq!(world.plane.borrow().erased_slots.len(), 1);
        assert_eq!(world.host.borrow().gc_passes, passes + 2, "one before and one after");
        assert_eq!(world.flush(2, true).await.unwrap().entries, 0);
        let refused = world.flush(9, true).await;
        assert!(matches!(refused, Err(RequestError::Invalid(_))), "{refused:?}");
    });
}

#[test]
fn failed_gc_pass_is_retried_and_fails_the_flush_that_waits_for_it() {
    run(async {
        let world = World::start(&[1, 2]).await;
        world.add_flows();
        world.host.borrow_mut().fails_gc = true;
        let failed = world.flush(2, true).await;
        assert!(matches!(failed, Err(RequestError::Failed(_))), "{failed:?}");
        let passes = world.host.borrow().gc_passes;
        sleep(5 * SECOND + SECOND / 2).await;
        assert_eq!(world.host.borrow().gc_passes, passes + 5, "each second");
        answered(world.reload(&[1]).await).await.unwrap();
        world.host.borrow_mut().fails_gc = false;
        sleep(60 * SECOND).await;
        assert!(!world.known().contains(&2));
    });
}

#[test]
fn slot_migrations_end_step_by_step_and_after_a_failed_step() {
    run(async {
        for fails in [false, true] {
            let world = World::start(&[1, 2]).await;
            answered(world.reload(&[1, 2, 3]).await).await.unwrap();
            world.until_serving(&[1, 2, 3]).await;
            assert!(world.has_migrating_slots());
            sleep(900 * SECOND).await;
            assert!(world.has_migrating_slots());
            world.plane.borrow_mut().fail_after = fails.then_some(0);
            // After a failure the maps are read again. They do not tell when a slot was reassigned.
            sleep(if fails { 1100 * SECOND } else { 120 * SECOND }).await;
            assert!(world.plane.borrow().fail_after.is_none(), "a step has failed");
            assert!(!world.has_migrating_slots());
        }
    });
}
