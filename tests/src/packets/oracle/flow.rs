//! State of a flow, as its segments show it.

use std::collections::HashSet;

use super::read::ParsedSegment;
use crate::packets::frames::flag;

/// How far behind the real sequence numbers an entry's may be.
const BEHIND: i64 = 1 << 14;
/// How far from an entry's sequence numbers a segment is accepted.
const NEAR: i64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum FlowEnd {
    Client,
    Server,
    Reset,
}

/// A flow-table entry. UDP flows do not use the sequence numbers.
#[derive(Debug, Default)]
pub(super) struct OracleFlow {
    /// MAC of the client.
    pub(super) peer: [u8; 6],
    ended: HashSet<FlowEnd>,
    pub(super) released: bool,
    picked_up: bool,
    answered: bool,
    assured: bool,
    /// The client has sent a SYN for a new connection.
    reopened: bool,
    client: u32,
    server: u32,
}

/// Signed distance from `of` to `number`, modulo 2^32.
fn ahead(number: u32, of: u32) -> i64 {
    i64::from(number.wrapping_sub(of).cast_signed())
}

fn follow(next: &mut u32, end: u32) {
    if !(-NEAR..BEHIND).contains(&ahead(end, *next)) {
        *next = end;
    }
}

impl OracleFlow {
    /// A new entry for a client's segment from the MAC `peer`.
    pub(super) fn begun(flags: u8, segment: ParsedSegment, peer: [u8; 6]) -> Self {
        let asks = flags & (flag::SYN | flag::ACK) == flag::SYN;
        let mut flow = Self { peer, picked_up: !asks, client: segment.end, ..Self::default() };
        if !asks {
            flow.server = segment.acknowledges;
        }
        if flags & flag::FIN != 0 {
            flow.ended.insert(FlowEnd::Client);
        }
        flow
    }

    /// Whether the flow is finished. A RST finishes only a flow that is not assured.
    pub(super) fn is_finished(&self) -> bool {
        self.released || self.is_closed() || (self.ended.contains(&FlowEnd::Reset) && !self.assured)
    }

    /// Whether a SYN-ACK from its server does not belong to the flow.
    pub(super) fn accepts_nothing(&self) -> bool {
        !self.reopened && (self.is_finished() || self.ended.contains(&FlowEnd::Reset))
    }

    fn is_closed(&self) -> bool {
        self.ended.contains(&FlowEnd::Client) && self.ended.contains(&FlowEnd::Server)
    }

    /// A further segment from the client, with the source MAC `peer`.
    pub(super) fn asked(&mut self, flags: u8, segment: ParsedSegment, peer: [u8; 6]) {
        if flags & (flag::SYN | flag::ACK) == flag::SYN {
            self.reopened |= self.assured || segment.end != self.client;
            return;
        }
        let off = ahead(segment.sequence, self.client);
        let is_next = (-BEHIND..BEHIND).contains(&off);
        let was_assured = self.assured;
        if flags & flag::RST != 0 {
            if (0..BEHIND).contains(&off) {
                self.ended.insert(FlowEnd::Reset);
                if self.answered && !self.assured {
                    self.ended.insert(FlowEnd::Client);
                }
            }
        } else {
            if flags & flag::FIN != 0 && is_next {
                self.ended.insert(FlowEnd::Client);
            }
            let hears = (0..BEHIND).contains(&ahead(segment.acknowledges, self.server));
            self.assured |= self.answered && is_next && hears;
        }
        let is_near = self.is_near(segment.sequence, segment.acknowledges);
        if was_assured && is_near {
            // The kernel has no route to the client, so answers follow the client's frames.
            self.peer = peer;
            follow(&mut self.client, segment.end);
            follow(&mut self.server, segment.acknowledges);
        }
        if was_assured && flags & flag::RST == 0 && is_near {
            self.reopened = false;
        }
    }

    /// A segment from the server.
    pub(super) fn answer(&mut self, flags: u8, segment: ParsedSegment) {
        let off = ahead(segment.sequence, self.server);
        if flags & flag::SYN != 0 {
            let accepts = (-BEHIND..BEHIND).contains(&ahead(segment.acknowledges, self.client));
            if self.reopened || (!self.assured && accepts) {
                let (client, server) = (segment.acknowledges, segment.end);
                *self = Self { peer: self.peer, answered: true, client, server, ..Self::default() };
            }
        } else if flags & flag::RST != 0 {
            let of_known = (self.answered || self.picked_up) && (0..BEHIND).contains(&off);
            let refuses = (0..BEHIND).contains(&ahead(segment.acknowledges, self.client));
            if self.reopened && flags & flag::ACK != 0 {
                (self.assured, self.reopened) = (false, false);
                self.ended.insert(FlowEnd::Reset);
            } else if of_known || (!self.answered && refuses) {
                self.answered = true;
                self.ended.insert(FlowEnd::Reset);
            }
        } else if !self.answered {
            if self.picked_up {
                (self.answered, self.assured) = (true, true);
                (self.client, self.server) = (segment.acknowledges, segment.end);
                if flags & flag::FIN != 0 {
                    self.ended.insert(FlowEnd::Server);
                }
            }
        } else {
            if flags & flag::FIN != 0 && (-BEHIND..BEHIND).contains(&off) {
                self.ended.insert(FlowEnd::Server);
            }
            if self.assured && self.is_half_near(segment.acknowledges, segment.sequence) {
                follow(&mut self.client, segment.acknowledges);
                follow(&mut self.server, segment.end);
            }
        }
    }

    fn is_near(&self, client: u32, server: u32) -> bool {
        self.near(client, server) == [true, true]
    }

    /// One number within range suffices: SLB may have missed segments in one direction.
    fn is_half_near(&self, client: u32, server: u32) -> bool {
        self.near(client, server) != [false, false]
    }

    fn near(&self, client: u32, server: u32) -> [bool; 2] {
        [ahead(client, self.client), ahead(server, self.server)].map(|off| (-NEAR..NEAR).contains(&off))
    }
}
