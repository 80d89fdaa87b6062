//! Begins the flow of a packet without an entry, or with one that does not hold for it: selects a server and inserts
//! the flow.

use core::borrow::Borrow as _;

use super::{
    charge,
    flows::{Conflicts, Flows, NOT_FOUND},
    frame_calls::FrameCalls,
    insert::NewFlow,
    metadata::{Metadata, PackedSelection, ReplacedEntry},
    parse::Packet,
    path::{Egress, PacketPath, Verdict, conclude_to_server},
    path_calls::PathCalls,
    quic::NamedServer,
    refusal::Refusal,
    schedule::SchedulerResult,
    schedule_calls::ScheduleCalls,
    tracked::{Request, next_hop},
};
use crate::{
    abi::{
        backend::Backend,
        flow::Client,
        programs::TailCalled,
        service::{IndexEntry, mode, policy},
        stats::Reason,
    },
    net::headers::protocol,
    opaque::opaque,
};

/// Begins the flow of a packet that [`to_server`](super::to_server) has admitted.
#[inline(always)]
pub fn new_flow<G: FrameCalls, T: PathCalls>(
    head: &mut G,
    ifindex: u32,
    maps: &T,
) -> Result<Verdict, TailCalled> {
    let decided = decide(head, ifindex, maps);
    conclude_to_server(decided, head, maps)
}

#[inline(always)]
fn decide<G: FrameCalls, T: PathCalls>(head: &mut G, ifindex: u32, maps: &T) -> Result<Egress, Refusal> {
    let path = PacketPath::open(ifindex, maps)?;
    let metadata = head.metadata().ok_or(Refusal::pass(Reason::NotReady))?;
    let Metadata { packet, replaced, named, .. } = metadata.borrow();
    let service = path.listener(packet, packet.destination_port);
    let (_, arrival) = path.origin(&head.frame(), packet)?;
    let service = service.ok_or(Refusal::UNMATCHED)?;
    let request = Request { packet, arrival, service, index: path.index, maps };
    let selection = request.begin_flow(*replaced, named)?;
    head.select(selection);
    Err(Refusal::Next(TailCalled::Forward))
}

impl<T: PathCalls> Request<'_, '_, T> {
    /// Selects a server for a packet, and inserts its flow in place of `replaced`. `named` is what its connection ID
    /// names. It stays in the metadata until it is used: a copy would need a place on the stack.
    #[inline(always)]
    fn begin_flow(&self, replaced: ReplacedEntry, named: &NamedServer) -> Result<PackedSelection, Refusal> {
        let Self { packet, arrival, service, index, maps } = *self;
        let distance = replaced.distance();
        let (sees_replies, is_mid_stream) = (self.sees_replies(), self.is_mid_stream());
        let (is_syn, is_new_entry) = (packet.flags.is_syn(), distance == NOT_FOUND);
        // The flow's entry may still be in the table that this one replaces, with another server. TCP retransmits the
        // segment.
        if is_mid_stream && is_new_entry && maps.is_resizing() {
            return Err(Refusal::drop(Reason::NotReady));
        }
        // The flow's server is gone, so its connection cannot continue. In the other modes another server answers the
        // segment.
        if sees_replies && is_mid_stream && !is_new_entry {
            return Err(Refusal::RST_DUE);
        }
        // Only `nat` flows have reverse-tuple conflicts. In `full-nat` replies differ in their destination port.
        let conflicts = if service.mode == mode::NAT {
            let client = Client::new(&packet.source, packet.source_port, packet.protocol);
            let query = Flows::open(index, maps).query(client);
            Conflicts(maps.conflicting_flows(&query, service.flow_tag(packet.destination_port)))
        } else {
            Conflicts::default()
        };
        // [`Conflicts`] holds four flows; a fifth could not be told from them. A RST begins no flow.
        if conflicts.is_full() && !packet.flags.rst() {
            return Err(Refusal::drop(Reason::ClientPortBusy));
        }
        let is_new = (is_syn && !packet.flags.rst()) || (sees_replies && !self.is_tcp());
        // A flow that loses its server is no new one. Without branches: each one would double the paths the verifier
        // follows.
        let is_limited = service.policy & policy::LIMIT_NEW_CONNECTIONS != 0;
        if opaque(u64::from(is_limited) & u64::from(is_new) & !replaced.live()) != 0 {
            charge::new_connection(service, maps)?;
        }
        let scheduled = schedule(packet, service, named, conflicts, maps);
        let backend = maps.backend(scheduled.backend()?).ok_or(Reason::NoServer)?;
        let previous_backend = scheduled.previous_backend().and_then(|id| maps.backend(id));
        // Before an entry is made: the packet that gets through is the one that begins the flow.
        let is_finished = is_mid_stream && backend.is_terminating() && !packet.flags.rst();
        next_hop(backend, maps)?;
        // A flow of the previous backend needs no entry if that is the current backend, too: the hash finds it. But an
        // old entry of the endpoint must be replaced, or later packets would match it.
        let is_known = !sees_replies
            && is_new_entry
            && service.policy & policy::TRACK == 0
            && is_syn
            && previous_backend.is_some_and(|previous_backend| previous_backend.handle == backend.handle);
        let selection = PackedSelection::begins(backend.handle, is_new, is_finished);
        // A RST begins no flow. It is forwarded to the end that may still have the connection.
        if is_known || packet.flags.rst() {
            return Ok(selection);
        }
        let new = NewFlow::new(backend.handle.id(), distance, is_finished);
        if maps.insert_flow(packet, service, arrival, new) {
            return Ok(selection);
        }
        if sees_replies {
            // Without an entry replies cannot be translated: it holds the VIP and the client path.
            return Err(Refusal::drop(Reason::FlowTableFull));
        }
        // The next packet of the connection names this server, too.
        if scheduled.is_named() {
            return Ok(selection);
        }
        self.without_entry(selection, previous_backend, conflicts)
    }

