//! The oracle: a second implementation of the packet path, written from its description and for clarity alone.
//!
//! It models a world in which every table has at most one server and no server dies. No client endpoint has more
//! listeners to use than it may have flows.

mod flow;
mod read;
mod write;

use std::{collections::HashMap, net::SocketAddr};

use slb_common::datapath::Verdict;

use self::{
    flow::OracleFlow,
    read::{OracleAction, ParsedFrame, read, without_priority_tags},
    write::{reply, write},
};
use super::{
    frames::{Frame, flag, number},
    icmp::{self, IcmpCause},
    reset,
    world::{self, LISTENERS, PacketListener, PacketServer, PacketWorld},
};

/// Removed, so that one client endpoint can reach at most four listeners with servers.
const EXCLUDED: [PacketListener; 3] = [world::FOURTH4, world::FIFTH4, world::STRAIGHT4];

/// The listeners of [`world`].
pub fn listeners() -> impl Iterator<Item = PacketListener> {
    LISTENERS.into_iter().filter(|listener| !EXCLUDED.contains(listener))
}

/// The world that the oracle models.
pub fn world() -> PacketWorld {
    EXCLUDED.into_iter().fold(PacketWorld::standard(), PacketWorld::without_listener)
}

/// The verdict, and the frame if it is forwarded or answered.
pub type OracleOutcome = (Verdict, Option<Vec<u8>>);

/// The flow table of the oracle.
#[derive(Debug, Default)]
pub struct Oracle {
    /// By client endpoint, protocol and listener.
    flows: HashMap<(SocketAddr, u8, u32), OracleFlow>,
}

/// Answers the sender with an ICMP error. Drops the frame if it has options or extension headers, is too short to
/// quote, has a source that is not a single host, or may be fragmented on its way.
fn icmp_error(frame: &[u8], read: &ParsedFrame, cause: IcmpCause) -> Result<(u32, Vec<u8>), OracleAction> {
    let may_be_fragmented =
        read.v4 && frame[read.network + 6] & 0x40 == 0 && matches!(cause, IcmpCause::TooBig(_));
    let can_be_quoted = read.len >= if read.v4 { 28 } else { 48 };
    if can_be_quoted && read.is_plain() && read.is_from_one_host() && !may_be_fragmented {
        Ok((world::LO, icmp::icmp_error(frame, read.network, cause)))
    } else {
        Err(OracleAction::Drop)
    }
}

/// Unmatched packets: one for a VIP is answered as a host without that port answers.
fn unmatched(frame: &[u8], read: &ParsedFrame) -> Result<(u32, Vec<u8>), OracleAction> {
    if ![world::VIP4, world::VIP6].contains(&read.destination.ip()) {
        return Err(OracleAction::Pass);
    }
    if [world::VIP4, world::VIP6].contains(&read.source.ip()) || !read.is_from_one_host() {
        return Err(OracleAction::Drop);
    }
    match read.protocol {
        number::TCP if read.flags & flag::RST == 0 && read.is_plain() => {
            let (network, transport) = (read.network, read.transport);
            let (bytes, end, protocol) = (frame.to_vec(), network + read.len, read.protocol);
            let frame = Frame { bytes, network, transport, end, protocol };
            Ok((world::LO, reset::back(&frame).bytes))
        }
        number::UDP => icmp_error(frame, read, IcmpCause::NoPort),
        // Protocol 59 is IPv6's No Next Header; the packet path drops it in IPv4 too.
        number::TCP | number::ICMP | number::ICMPV6 | 59 => Err(OracleAction::Drop),
        _ => icmp_error(frame, read, IcmpCause::NoProtocol),
    }
}

impl Oracle {
    /// Expected result of a frame that arrives on the loopback interface.
    pub fn judge(&mut self, frame: &[u8]) -> OracleOutcome {
        match self.sent(frame) {
            Ok((out, bytes)) if out == world::LO => (Verdict::Transmit, Some(bytes)),
            Ok((out, bytes)) => (Verdict::Redirect(out), Some(bytes)),
            Err(OracleAction::Pass) => (Verdict::Pass, None),
            Err(OracleAction::Drop) => (Verdict::Drop, None),
        }
    }

