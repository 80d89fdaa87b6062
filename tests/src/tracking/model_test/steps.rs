//! Random steps of a model test: clients, changes and daemons.

use std::time::Duration;

use super::{Counts, DATAGRAMS, MAX_LIVE, ModelTest, SLACK, SLOTS, STREAMS};
use crate::packets::frames::flag;
use crate::tracking::{
    control::{ControlPlane, HZ},
    servers::{ModelServer, SERVERS, Scheduling, Setting, takes_new},
    wire::PacketKind,
};

impl ModelTest {
    /// Runs this many random steps, and then the checks at the end.
    pub fn random(setting: Setting, seed: u64, steps: usize) -> Counts {
        let mut model = Self::new(setting, seed, SLOTS, 4);
        model.reschedules = true;
        for _ in 0..steps {
            model.step();
        }
        model.activate();
        model.run_until_idle();
        model.counts
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..25 => {
                let number = self.rng.below(STREAMS) as u32;
                let is_reused = self.streams.contains_key(&number);
                if (!is_reused && self.streams.len() < MAX_LIVE) || self.rng.once_in(20) {
                    self.open(number);
                }
            }
            25..55 => {
                if let Some(number) = self.any_stream() {
                    self.continue_flow(number, flag::ACK);
                }
            }
            55..60 => self.end_one(),
            60..80 => {
                let number = 1000 + self.rng.below(DATAGRAMS) as u32;
                self.datagram(number);
            }
            80..88 => {
                self.change();
                // Several changes may be applied at once.
                if !self.rng.once_in(3) {
                    self.activate();
                }
            }
            88..90 => self.restart(),
            90..92 => self.begin_gc(),
            92..95 => self.gc_pass(),
            _ => self.wait(),
        }
    }

    fn change(&mut self) {
        if self.reschedules && self.rng.once_in(6) {
            let kinds = Scheduling::ALL;
            let kind = kinds[self.rng.below(kinds.len() as u64) as usize];
            // The change is for one listener, for the other, or for both.
            let which = self.rng.below(3);
            if which != 0 {
                self.setting.scheduling = kind;
            }
            if which != 1 {
                self.setting.datagrams = kind;
            }
            self.note(format!("new flows are to go by {kind:?}, those of {which}"));
            return;
        }
        let n = self.rng.below(SERVERS as u64) as usize;
        let roll = self.rng.below(8);
        let server = &mut self.desired[n];
        match roll {
            0 | 1 => server.weight = [0, 0, 1, 10, 50, 100][self.rng.below(6) as usize],
            2 => {
                server.exists = !server.exists;
                server.incarnation += u32::from(server.exists);
            }
            // Good news is more frequent than bad; otherwise no server would serve for long.
            3 => server.healthy = None,
            4 | 5 => server.healthy = Some(false),
            _ => *server = ModelServer { weight: server.weight.max(1), healthy: Some(true), ..*server },
        }
        self.note(format!("server {n} is to be {:?}", self.desired[n]));
    }

    /// Applies the desired state; packets are processed between its operations.
    pub fn activate(&mut self) {
        self.note("commit".to_owned());
        self.begin_change();
        self.carry_out(usize::MAX);
        self.active = self.desired;
        if self.scheduling[0] != self.setting.scheduling {
            self.kept.clear();
        }
        self.scheduling = [self.setting.scheduling, self.setting.datagrams];
        self.drain_starts[0] = self.drain_starts[1];
        self.is_changing = false;
        self.counts.changes += 1;
    }

    fn begin_change(&mut self) {
        self.is_changing = true;
        let servers = self.desired.iter().enumerate().zip(&mut self.drain_starts[1]).zip(&mut self.cut);
        for (((n, server), since), cut) in servers {
            if server.state().is_draining() {
                since.get_or_insert(self.now);
            } else if takes_new(&self.desired, n)
                && let Some(since) = since.take()
                && self
                    .setting
                    .drain
                    .is_some_and(|drain| self.now + SLACK > since + Duration::from_secs(drain))
            {
                *cut = self.now;
            }
        }
        self.control.reconcile(&self.setting, &self.desired, self.now);
    }

    fn carry_out(&mut self, operations: usize) {
        for _ in 0..operations {
            if !self.plane.carry_out() {
                return;
            }
            if self.counts.changes > 0 && self.rng.once_in(2) {
                self.packets_in_between();
            }
        }
    }

    fn packets_in_between(&mut self) {
        if let Some(number) = self.any_stream() {
            self.continue_flow(number, flag::ACK);
        }
        let number = self.rng.below(STREAMS) as u32;
        if self.opens_during_changes && !self.streams.contains_key(&number) && self.rng.once_in(4) {
            self.open(number);
        }
        let number = 1000 + self.rng.below(DATAGRAMS) as u32;
        self.datagram(number);
    }

    /// Another daemon takes over, sometimes from one that crashed in the middle of a change.
    fn restart(&mut self) {
        if self.rng.once_in(2) {
            self.change();
            self.begin_change();
            let done = self.rng.below(6) as usize;
            self.note(format!("commit, and crash after {done} operations"));
            self.carry_out(done);
            self.plane.forget_waiting();
            if self.rng.once_in(2) {
                self.wait();
            }
        }
        self.note("restart".to_owned());
        self.control = ControlPlane::start(&self.plane, self.now);
        self.counts.starts += 1;
        self.activate();
    }

    /// A GC pass begins.
    fn begin_gc(&mut self) {
        self.control.begin_gc(self.now);
        self.note("GC pass begins".to_owned());
    }

    /// The daemon runs a GC pass over the flow table.
    pub fn gc_pass(&mut self) {
        let left = self.control.gc_pass(self.now);
        self.carry_out(usize::MAX);
        self.note(format!("GC pass leaves {left} slots"));
    }

    fn wait(&mut self) {
        let seconds = match self.rng.below(10) {
            0..4 => self.rng.below(5),
            4..6 => 20 + self.rng.below(60),
            6..9 => 80 + self.rng.below(700),
            _ if self.rng.once_in(8) => self.rng.below(16_000_000),
            _ => 850 + self.rng.below(1000),
        };
        let millis = seconds * 1000 + self.rng.below(1000);
        self.pass(Duration::from_millis(millis));
        if self.rng.once_in(2) {
            self.continue_all();
        }
    }

    /// Advances the clock, and applies what is due then.
    pub fn pass(&mut self, time: Duration) {
        self.advance(time);
        while !self.is_changing && self.control.is_due(self.now) {
            self.activate();
        }
    }

    fn advance(&mut self, time: Duration) {
        self.now += time;
        // As in the kernel, jiffies wrap around soon after the start.
        let jiffies = self.now.as_millis() as u64 * u64::from(HZ) / 1000;
        let since = u32::MAX - 300 * HZ;
        self.plane.host_mut().now.set(since.wrapping_add(jiffies as u32));
        self.note(format!("{:?}", self.now));
    }

    /// Each TCP flow sends a segment.
    pub fn continue_all(&mut self) {
        let numbers: Vec<_> = self.streams.keys().copied().collect();
        for number in numbers {
            self.continue_flow(number, flag::ACK);
        }
    }

    fn any_stream(&mut self) -> Option<u32> {
        let numbers: Vec<_> = self.streams.keys().copied().collect();
        self.rng.one_of(&numbers)
    }

    fn end_one(&mut self) {
        let Some(number) = self.any_stream() else { return };
        match self.rng.below(4) {
            0 | 1 => self.continue_flow(number, flag::RST | flag::ACK),
            2 => {
                self.continue_flow(number, flag::FIN | flag::ACK);
                if self.setting.mode != "nat" && self.rng.once_in(2) {
                    // The client has closed and still receives data.
                    return;
                }
            }
            // The client disappears silently.
            _ => {}
        }
        if let Some(flow) = self.streams.remove(&number)
            && self.setting.mode == "nat"
            && self.states(&flow).iter().all(|state| state.is_configured)
            && self.rng.once_in(2)
        {
            self.send_to_client(number, flow.server, PacketKind::Tcp(flag::FIN));
        }
        self.note(format!("flow {number} ends"));
    }
}
