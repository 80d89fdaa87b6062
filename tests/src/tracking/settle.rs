//! The end of a play: once nothing has changed for the idle time, nothing is remembered any more.

use std::time::Duration;

use super::{model_test::ModelTest, servers::address, wire::client};
use crate::packets::frames::number;

/// A third of the idle time.
const STEP: Duration = Duration::from_secs(300);
/// After so long, datagram flows are forgotten.
const UDP_SILENCE: Duration = Duration::from_secs(95);

impl ModelTest {
    /// Lets the idle time pass without changes: slots that changed hands are their owners' alone, where no flow of
    /// another server goes on; and new flows leave no trace, unless all flows are to be remembered.
    pub fn settle(&mut self) {
        // Until the last server has drained, and has gone.
        for seconds in [self.setting.drain.unwrap_or(0) + 1, 30, 30] {
            self.pass(Duration::from_secs(seconds));
        }
        self.no_datagrams();
        let plane = self.plane.clone();
        self.streams.retain(|client_number, flow| {
            plane.owner(client(*client_number), number::TCP) == Some(address(flow.server))
        });
        // After a change of the hash, twice: flows that were remembered for it are looked for once more.
        for _ in 0..8 {
            self.all_go_on();
            self.pass(STEP);
        }
        self.all_go_on();
        // Of clients never seen before, of which no more is ever heard: as with questions of DNS.
        self.new_datagrams();
        self.no_datagrams();
        // The first makes owners keepers, the second finds nothing left to wait for, once the last datagrams to a keeper of
        // old are forgotten.
        self.sweep();
        self.new_datagrams();
        self.no_datagrams();
        self.pass(UDP_SILENCE);
        self.all_go_on();
        self.sweep();
        let moved = self.plane.moved();
        if moved > 0 {
            self.fail(&format!("3: {moved} slots are still in transition"));
        }
        if !self.setting.is_stateless() {
            return;
        }
        let before = self.plane.flow_words();
        self.all_go_on();
        for number in 3000..3100 {
            self.open(number);
        }
        self.all_go_on();
        self.new_datagrams();
        if before != self.plane.flow_words() {
            self.fail("3: a flow was remembered in steady state");
        }
    }
}
