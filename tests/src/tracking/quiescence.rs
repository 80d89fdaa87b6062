//! The end of a model test: when nothing has changed for the idle timeout, no flow is tracked.

use std::time::Duration;

use super::{model_test::ModelTest, servers::address, wire::client};
use crate::packets::frames::number;

/// A third of the idle timeout.
const STEP: Duration = Duration::from_secs(300);
/// Silence after which UDP flows have expired.
const UDP_SILENCE: Duration = Duration::from_secs(95);

impl ModelTest {
    /// Lets the idle timeout pass without changes. Slot migrations then end, and new flows leave no entries unless the
    /// listener tracks all flows.
    pub fn run_until_idle(&mut self) {
        // Until the last server has drained and is removed.
        for seconds in [self.setting.drain.unwrap_or(0) + 1, 30, 30] {
            self.pass(Duration::from_secs(seconds));
        }
        self.no_datagrams();
        // A slot migrates while a flow of another server than its current one has packets. Such flows end here. A SYN
        // of their endpoints would continue them while they have entries.
        self.open_no_more();
        let plane = self.plane.clone();
        self.streams.retain(|client_number, flow| {
            plane.current_backend(client(*client_number), number::TCP) == Some(address(flow.server))
        });
        // Twice the idle timeout: after a hash-function transition, flows that were tracked for it are looked up once
        // more.
        for _ in 0..8 {
            self.continue_all();
            self.pass(STEP);
        }
        self.continue_all();
        // From new client endpoints that send only one datagram, as DNS clients do.
        self.new_datagrams();
        self.no_datagrams();
        // The first GC pass makes the current backends previous ones. The second ends the migrations, once the last
        // datagrams to earlier backends have expired.
        self.gc_pass();
        self.new_datagrams();
        self.no_datagrams();
        self.pass(UDP_SILENCE);
        self.continue_all();
        self.gc_pass();
        let moved = self.plane.moved();
        if moved > 0 {
            self.fail(&format!("3: {moved} slots are still in transition"));
        }
        if !self.setting.is_stateless() {
            return;
        }
        let before = self.plane.flow_words();
        self.continue_all();
        for number in 3000..3100 {
            self.open(number);
        }
        self.continue_all();
        self.new_datagrams();
        if before != self.plane.flow_words() {
            self.fail("3: a flow was tracked in steady state");
        }
    }
}
