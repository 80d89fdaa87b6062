//! Counters, one set per processor.

use super::{limit::Limit, named::named};

/// Traffic of a service or a server on one processor.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes of frames from clients.
    pub bytes_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes of frames to clients.
    pub bytes_out: u64,
    /// Flows begun.
    pub new_flows: u64,
}

named! {
    /// What became of a packet.
    enum Action:
    /// Sent on.
    Forward = "forward",
    /// Answered.
    Answer = "answer",
    /// Left to the kernel.
    Pass = "pass",
    /// Dropped.
    Drop = "drop",
}

named! {
    /// Why. Every packet is counted under exactly one action and one reason.
    enum Reason:
    /// A packet of a client, sent to its server.
    ToServer = "to_server",
    /// A packet of a server, sent to its client.
    ToClient = "to_client",
    /// An echo request to a VIP.
    Echo = "echo",
    /// Neither IPv4 nor IPv6.
    NotIp = "not_ip",
    /// A frame to a group of stations.
    LinkMulticast = "link_multicast",
    /// No listener on that address, port and protocol, and no flow it answers.
    NotOurs = "not_ours",
    /// Another protocol than TCP, UDP and echo, or another kind of ICMP message.
    OtherProtocol = "other_protocol",
    /// The frame ends before the headers do.
    Truncated = "truncated",
    /// A version or header length that cannot be.
    BadHeader = "bad_header",
    /// A length field that contradicts the frame or the headers.
    BadLength = "bad_length",
    /// A fragment.
    Fragment = "fragment",
    /// More IPv6 extension headers than are walked, or one that hides the transport header.
    ExtensionHeaders = "extension_headers",
    /// TTL or hop limit used up.
    HopLimit = "hop_limit",
    /// From an address that is no client's: a VIP, loopback, multicast, broadcast, or not specified.
    MartianSource = "martian_source",
    /// The server chosen is the client itself.
    Hairpin = "hairpin",
    /// No server may be given this flow.
    NoServer = "no_server",
    /// The way to the server is not known yet.
    NoNextHop = "no_next_hop",
    /// The client endpoint has live flows through other listeners to every server that was tried.
    PortConflict = "port_conflict",
    /// The client endpoint has as many live flows through other listeners as can be remembered.
    ClientPortBusy = "client_port_busy",
    /// The flow table took no entry.
    FlowTableFull = "flow_table_full",
    /// The way out is an interface that does not run the program, or is gone.
    NoInterface = "no_interface",
    /// A tagged frame whose way out is another interface: its VLAN means nothing there.
    VlanCrossing = "vlan_crossing",
    /// An IPv6 packet that its sender routes.
    SourceRoute = "source_route",
    /// Larger, inside its outer header, than may leave.
    TooBig = "too_big",
    /// The frame has no room for an outer header.
    NoHeadroom = "no_headroom",
    /// Sent by the server it would be sent to.
    Loop = "loop",
    /// Of a connection that is over: whose server's connections are cut, or that has been silent for too long. One of its ends
    /// is told.
    Reset = "reset",
    /// The daemon has not filled the maps yet.
    NotReady = "not_ready",
    /// For a VIP, and no listener takes it.
    Unmatched = "unmatched",
    /// For a VIP, by an interface that has not the role `client`; or from a server, and not by the way to it.
    WrongInterface = "wrong_interface",
    /// The neighbour by which the kernel reaches the client is not resolved yet.
    NoClientHop = "no_client_hop",
    /// To a hardware address that is not the interface's own (the kernel's PACKET_OTHERHOST).
    OtherHost = "other_host",
}

/// Room for reasons, a power of two.
pub const REASONS: usize = 32;

/// Packets by action and reason on one processor.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// `packets[action][reason]`.
    pub packets: [[u64; REASONS]; Action::ALL.len()],
    /// Flows that have been forgotten, or could not be remembered, although they may be older than the last change of their
    /// table.
    pub forgotten: u64,
    /// Live flows that were not assured and have made room for others.
    pub evicted: u64,
    /// Assured flows that have made room for those of other clients: theirs had far more than a share of a full flow table.
    pub evicted_assured: u64,
    /// Answers sent of late: `limits[kind]`.
    pub limits: [Limit; Limited::COUNT],
}

/// Answers of the program whose rate is limited, each kind by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    /// ICMP errors about packets of listeners that have used up their hops.
    HopLimit,
    /// ICMP errors about packets of listeners that are too big: path-MTU discovery waits for them.
    TooBig,
    /// Echo replies.
    Echo,
    /// Resets of connections of listeners.
    Resets,
    /// ICMP errors and resets for packets that no listener takes: a scan leaves the others their rate.
    Unmatched,
}

impl Limited {
    /// How many kinds there are.
    pub const COUNT: usize = 5;
}

const _: () = assert!(Reason::ALL.len() <= REASONS);
const _: () = assert!(size_of::<Counters>() == 40);
