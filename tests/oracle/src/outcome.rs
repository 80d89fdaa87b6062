//! What happens to a packet, and why. Names are those of the counters.

/// What the program does with the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Sends it back out of the interface that it arrived on.
    Transmit,
    /// Sends it out of the interface with this index.
    Redirect(u32),
    /// Passes it to the kernel, unchanged.
    Pass,
    /// Drops it.
    Drop,
}

/// What must happen to a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The verdict.
    pub verdict: Verdict,
    /// The action under which it counts.
    pub action: Action,
    /// The reason under which it counts.
    pub reason: Reason,
    /// The frame that leaves, or is passed; `None` if it is dropped.
    pub frame: Option<Vec<u8>>,
    /// Which one it is among packets with the same action and reason.
    pub group: Option<Group>,
}

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "the names say it, and docs/operations.md explains each")]
        pub enum $name { $($variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name of the counter.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

named! {
    /// What is done with a packet.
    Action { Forward = "forward", Answer = "answer", Pass = "pass", Drop = "drop", }
}

named! {
    /// Why it is done.
    Reason {
        ToServer = "to_server",
        ToClient = "to_client",
        Echo = "echo",
        NotIp = "not_ip",
        LinkMulticast = "link_multicast",
        NotOurs = "not_ours",
        OtherProtocol = "other_protocol",
        Truncated = "truncated",
        BadHeader = "bad_header",
        BadLength = "bad_length",
        Fragment = "fragment",
        ExtensionHeaders = "extension_headers",
        HopLimit = "hop_limit",
        MartianSource = "martian_source",
        Hairpin = "hairpin",
        NoServer = "no_server",
        NoNextHop = "no_next_hop",
        PortConflict = "port_conflict",
        ClientPortBusy = "client_port_busy",
        NoInterface = "no_interface",
        VlanCrossing = "vlan_crossing",
        SourceRoute = "source_route",
        TooBig = "too_big",
        Loop = "loop",
        Reset = "reset",
        NotReady = "not_ready",
        Unmatched = "unmatched",
        WrongInterface = "wrong_interface",
        NoClientHop = "no_client_hop",
        OtherHost = "other_host",
        ForgedIcmp = "forged_icmp",
        NoSourcePort = "no_source_port",
        AccessDenied = "access_denied",
        BandwidthLimit = "bandwidth_limit",
        NewConnectionLimit = "new_connection_limit",
    }
}

named! {
    /// A kind of packet that its action and reason do not tell from others.
    Group {
        ErrorToServerNat = "icmp_error_to_server_nat",
        ErrorToServerFullNat = "icmp_error_to_server_full_nat",
        ErrorToServerDsrByFlow = "icmp_error_to_server_dsr_by_flow",
        ErrorToServerDsrByHash = "icmp_error_to_server_dsr_by_hash",
        ErrorToServerIpipByFlow = "icmp_error_to_server_ipip_by_flow",
        ErrorToServerIpipByHash = "icmp_error_to_server_ipip_by_hash",
        ErrorToServerGueByFlow = "icmp_error_to_server_gue_by_flow",
        ErrorToServerGueByHash = "icmp_error_to_server_gue_by_hash",
        ErrorToPreviousServer = "icmp_error_to_previous_server",
        ErrorToClient = "icmp_error_to_client",
        ToServerWithClientOption = "to_server_with_client_option",
        ToServerByConnectionId = "to_server_by_connection_id",
        FragmentToServerFullNat = "fragment_to_server_full_nat",
        FragmentToServerNat = "fragment_to_server_nat",
        FragmentToServerDsr = "fragment_to_server_dsr",
        FragmentToServerIpip = "fragment_to_server_ipip",
        FragmentToServerGue = "fragment_to_server_gue",
        FragmentToClient = "fragment_to_client",
        ReplyWithoutHops = "reply_without_hops",
        ReplyTooBig = "reply_too_big",
        TagPushed = "tag_pushed",
        TagReplaced = "tag_replaced",
        TagRemoved = "tag_removed",
    }
}
