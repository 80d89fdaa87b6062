//! Counters, one set per processor.

use super::{named_enum::named_enum, rate_limit::RateLimiter, token_bucket::Limit};

/// Traffic of a service or a server on one processor.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes of frames from clients.
    pub bytes_in: u64,
    /// Packets to clients, in mode `nat` only.
    pub packets_out: u64,
    /// Bytes of frames to clients, in mode `nat` only.
    pub bytes_out: u64,
    /// Flows that have begun.
    pub new_flows: u64,
}

named_enum! {
    /// What the packet path did with a packet.
    enum Action:
    /// Forwarded to a server or a client.
    Forward = "forward",
    /// Answered by SLB itself.
    Answer = "answer",
    /// Passed to the kernel, unchanged.
    Pass = "pass",
    /// Dropped.
    Drop = "drop",
}

named_enum! {
    /// Why the packet path took an action. Every packet counts under exactly one action and one reason.
    enum Reason:
    /// A client's packet, forwarded to its server.
    ToServer = "to_server",
    /// A server's packet, forwarded to its client.
    ToClient = "to_client",
    /// An echo request to a VIP.
    Echo = "echo",
    /// Neither IPv4 nor IPv6.
    NotIp = "not_ip",
    /// A frame to a group address.
    LinkMulticast = "link_multicast",
    /// No listener at this address, port and protocol, and no flow that it answers.
    NotOurs = "not_ours",
    /// Another protocol than TCP, UDP and echo, or another ICMP message.
    OtherProtocol = "other_protocol",
    /// The frame ends within its headers.
    Truncated = "truncated",
    /// A version or header length that no packet has.
    BadHeader = "bad_header",
    /// A length field that contradicts the frame or the headers.
    BadLength = "bad_length",
    /// A later fragment whose first one was not forwarded or is too long ago; a malformed fragment, or one of another
    /// protocol than TCP and UDP.
    Fragment = "fragment",
    /// More IPv6 extension headers than the parser reads, or one that hides the transport header.
    ExtensionHeaders = "extension_headers",
    /// TTL or hop limit is used up.
    HopLimit = "hop_limit",
    /// A martian source: a VIP, loopback, multicast, broadcast or unspecified address.
    MartianSource = "martian_source",
    /// The selected server is the client itself.
    Hairpin = "hairpin",
    /// No server may have this flow.
    NoServer = "no_server",
    /// The server's next hop is not resolved yet.
    NoNextHop = "no_next_hop",
    /// Reverse-tuple conflict: the client endpoint has live flows through other listeners to every server that was
    /// tried.
    PortConflict = "port_conflict",
    /// The client endpoint has as many live flows through other listeners as SLB can tell apart.
    ClientPortBusy = "client_port_busy",
    /// The flow table has no slot for a flow that needs one.
    FlowTableFull = "flow_table_full",
    /// The outgoing interface does not run the program, or is gone.
    NoInterface = "no_interface",
    /// A tagged frame that would leave by another interface, where its VLAN means nothing.
    VlanCrossing = "vlan_crossing",
    /// An IPv6 packet with a routing header that still names hops.
    SourceRoute = "source_route",
    /// Larger than the MTU towards the server, with its outer header.
    TooBig = "too_big",
    /// The frame has no room for an outer header.
    NoHeadroom = "no_headroom",
    /// A packet of mode `dsr` that its own server has sent.
    Loop = "loop",
    /// A segment of a finished connection: its server is terminating or gone, or it was silent for too long. It becomes
    /// a RST, or a RST answers it.
    Reset = "reset",
    /// The daemon has not filled the maps yet.
    NotReady = "not_ready",
    /// Unmatched: for a VIP, and no listener takes it.
    Unmatched = "unmatched",
    /// For a VIP, by an interface without the role `client`; or from a server, by another path than that to it.
    WrongInterface = "wrong_interface",
    /// The neighbour on the kernel's route to the client is not resolved yet.
    NoClientHop = "no_client_hop",
    /// To a hardware address that is not the interface's own (the kernel's PACKET_OTHERHOST).
    OtherHost = "other_host",
    /// An ICMP error to a VIP that embeds no packet of this VIP, or that states a path MTU below 576 (IPv6: 1,280)
    /// bytes.
    ForgedIcmp = "forged_icmp",
    /// No local address has a free port towards the server (mode `full-nat`).
    NoSourcePort = "no_source_port",
    /// From a client that the listener's access list denies.
    AccessDenied = "access_denied",
    /// Over the bandwidth of the listener.
    BandwidthLimit = "bandwidth_limit",
    /// A SYN, or the first datagram of a flow, over the new connections of the listener.
    NewConnectionLimit = "new_connection_limit",
    /// A SYN in a flood of SYNs, answered by a SYN cookie; dropped if it is a fragment, or has IP options or
    /// extension headers.
    SynCookie = "syn_cookie",
    /// A segment of a connection that began with a SYN cookie, whose sequence numbers SLB no longer knows. A RST answers
    /// it.
    LostOffset = "lost_offset",
}

