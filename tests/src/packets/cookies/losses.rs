//! What befalls a connection that began with a SYN cookie: lost segments, a lost entry, a refusal, and another connection
//! of the same client endpoint.

use anyhow::{Context as _, Result, ensure};
use slb_common::abi::{
    service::{Service, policy},
    stats::{Action, Reason},
};

use super::{CLIENT, Case, DATA, Plane, SERVER, WINDOW, world_of};
use crate::packets::{
    frames::{self, Segment, flag},
    kernel::action,
    world,
};

/// Distance of the initial sequence numbers of the second connection.
const SECOND: u32 = 500_000;

impl<P: Plane> Case<'_, P> {
    /// A client endpoint whose connection is established: the number that it expects next.
    fn established(&mut self, port: u16) -> Result<u32> {
        self.move_to(port);
        let acknowledged = self.client(flag::SYN, 0, 0, &[])?.sequence.wrapping_add(1);
        let opened = self.client(flag::ACK, 1, acknowledged, &[])?;
        ensure!(opened.flags == flag::SYN, "{opened:?}");
        self.server(flag::SYN | flag::ACK, 0, 1, &[])?;
        let ack = self.client(flag::ACK, 1, acknowledged, &[])?;
        ensure!(ack.acknowledged == SERVER.wrapping_add(1), "{ack:?}");
        Ok(acknowledged)
    }

    /// Data of both sides, translated by the offset of an endpoint that expects `next`.
    fn exchange(&mut self, next: u32) -> Result<()> {
        let there = self.client(flag::ACK, 1, next, DATA)?;
        ensure!((there.acknowledged, there.from) == (SERVER.wrapping_add(1), self.source), "{there:?}");
        let back = self.server(flag::ACK, 1, 6, DATA)?;
        ensure!((back.sequence, back.to) == (next, self.ends.client), "{back:?}");
        Ok(())
    }

    fn drop_for(&mut self, frame: &[u8], reason: Reason) -> Result<()> {
        let before = self.plane.packets(Action::Drop, reason)?;
        let (verdict, _) = self.plane.run(frame)?;
        let now = self.plane.packets(Action::Drop, reason)?;
        ensure!(verdict == action::DROP && now == before + 1, "XDP action {verdict}, {now} after {before}");
        Ok(())
    }

    /// The cases, each with a client port of its own.
    pub(super) fn losses(&mut self) -> Result<()> {
        self.lost_ack().context("lost ACK")?;
        self.other_connection().context("another connection")?;
        self.lost_entry().context("lost entry")?;
        self.reused_port().context("reused port")?;
        self.forged_refusal().context("forged refusal")?;
        self.fragmented_syn().context("fragmented SYN")?;
        self.dropped_opening().context("dropped opening")
    }

    /// The server has not received the ACK that SLB has seen, and repeats its SYN-ACK: the client answers once more.
    fn lost_ack(&mut self) -> Result<()> {
        let next = self.established(2000)?;
        for _ in 0..2 {
            let again = self.server(flag::SYN | flag::ACK, 0, 1, &[])?;
            let shown = (again.flags, again.sequence, again.acknowledged, again.window);
            let expected = (flag::ACK, next.wrapping_sub(1), CLIENT.wrapping_add(1), WINDOW);
            ensure!(shown == expected, "{again:?}");
            self.exchange(next)?;
        }
        Ok(())
    }

    /// The client opens another connection on the same port, which server and client know by the same numbers.
    fn other_connection(&mut self) -> Result<()> {
        let next = self.established(2001)?;
        let syn = self.client(flag::SYN, SECOND, 0, &[])?;
        ensure!((syn.flags, syn.sequence) == (flag::SYN, CLIENT.wrapping_add(SECOND)), "{syn:?}");
        // Until the server accepts it, the first one goes on.
        self.exchange(next)?;
        self.client(flag::SYN, SECOND, 0, &[])?;
        for _ in 0..2 {
            let accepted = self.server(flag::SYN | flag::ACK, SECOND, SECOND + 1, &[])?;
            let shown = (accepted.flags, accepted.sequence, accepted.acknowledged);
            let isn = SERVER.wrapping_add(SECOND);
            let expected = (flag::SYN | flag::ACK, isn, CLIENT.wrapping_add(SECOND + 1));
            ensure!(shown == expected, "{accepted:?}");
            let next = isn.wrapping_add(1);
            let there = self.client(flag::ACK, SECOND + 1, next, DATA)?;
            ensure!((there.flags, there.acknowledged) == (flag::ACK, next), "{there:?}");
            let back = self.server(flag::ACK, SECOND + 1, SECOND + 6, DATA)?;
            ensure!(back.sequence == next, "{back:?}");
        }
        Ok(())
    }

    /// The entry is evicted or flushed. The next segment of the client picks the connection up.
    fn lost_entry(&mut self) -> Result<()> {
        let next = self.established(2002)?;
        self.plane.flush()?;
        self.exchange(next)?;
        self.exchange(next)?;
        // Before the server has answered, the client's segment opens the connection again.
        self.move_to(2003);
        let next = self.client(flag::SYN, 0, 0, &[])?.sequence.wrapping_add(1);
        for _ in 0..2 {
            let opened = self.client(flag::ACK, 1, next, &[])?;
            ensure!((opened.flags, opened.sequence) == (flag::SYN, CLIENT), "{opened:?}");
            self.plane.flush()?;
        }
        Ok(())
    }

    /// The client uses the port of an earlier connection, whose entry is gone, in the flood: the new cookie counts.
    fn reused_port(&mut self) -> Result<()> {
        self.established(2008)?;
        self.plane.flush()?;
        let next = self.client(flag::SYN, SECOND, 0, &[])?.sequence.wrapping_add(1);
        let opened = self.client(flag::ACK, SECOND + 1, next, &[])?;
        ensure!((opened.flags, opened.sequence) == (flag::SYN, CLIENT.wrapping_add(SECOND)), "{opened:?}");
        let keep_alive = self.server(flag::SYN | flag::ACK, SECOND, SECOND + 1, &[])?;
        ensure!(
            (keep_alive.flags, keep_alive.sequence) == (flag::ACK, next.wrapping_sub(1)),
            "{keep_alive:?}"
        );
        let there = self.client(flag::ACK, SECOND + 1, next, DATA)?;
        ensure!(there.acknowledged == SERVER.wrapping_add(SECOND + 1), "{there:?}");
        Ok(())
    }

    /// A RST that does not acknowledge the SYN refuses nothing (RFC 9293, 3.10.7.1).
    fn forged_refusal(&mut self) -> Result<()> {
        self.move_to(2004);
        let next = self.client(flag::SYN, 0, 0, &[])?.sequence.wrapping_add(1);
        self.client(flag::ACK, 1, next, &[])?;
        for (flags, acknowledged) in [(flag::RST | flag::ACK, 7), (flag::RST, 0)] {
            let acknowledgement = CLIENT.wrapping_add(acknowledged);
            let segment = Segment { flags, sequence: 0, acknowledgement, payload: &[] };
            let frame = frames::segment(self.ends.server.at, self.source, segment);
            let frame = frame.macs(world::SERVER_MAC, world::SERVER_SIDE_MAC).build();
            self.drop_for(&frame.bytes, Reason::Reset)?;
        }
        self.server(flag::SYN | flag::ACK, 0, 1, &[])?;
        self.client(flag::ACK, 1, next, &[])?;
        self.exchange(next)
    }

    /// In a flood, a SYN that is the first fragment of a datagram makes no entry, and gets no cookie.
    fn fragmented_syn(&mut self) -> Result<()> {
        const MORE_FRAGMENTS: [u8; 2] = [0x20, 0];
        if !self.ends.client.is_ipv4() {
            return Ok(());
        }
        self.move_to(2005);
        let frame = self.of_client(self.ends.client, flag::SYN, (CLIENT, 0), &[]).build();
        let frame = frame.network(6, &MORE_FRAGMENTS).sound();
        let flows = self.plane.flows(self.ends.listener.id)?;
        self.drop_for(&frame.bytes, Reason::SynCookie)?;
        ensure!(self.plane.flows(self.ends.listener.id)? == flows, "a SYN has begun a flow");
        Ok(())
    }

    /// SLB drops the SYN that opens a connection: the client, which is established, receives a RST.
    fn dropped_opening(&mut self) -> Result<()> {
        let limited =
            world_of(self.ends, self.mode, true).with(self.ends.listener, |service: &mut Service| {
                service.policy |= policy::LIMIT_NEW_CONNECTIONS | policy::TRACK;
                service.new_connections = 1;
            });
        self.plane.become_world(&limited)?;
        for (port, is_over) in [(2006, false), (2007, true)] {
            self.move_to(port);
            let next = self.client(flag::SYN, 0, 0, &[])?.sequence.wrapping_add(1);
            let seen = self.client(flag::ACK, 1, next, DATA)?;
            let expected = if is_over {
                (flag::RST, next, self.ends.client, self.ends.listener.at)
            } else {
                (flag::SYN, CLIENT, self.ends.server.at, self.source)
            };
            ensure!((seen.flags, seen.sequence, seen.to, seen.from) == expected, "{seen:?}");
        }
        Ok(())
    }
}
