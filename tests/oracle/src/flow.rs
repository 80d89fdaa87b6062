//! A flow, as its packets show it.

use std::net::SocketAddr;

use crate::{
    packet::{Segment, flag},
    world::Mac,
};

/// How far behind the real sequence numbers a flow's may be.
pub(crate) const BEHIND: i64 = 1 << 14;
/// How far from a flow's sequence numbers a segment is believed.
const NEAR: i64 = 1 << 20;
/// Seconds after which a flow is evicted that is not established.
const UNASSURED_SECONDS: u32 = 60;
/// Seconds in which an idle end may answer a provoking segment.
const PROVOKED_SECONDS: u32 = 5;
/// Silence in seconds after which a flow whose client has closed its side is over, where replies are not seen.
const HALF_CLOSED_SECONDS: u32 = 60;
/// Age in seconds from which answered datagrams are a stream.
const STREAM_SECONDS: u32 = 2;

/// Where a client's packets come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Path {
    pub(crate) interface: u32,
    pub(crate) mac: Mac,
}

/// No hardware address.
pub(crate) const NO_MAC: Mac = [0; 6];

/// What has been seen of a flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) client_fin: bool,
    pub(crate) server_fin: bool,
    pub(crate) reset: bool,
    /// Its server endpoint talks to the client endpoint otherwise.
    pub(crate) reused: bool,
    pub(crate) answered: bool,
    pub(crate) assured: bool,
    /// It began in its middle.
    pub(crate) picked_up: bool,
    /// The client has sent a SYN for a new connection.
    pub(crate) reopened: bool,
}

impl Marks {
    fn is_closed(self) -> bool {
        self.client_fin && self.server_fin
    }

    pub(crate) fn is_finished(self) -> bool {
        self.is_closed() || self.reused || (self.reset && !(self.assured && self.reopened))
    }

    /// Whether a RST alone, which may be forged, says that an assured flow is finished.
    pub(crate) fn is_reset_alone(self) -> bool {
        self.reset && self.assured && !self.reused && !self.is_closed()
    }

    fn without_ends(self) -> Self {
        Self { client_fin: false, server_fin: false, reset: false, ..self }
    }
}

/// A flow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    /// A position in the world's servers.
    pub(crate) server: usize,
    pub(crate) is_tcp: bool,
    /// Whether SLB sees its replies: mode `nat`.
    pub(crate) sees_replies: bool,
    pub(crate) path: Path,
    pub(crate) arrival: Path,
    /// Source of its packets towards the server, in place of the client endpoint.
    pub(crate) source: Option<SocketAddr>,
    /// Whether it needs such a source.
    pub(crate) is_translated: bool,
    pub(crate) marks: Marks,
    /// The next numbers of client and server.
    pub(crate) client: u32,
    pub(crate) server_number: u32,
    /// When it began and when it was seen, in jiffies.
    pub(crate) begun: u32,
    seen: u32,
    /// Silence in jiffies after which it has expired.
    idle: u32,
}

/// Time, and the settings that concern it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    pub(crate) now: u32,
    pub(crate) hz: u32,
    /// Idle timeout of the listener, in seconds.
    pub(crate) idle: u32,
}

impl Clock {
    fn established(self) -> u32 {
        self.idle * self.hz
    }

    fn unassured(self) -> u32 {
        self.idle.min(UNASSURED_SECONDS) * self.hz
    }
}

/// Signed distance from `of` to `number`, modulo 2^32.
fn ahead(number: u32, of: u32) -> i64 {
    i64::from(number.wrapping_sub(of).cast_signed())
}

fn is_next(number: u32, of: u32) -> bool {
    (0..BEHIND).contains(&ahead(number, of))
}

fn is_around(number: u32, of: u32) -> bool {
    (-BEHIND..BEHIND).contains(&ahead(number, of))
}

fn is_near(number: u32, of: u32) -> bool {
    (-NEAR..NEAR).contains(&ahead(number, of))
}

fn follow(next: &mut u32, end: u32) {
    if !(-NEAR..BEHIND).contains(&ahead(end, *next)) {
        *next = end;
    }
}

/// What begins a flow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beginning {
    pub(crate) server: usize,
    pub(crate) is_tcp: bool,
    pub(crate) sees_replies: bool,
    pub(crate) arrival: Path,
    pub(crate) segment: Segment,
}

impl Flow {
    /// A flow that begins with this packet.
    pub(crate) fn begun(
        Beginning { server, is_tcp, sees_replies, arrival, segment }: Beginning,
        clock: Clock,
    ) -> Self {
        let picked_up = !segment.is_syn() && (is_tcp || !sees_replies);
        let marks = Marks { picked_up, client_fin: segment.has(flag::FIN), ..Marks::default() };
        let idle = if sees_replies && !picked_up { clock.unassured() } else { clock.established() };
        Self {
            server,
            is_tcp,
            sees_replies,
            path: arrival,
            arrival,
            source: None,
            is_translated: false,
            marks,
            client: segment.end,
            server_number: if segment.is_syn() { 0 } else { segment.acknowledges },
            begun: clock.now,
            seen: clock.now,
            idle,
        }
    }