    fn sent(&mut self, frame: &[u8]) -> Result<(u32, Vec<u8>), OracleAction> {
        let is_own = |own: &[u8; 6]| frame.starts_with(own);
        if frame.len() >= 6 && !world::OWN_MACS.iter().any(is_own) {
            return Err(OracleAction::Pass);
        }
        let (frame, tags) = without_priority_tags(frame);
        let (frame, read) = (&frame[..], read(&frame, tags)?);
        if read.other {
            return unmatched(frame, &read);
        }
        let listener = listeners().find(|l| l.at == read.destination && l.protocol == read.protocol);
        let Some(listener) = listener else { return self.answered(frame, &read) };
        if [world::VIP4, world::VIP6].contains(&read.source.ip()) || !read.is_from_one_host() {
            return Err(OracleAction::Drop);
        }
        if read.protocol == number::ICMP || read.protocol == number::ICMPV6 {
            return Ok((world::LO, reply(frame, &read)));
        }
        if read.hop_limit < 2 {
            return icmp_error(frame, &read, IcmpCause::HopLimit);
        }
        self.asked(frame, &read, &listener)
    }

    fn asked(
        &mut self,
        frame: &[u8],
        read: &ParsedFrame,
        listener: &PacketListener,
    ) -> Result<(u32, Vec<u8>), OracleAction> {
        let server = world::server_of(listener).ok_or(OracleAction::Drop)?;
        let key = (read.source, read.protocol, listener.id);
        let opening = read.flags & flag::SYN != 0 && read.flags & flag::ACK == 0;
        let known = self.flows.get(&key).is_some_and(|flow| !(opening && flow.is_finished()));
        let mut peer = [0; 6];
        peer.copy_from_slice(&frame[6..12]);
        if !known {
            if read.source.ip() == server.at.ip() || server.hop == world::UNRESOLVED {
                return Err(OracleAction::Drop);
            }
            if read.flags & flag::RST == 0 {
                self.make_room(read, listener, &server)?;
                self.flows.insert(key, OracleFlow::begun(read.flags, read.segment, peer));
            }
        } else if let Some(flow) = self.flows.get_mut(&key)
            && read.protocol == number::TCP
        {
            flow.asked(read.flags, read.segment, peer);
        }
        if read.len > usize::from(world::MTU as u16) {
            return icmp_error(frame, read, IcmpCause::TooBig(world::MTU as u16));
        }
        if read.tagged && server.hop.out != world::LO {
            return Err(OracleAction::Drop);
        }
        let (destination, port) = read.offsets().1;
        let mut changes = write(frame, destination, port, server.at);
        read.hop(&mut changes, frame);
        Ok((server.hop.out, read.apply(frame, &changes, server.hop.peer, server.hop.own)))
    }

    /// Drops the packet on a reverse-tuple conflict. A conflicting flow that is finished is released instead.
    fn make_room(
        &mut self,
        read: &ParsedFrame,
        listener: &PacketListener,
        server: &PacketServer,
    ) -> Result<(), OracleAction> {
        for other in listeners().filter(|l| l.id != listener.id && world::server_of(l) == Some(*server)) {
            if let Some(flow) = self.flows.get_mut(&(read.source, read.protocol, other.id)) {
                if !flow.is_finished() {
                    return Err(OracleAction::Drop);
                }
                flow.released = true;
            }
        }
        Ok(())
    }

    fn answered(&mut self, frame: &[u8], read: &ParsedFrame) -> Result<(u32, Vec<u8>), OracleAction> {
        for listener in listeners() {
            if world::server_of(&listener).is_none_or(|server| server.at != read.source) {
                continue;
            }
            let Some(flow) = self.flows.get_mut(&(read.destination, read.protocol, listener.id)) else {
                continue;
            };
            if flow.released {
                continue;
            }
            if ![0, world::LO].contains(&world::server_of(&listener).map_or(0, |server| server.hop.out)) {
                return Err(OracleAction::Drop);
            }
            if read.flags & flag::SYN != 0 && flow.accepts_nothing() {
                flow.released = true;
                continue;
            }
            if read.protocol == number::TCP {
                flow.answer(read.flags, read.segment);
            }
            if read.hop_limit < 2 {
                return icmp_error(frame, read, IcmpCause::HopLimit);
            }
            let (source, port) = read.offsets().0;
            let mut changes = write(frame, source, port, listener.at);
            read.hop(&mut changes, frame);
            return Ok((world::LO, read.apply(frame, &changes, flow.peer, world::OWN_MAC)));
        }
        unmatched(frame, read)
    }
}
