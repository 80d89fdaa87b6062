//! A TCP client that is not the kernel's: many connections without a descriptor each, and segments that no kernel sends.
//!
//! Its addresses are on the client's link, and the kernel there does not have them, so that it answers nothing for them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Flooded, Forger, Seen, Tap, Way};
use crate::packets::frames::flag;

/// The sequence number that its connections begin with.
const FIRST: u32 = 0x1357_9bdf;
/// Handshakes that are under way at a time.
const UNDER_WAY: usize = 64;
/// How long the last answers are waited for.
const LAST_ANSWERS: Duration = Duration::from_millis(300);
/// How long a single answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// A client on a link.
#[derive(Debug)]
pub struct Peer<'a> {
    /// What it sends with.
    pub forger: &'a Forger,
    /// What it hears with.
    pub tap: &'a Tap,
    /// Its station and SLB's.
    pub way: Way,
}

impl Peer<'_> {
    /// Opens a connection from each of these endpoints. Returns how many the server has accepted, and what was sent.
    ///
    /// # Errors
    /// The link fails.
    pub fn connect(
        &self,
        from: impl IntoIterator<Item = SocketAddr>,
        to: SocketAddr,
    ) -> Result<(usize, Flooded)> {
        let from: Vec<_> = from.into_iter().collect();
        let (begun, mut accepted) = (Instant::now(), BTreeSet::new());
        for bundle in from.chunks(UNDER_WAY) {
            for own in bundle {
                self.forger.send(&self.way.segment(*own, to, flag::SYN, [FIRST, 0]))?;
            }
            self.complete(to, &mut accepted)?;
        }
        let sent = Flooded { frames: (from.len() + accepted.len()) as u64, time: begun.elapsed() };
        let begun = Instant::now();
        while accepted.len() < from.len() && begun.elapsed() < LAST_ANSWERS {
            self.complete(to, &mut accepted)?;
            thread::sleep(Duration::from_millis(5));
        }
        Ok((accepted.len(), sent))
    }

    /// Answers what servers have said.
    fn complete(&self, to: SocketAddr, accepted: &mut BTreeSet<SocketAddr>) -> Result<()> {
        for seen in self.tap.seen()? {
            let Some((flags, sequence, _)) = seen.tcp.filter(|_| seen.from == to) else { continue };
            if flags & (flag::SYN | flag::ACK) == flag::SYN | flag::ACK {
                let numbers = [FIRST.wrapping_add(1), sequence.wrapping_add(1)];
                self.forger.send(&self.way.segment(seen.to, to, flag::ACK, numbers))?;
                accepted.insert(seen.to);
            }
        }
        Ok(())
    }

    /// Opens one connection as an end does that has sent its SYN at the same time as the other one: the first segment after it is a
    /// SYN once more, which acknowledges. Then it says a line; returns the answer.
    ///
    /// # Errors
    /// The server does not go on.
    pub fn open_simultaneously(&self, own: SocketAddr, to: SocketAddr, line: &str) -> Result<String> {
        self.forger.send(&self.way.segment(own, to, flag::SYN, [FIRST, 0]))?;
        let is_ours = |seen: &Seen| seen.from == to && seen.to == own;
        let answer = self.tap.wait("an answer to a SYN", PATIENCE, |seen| {
            is_ours(seen) && seen.tcp.is_some_and(|(flags, ..)| flags & flag::SYN != 0)
        })?;
        let (_, sequence, _) = answer.tcp.context("no segment")?;
        let acknowledged = sequence.wrapping_add(1);
        // The server retransmits nothing for this: it takes it for the acknowledgement.
        self.forger.send(&self.way.segment(own, to, flag::SYN | flag::ACK, [FIRST, acknowledged]))?;
        let numbers = [FIRST.wrapping_add(1), acknowledged];
        let said = self.way.carrying(own, to, flag::PSH | flag::ACK, numbers, line.as_bytes());
        self.forger.send(&said)?;
        let answer = self
            .tap
            .wait("an answer to a line", PATIENCE, |seen| is_ours(seen) && !seen.payload.is_empty())?;
        Ok(String::from_utf8_lossy(&answer.payload).into_owned())
    }
}

/// Endpoints of one address: so many ports from the first.
pub fn ports(address: IpAddr, first: u16, count: u16) -> impl Iterator<Item = SocketAddr> + Clone {
    (first..first.saturating_add(count)).map(move |port| (address, port).into())
}
