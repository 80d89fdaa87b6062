//! A TCP client in user space: many connections without a descriptor each, and segments that no kernel sends.
//!
//! Its addresses belong to the subnet of the client's link. No kernel holds them, so no kernel answers for them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{CapturedFrame, FloodStats, Forger, MacPair, Tap};
use crate::packets::frames::flag;

/// Initial sequence number of its connections.
const FIRST: u32 = 0x1357_9bdf;
/// Handshakes in progress at a time.
const MAX_PENDING: usize = 64;
/// How long the client waits for the last SYN-ACKs.
const LAST_ANSWERS: Duration = Duration::from_millis(300);
/// How long the client waits for one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A client on a link.
#[derive(Debug)]
pub struct Peer<'a> {
    /// Sends its frames.
    pub forger: &'a Forger,
    /// Captures the answers.
    pub tap: &'a Tap,
    /// MAC pair of its frames: its own address and SLB's.
    pub mac_pair: MacPair,
}

impl Peer<'_> {
    /// Opens a connection from each of these client endpoints. Returns how many the server accepted, and the frames
    /// sent.
    ///
    /// # Errors
    /// A frame cannot be sent, or the tap cannot be read.
    pub fn connect(
        &self,
        from: impl IntoIterator<Item = SocketAddr>,
        to: SocketAddr,
    ) -> Result<(usize, FloodStats)> {
        let from: Vec<_> = from.into_iter().collect();
        let (begun, mut accepted) = (Instant::now(), BTreeSet::new());
        for bundle in from.chunks(MAX_PENDING) {
            for own in bundle {
                self.forger.send(&self.mac_pair.segment(*own, to, flag::SYN, [FIRST, 0]))?;
            }
            self.complete(to, &mut accepted)?;
        }
        let sent = FloodStats { frames: (from.len() + accepted.len()) as u64, time: begun.elapsed() };
        let begun = Instant::now();
        while accepted.len() < from.len() && begun.elapsed() < LAST_ANSWERS {
            self.complete(to, &mut accepted)?;
            thread::sleep(Duration::from_millis(5));
        }
        Ok((accepted.len(), sent))
    }

    /// Acknowledges each SYN-ACK that has arrived, and records its client endpoint.
    fn complete(&self, to: SocketAddr, accepted: &mut BTreeSet<SocketAddr>) -> Result<()> {
        for seen in self.tap.seen()? {
            let Some((flags, sequence, _)) = seen.tcp.filter(|_| seen.from == to) else { continue };
            if flags & (flag::SYN | flag::ACK) == flag::SYN | flag::ACK {
                let numbers = [FIRST.wrapping_add(1), sequence.wrapping_add(1)];
                self.forger.send(&self.mac_pair.segment(seen.to, to, flag::ACK, numbers))?;
                accepted.insert(seen.to);
            }
        }
        Ok(())
    }

    /// Opens one connection as in a simultaneous open (RFC 9293, 3.5): its second segment is a SYN-ACK in place of an
    /// ACK. Then it sends `line` and returns the answer.
    ///
    /// # Errors
    /// The server does not answer in time.
    pub fn open_simultaneously(&self, own: SocketAddr, to: SocketAddr, line: &str) -> Result<String> {
        self.forger.send(&self.mac_pair.segment(own, to, flag::SYN, [FIRST, 0]))?;
        let is_ours = |seen: &CapturedFrame| seen.from == to && seen.to == own;
        let answer = self.tap.wait("an answer to a SYN", PATIENCE, |seen| {
            is_ours(seen) && seen.tcp.is_some_and(|(flags, ..)| flags & flag::SYN != 0)
        })?;
        let (_, sequence, _) = answer.tcp.context("no segment")?;
        let acknowledged = sequence.wrapping_add(1);
        // The server takes this SYN-ACK for the acknowledgement of its own, and retransmits nothing.
        self.forger.send(&self.mac_pair.segment(own, to, flag::SYN | flag::ACK, [FIRST, acknowledged]))?;
        let numbers = [FIRST.wrapping_add(1), acknowledged];
        let said = self.mac_pair.carrying(own, to, flag::PSH | flag::ACK, numbers, line.as_bytes());
        self.forger.send(&said)?;
        let answer = self
            .tap
            .wait("an answer to a line", PATIENCE, |seen| is_ours(seen) && !seen.payload.is_empty())?;
        Ok(String::from_utf8_lossy(&answer.payload).into_owned())
    }
}

/// Client endpoints of one address with `count` consecutive ports from `first`.
pub fn ports(address: IpAddr, first: u16, count: u16) -> impl Iterator<Item = SocketAddr> + Clone {
    (first..first.saturating_add(count)).map(move |port| (address, port).into())
}
