//! What a flow's segments show of it.

use std::collections::HashSet;

use super::read::Segment;
use crate::packets::frames::flag;

/// How far the numbers of an entry may be behind.
const BEHIND: i64 = 1 << 14;
/// How far from them a segment is believed.
const NEAR: i64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum End {
    Client,
    Server,
    Reset,
}

/// A flow in the table. Of datagrams it has no numbers.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Station of the client.
    pub(super) peer: [u8; 6],
    ended: HashSet<End>,
    pub(super) released: bool,
    picked_up: bool,
    answered: bool,
    assured: bool,
    /// The client has sent a SYN for another connection.
    reopened: bool,
    client: u32,
    server: u32,
}

/// How far `number` is ahead of another one, at most half way round.
fn ahead(number: u32, of: u32) -> i64 {
    i64::from(number.wrapping_sub(of).cast_signed())
}

fn follow(next: &mut u32, end: u32) {
    if !(-NEAR..BEHIND).contains(&ahead(end, *next)) {
        *next = end;
    }
}

impl Flow {
    /// Begun by a client's segment that comes from `peer`.
    pub(super) fn begun(flags: u8, segment: Segment, peer: [u8; 6]) -> Self {
        let asks = flags & (flag::SYN | flag::ACK) == flag::SYN;
        let mut flow = Self { peer, picked_up: !asks, client: segment.end, ..Self::default() };
        if !asks {
            flow.server = segment.acknowledges;
        }
        if flags & flag::FIN != 0 {
            flow.ended.insert(End::Client);
        }
        flow
    }

    /// Whether it has ended, as far as RSTs can be believed.
    pub(super) fn is_over(&self) -> bool {
        self.released || self.is_closed() || (self.ended.contains(&End::Reset) && !self.assured)
    }

    /// Whether a SYN-ACK of its server is none of it.
    pub(super) fn accepts_nothing(&self) -> bool {
        !self.reopened && (self.is_over() || self.ended.contains(&End::Reset))
    }

    fn is_closed(&self) -> bool {
        self.ended.contains(&End::Client) && self.ended.contains(&End::Server)
    }

    /// A further segment of the client, from this station.
    pub(super) fn asked(&mut self, flags: u8, segment: Segment, peer: [u8; 6]) {
        if flags & (flag::SYN | flag::ACK) == flag::SYN {
            self.reopened |= self.assured || segment.end != self.client;
            return;
        }
        let off = ahead(segment.sequence, self.client);
        let is_next = (-BEHIND..BEHIND).contains(&off);
        let was_assured = self.assured;
        if flags & flag::RST != 0 {
            if (0..BEHIND).contains(&off) {
                self.ended.insert(End::Reset);
                if self.answered && !self.assured {
                    self.ended.insert(End::Client);
                }
            }
        } else {
            if flags & flag::FIN != 0 && is_next {
                self.ended.insert(End::Client);
            }
            let hears = (0..BEHIND).contains(&ahead(segment.acknowledges, self.server));
            self.assured |= self.answered && is_next && hears;
        }
        let is_near = self.is_near(segment.sequence, segment.acknowledges);
        if was_assured && is_near {
            // The kernel has no route.
            self.peer = peer;
            follow(&mut self.client, segment.end);
            follow(&mut self.server, segment.acknowledges);
        }
        if was_assured && flags & flag::RST == 0 && is_near {
            self.reopened = false;
        }
    }

    /// A segment of the server.
    pub(super) fn answer(&mut self, flags: u8, segment: Segment) {
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
                self.ended.insert(End::Reset);
            } else if of_known || (!self.answered && refuses) {
                self.answered = true;
                self.ended.insert(End::Reset);
            }
        } else if !self.answered {
            if self.picked_up {
                (self.answered, self.assured) = (true, true);
                (self.client, self.server) = (segment.acknowledges, segment.end);
                if flags & flag::FIN != 0 {
                    self.ended.insert(End::Server);
                }
            }
        } else {
            if flags & flag::FIN != 0 && (-BEHIND..BEHIND).contains(&off) {
                self.ended.insert(End::Server);
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

    /// One number that is near vouches for the other one.
    fn is_half_near(&self, client: u32, server: u32) -> bool {
        self.near(client, server) != [false, false]
    }

    fn near(&self, client: u32, server: u32) -> [bool; 2] {
        [ahead(client, self.client), ahead(server, self.server)].map(|off| (-NEAR..NEAR).contains(&off))
    }
}