/// Size of the arrays by reason, a power of two.
pub const REASONS: usize = 64;

/// Packets by action and reason on one processor.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// `packets[action][reason]`.
    pub packets: [[u64; REASONS]; Action::ALL.len()],
    /// Flows that were evicted, or got no entry, and may be older than the last change of their server table.
    pub evicted_migrating: u64,
    /// Live flows that were evicted and not assured.
    pub evicted: u64,
    /// Assured flows that were evicted before they were finished or expired.
    pub evicted_assured: u64,
    /// Rate limits of generated packets: `limits[kind]`.
    pub limits: [RateLimiter; GeneratedPacket::COUNT],
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            packets: [[0; REASONS]; Action::ALL.len()],
            evicted_migrating: 0,
            evicted: 0,
            evicted_assured: 0,
            limits: Default::default(),
        }
    }
}

/// Packets of a service on one processor that its limits have stopped, and its SYN cookies.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitDrops {
    /// From clients, over the bandwidth.
    pub bandwidth_in: u64,
    /// To clients, over the bandwidth.
    pub bandwidth_out: u64,
    /// Packets that would have begun a flow.
    pub new_connections: u64,
    /// SYNs answered by SYN cookies.
    pub cookies_sent: u64,
    /// Segments with a valid cookie, whose connection SLB opens.
    pub cookies_accepted: u64,
    /// Segments without a flow-table entry and without a valid cookie.
    pub cookies_refused: u64,
}

/// What becomes of a SYN cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CookieEvent {
    /// [`LimitDrops::cookies_sent`].
    Sent,
    /// [`LimitDrops::cookies_accepted`].
    Accepted,
    /// [`LimitDrops::cookies_refused`].
    Refused,
}

impl LimitDrops {
    /// Packets over a limit.
    #[inline(always)]
    pub const fn of(&mut self, limit: Limit) -> &mut u64 {
        match limit {
            Limit::BandwidthIn => &mut self.bandwidth_in,
            Limit::BandwidthOut => &mut self.bandwidth_out,
            Limit::NewConnections => &mut self.new_connections,
        }
    }

    /// SYN cookies of which this has become.
    #[inline(always)]
    pub const fn of_cookie(&mut self, event: CookieEvent) -> &mut u64 {
        match event {
            CookieEvent::Sent => &mut self.cookies_sent,
            CookieEvent::Accepted => &mut self.cookies_accepted,
            CookieEvent::Refused => &mut self.cookies_refused,
        }
    }
}

/// Generated packets, each kind with a rate limit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GeneratedPacket {
    /// ICMP errors about packets for listeners whose TTL or hop limit is used up.
    HopLimit,
    /// ICMP errors about packets for listeners that exceed the MTU. Path-MTU discovery waits for them.
    TooBig,
    /// Echo replies.
    Echo,
    /// RSTs for connections of listeners.
    Resets,
    /// ICMP errors and RSTs for unmatched packets: a port scan uses up no other limit.
    Unmatched,
    /// ICMP errors about servers' packets.
    ErrorsToServers,
    /// No packets: long searches for a free source (mode `full-nat`).
    SourceSearches,
}

impl GeneratedPacket {
    /// Number of kinds.
    pub const COUNT: usize = 7;
}

const _: () = assert!(Reason::ALL.len() <= REASONS);
const _: () = assert!(size_of::<Counters>() == 40);
const _: () = assert!(size_of::<LimitDrops>() == 48);