    pub(crate) fn silence(&self, now: u32) -> u32 {
        now.wrapping_sub(self.seen)
    }

    pub(crate) fn is_expired(&self, now: u32) -> bool {
        self.silence(now) > self.idle
    }

    /// Finished, where a RST alone does not count, or expired.
    pub(crate) fn is_ended(&self, now: u32) -> bool {
        (self.marks.is_finished() && !self.marks.is_reset_alone()) || self.is_expired(now)
    }

    /// Whether a segment of an expired connection becomes a RST.
    pub(crate) fn is_reset_due(&self, segment: Segment, clock: Clock) -> bool {
        let answers = self.marks.reset && segment.flags & flag::CONTROL == flag::ACK;
        let is_soon = self.silence(clock.now) <= self.idle + PROVOKED_SECONDS * clock.hz;
        self.marks.reused || (answers && is_soon)
    }

    pub(crate) fn finishes(&self, segment: Segment) -> bool {
        is_around(segment.sequence, self.client)
    }

    fn survives_reset(&self, clock: Clock) -> bool {
        self.marks.is_reset_alone() && self.silence(clock.now) >= clock.hz
    }

    /// Whether a SYN of its client leaves it with its server, as far as the flow itself decides: it may continue.
    pub(crate) fn has_ended_for_syn(&self, clock: Clock) -> bool {
        let marks = self.marks;
        let has_ended = marks.is_finished() || (!self.sees_replies && marks.client_fin);
        has_ended && !self.may_continue(clock)
    }

    fn may_continue(&self, clock: Clock) -> bool {
        let marks = self.marks;
        let is_doubtful = marks.is_reset_alone() || !marks.is_finished();
        // Where replies are not seen, doubt ends after a time.
        let is_recent = self.sees_replies || !self.is_half_closed_for_long(clock);
        marks.assured && is_doubtful && is_recent
    }

    fn is_half_closed_for_long(&self, clock: Clock) -> bool {
        self.silence(clock.now) >= HALF_CLOSED_SECONDS * clock.hz
    }

    /// Whether its server decides on a SYN although it takes no new flows.
    pub(crate) fn lets_server_decide(&self) -> bool {
        let seems_finished = self.marks.is_finished() || (!self.sees_replies && self.marks.client_fin);
        self.marks.assured && (self.sees_replies || !seems_finished)
    }

    fn touch(&mut self, marks: Marks, idle: u32, clock: Clock) {
        if marks != self.marks || self.silence(clock.now) >= clock.hz {
            (self.marks, self.idle, self.seen) = (marks, idle, clock.now);
        }
    }

    /// A further packet of the client.
    pub(crate) fn asked(&mut self, segment: Segment, arrival: Path, clock: Clock) {
        let before = *self;
        let mut marks = self.marks;
        if self.is_expired(clock.now) {
            marks = marks.without_ends();
        }
        let is_near = self.is_plausible(segment);
        let is_mid_stream = self.is_tcp && !segment.is_syn();
        if is_mid_stream && !segment.has(flag::RST) && marks.assured && (marks.reset || marks.reopened) {
            marks = self.without_doubt(marks, is_near, clock);
        }
        marks = if self.is_tcp {
            self.after_segment(marks, segment, clock)
        } else {
            self.after_datagram(marks, clock)
        };
        let is_assured_now = marks.assured && !before.marks.assured;
        if self.is_tcp {
            self.advance(segment, is_assured_now, before.marks.reopened && !marks.reopened);
        }
        let is_elsewhere = arrival != self.arrival || self.path.mac == NO_MAC;
        if self.sees_replies
            && is_elsewhere
            && arrival.mac != NO_MAC
            && is_mid_stream
            && before.marks.assured
            && is_near
        {
            (self.path, self.arrival) = (arrival, arrival);
        }
        let idle = if is_assured_now && !segment.has(flag::RST) { clock.established() } else { self.idle };
        self.touch(marks, idle, clock);
    }

    /// A plausible segment shows that an assured connection continues, in spite of a RST or a SYN.
    fn without_doubt(&self, marks: Marks, is_near: bool, clock: Clock) -> Marks {
        if !self.sees_replies && marks.reopened {
            return Marks { reopened: false, ..marks.without_ends() };
        }
        if !is_near {
            return marks;
        }
        Marks { reopened: false, reset: marks.reset && !self.survives_reset(clock), ..marks }
    }

    fn after_datagram(&self, mut marks: Marks, clock: Clock) -> Marks {
        marks.assured |= if self.sees_replies {
            self.marks.answered && clock.now.wrapping_sub(self.begun) >= STREAM_SECONDS * clock.hz
        } else {
            !self.marks.picked_up || self.silence(clock.now) >= clock.hz
        };
        marks
    }