    /// The server of a packet whose flow got no entry, in modes where replies are not seen. Later packets must find the
    /// same server.
    #[inline(always)]
    fn without_entry(
        &self,
        selection: PackedSelection,
        previous_backend: Option<&Backend>,
        conflicts: Conflicts,
    ) -> Result<PackedSelection, Refusal> {
        let Self { packet, service, maps, .. } = *self;
        match previous_backend {
            // The hash leads later packets to the same server, for as long as the slot keeps this previous backend.
            Some(_) if !packet.flags.is_syn() => {
                maps.count_evicted_migrating();
                Ok(selection)
            }
            // The hash finds a new flow of the previous backend without an entry. With any other server the second
            // packet would break the flow.
            Some(previous_backend) if previous_backend.flags & Backend::ACCEPTS_NEW != 0 => {
                maps.count_evicted_migrating();
                next_hop(previous_backend, maps)?;
                Ok(PackedSelection::begins(previous_backend.handle, true, false))
            }
            Some(previous_backend) if previous_backend.handle != selection.server() => {
                Err(Refusal::drop(Reason::FlowTableFull))
            }
            _ if service.policy & policy::PINNED_ELSEWHERE != 0 && !self.is_mid_stream() => {
                // If the hash leads to the selected server, later packets find it without an entry.
                let by_hash = maps.server_by_hash(packet, service, conflicts.0);
                let is_found = service.policy & (policy::ROUND_ROBIN | policy::LEAST_CONNECTIONS) == 0
                    && by_hash.previous_backend().is_none()
                    && by_hash.backend().is_ok_and(|id| id == selection.server().id());
                if is_found { Ok(selection) } else { Err(Refusal::drop(Reason::FlowTableFull)) }
            }
            _ => Ok(selection),
        }
    }
}

/// Selects a server for a packet's flow. Updates affinity entry, round-robin position and connection count. A server that
/// the packet's connection ID names comes first.
#[inline(always)]
fn schedule<T: ScheduleCalls>(
    packet: &Packet,
    service: &IndexEntry,
    named: &NamedServer,
    conflicts: Conflicts,
    maps: &T,
) -> SchedulerResult {
    let is_tcp = packet.protocol == protocol::TCP;
    let begins = !is_tcp || (packet.flags.is_syn() && !packet.flags.rst());
    let policy = if begins { service.policy } else { 0 };
    let mut chosen = match *named {
        NamedServer::NONE => SchedulerResult::NO_SERVER,
        named => maps.server_by_connection_id(packet, service, conflicts.0, named),
    };
    if chosen.is_refused() && chosen != SchedulerResult::NO_SERVER {
        return chosen;
    }
    if chosen.is_refused()
        && !is_tcp
        && !mode::sees_replies(service.mode)
        && policy & policy::PINNED_ELSEWHERE != 0
        && policy & policy::FOLLOW == 0
    {
        // The datagram may belong to an untracked flow of the slot's previous backend.
        let affinity_server = maps.server_by_hash(packet, service, conflicts.0);
        if affinity_server.is_previous_backend() {
            return affinity_server;
        }
    }
    let persists = chosen.is_refused() && policy & policy::PERSIST != 0;
    if persists {
        chosen = maps.affinity_server(packet, service, conflicts.0);
    }
    if chosen.is_refused() {
        chosen = if policy & (policy::ROUND_ROBIN | policy::LEAST_CONNECTIONS) == 0 {
            maps.server_by_hash(packet, service, conflicts.0)
        } else {
            maps.server_by_round_robin(packet, service, conflicts.0)
        };
        if persists {
            chosen = maps.set_affinity(packet, service, conflicts.0, chosen);
        }
    }
    if policy & policy::LEAST_CONNECTIONS != 0
        && let Ok(backend) = chosen.backend()
        && let Some(load) = maps.connection_count(backend)
    {
        load.add(1);
    }
    chosen
}