    fn after_segment(&self, mut marks: Marks, segment: Segment, clock: Clock) -> Marks {
        if segment.is_syn() {
            marks.reopened |= if self.sees_replies {
                marks.assured || segment.end != self.client
            } else {
                marks.assured && (marks.reset || marks.client_fin)
            };
        } else if segment.has(flag::RST) {
            if is_next(segment.sequence, self.client) {
                // The client ends its half of what its server has accepted.
                marks.client_fin |= marks.answered && !marks.assured;
                marks.reset = true;
            }
        } else {
            marks.client_fin |= segment.has(flag::FIN) && self.finishes(segment);
            marks.assured |= self.finishes(segment)
                && if self.sees_replies {
                    self.marks.answered && is_next(segment.acknowledges, self.server_number)
                } else {
                    !self.marks.picked_up || self.silence(clock.now) >= clock.hz
                };
        }
        marks
    }

    fn is_plausible(&self, segment: Segment) -> bool {
        is_near(segment.sequence, self.client) && is_near(segment.acknowledges, self.server_number)
    }

    fn advance(&mut self, segment: Segment, is_assured_now: bool, is_settled: bool) {
        let is_near = self.is_plausible(segment);
        if segment.is_syn() {
            if !self.marks.assured && !self.sees_replies {
                (self.client, self.server_number) = (segment.end, 0);
            }
        } else if !self.sees_replies && is_settled && !is_near {
            (self.client, self.server_number) = (segment.end, segment.acknowledges);
        } else if !self.sees_replies && is_assured_now {
            self.server_number = segment.acknowledges;
        } else if is_near && (self.marks.assured || !self.sees_replies) {
            follow(&mut self.client, segment.end);
            follow(&mut self.server_number, segment.acknowledges);
        }
    }

    /// Marks the flow without being seen.
    pub(crate) fn mark_reset(&mut self) {
        self.marks.reset = true;
    }

    /// A SYN of the server is no answer: the connection is finished.
    pub(crate) fn refuses_syn_ack(&self, now: u32) -> bool {
        !self.marks.reopened && (self.is_expired(now) || self.marks.is_finished())
    }

    /// A datagram of the server.
    pub(crate) fn answered_by_datagram(&mut self, clock: Clock) {
        let mut marks = self.marks;
        if self.is_expired(clock.now) {
            marks = marks.without_ends();
        }
        marks.answered = true;
        self.touch(marks, self.idle, clock);
    }

    /// A segment of the server. False if it must be refused: the server accepts a new connection, and takes no new
    /// flows.
    pub(crate) fn answered_by(&mut self, segment: Segment, takes_new: bool, clock: Clock) -> bool {
        let mut marks = self.marks;
        if self.is_expired(clock.now) {
            marks = marks.without_ends();
        }
        let was = marks;
        let numbers = self.answer(&mut marks, segment);
        let continues =
            is_near(segment.sequence, self.server_number) && is_near(segment.acknowledges, self.client);
        if was.reset && continues && !segment.has(flag::SYN | flag::RST) && self.survives_reset(clock) {
            marks.reset = false;
        }
        if was.assured && !marks.assured && segment.has(flag::SYN) && !takes_new {
            self.marks = Marks { assured: false, reopened: false, reset: true, ..was };
            return false;
        }
        let idle = match (was.assured, marks.assured) {
            (false, true) => clock.established(),
            (true, false) => clock.unassured(),
            _ => self.idle,
        };
        (self.client, self.server_number) = numbers;
        self.touch(marks, idle, clock);
        true
    }

    /// State and numbers (client, server) after a server's segment.
    fn answer(&self, marks: &mut Marks, segment: Segment) -> (u32, u32) {
        let (mut client, mut server) = (self.client, self.server_number);
        if segment.has(flag::SYN) {
            let accepts = !marks.assured && is_around(segment.acknowledges, client);
            if marks.reopened || accepts {
                *marks = Marks { answered: true, ..Marks::default() };
                return (segment.acknowledges, segment.end);
            }
        } else if segment.has(flag::RST) {
            let of_known = (marks.answered || marks.picked_up) && is_next(segment.sequence, server);
            let refuses = !marks.answered && is_next(segment.acknowledges, client);
            if marks.reopened && segment.has(flag::ACK) {
                *marks = Marks { assured: false, reopened: false, reset: true, ..*marks };
            } else if of_known || refuses {
                (marks.reset, marks.answered) = (true, true);
            }
        } else if !marks.answered {
            if marks.picked_up {
                marks.server_fin |= segment.has(flag::FIN);
                (marks.answered, marks.assured) = (true, true);
                return (segment.acknowledges, segment.end);
            }
        } else {
            marks.server_fin |= segment.has(flag::FIN) && is_around(segment.sequence, server);
            // One number within range suffices: SLB may have missed segments of one direction.
            if marks.assured && (is_near(segment.sequence, server) || is_near(segment.acknowledges, client)) {
                follow(&mut client, segment.acknowledges);
                follow(&mut server, segment.end);
            }
        }
        (client, server)
    }
}
