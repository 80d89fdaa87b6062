//! The programs behind tail calls, and their slots in the map `PROGRAMS`.

/// A program that another one tail-calls. Its number is its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum TailCalled {
    /// Packets of source-translated flows, of flows of mode `gue` and of services with QUIC, that need no new entry.
    FullNat,
    /// Parses what the fast path does not decide on, and names the program that decides.
    Slow,
    /// Packets to a listener: selects the server of untracked flows and of known ones.
    ToServer,
    /// Packets that begin a tracked flow: selects the server, inserts the flow.
    NewFlow,
    /// Packets with a selected server, to which they may come from a source of SLB's: finds or chooses it.
    Source,
    /// Packets with a selected server.
    Forward,
    /// Packets that may answer a flow.
    ToClient,
    /// Later fragments.
    Fragment,
    /// ICMP messages.
    Icmp,
    /// Refused packets whose senders may receive an answer.
    Refused,
    /// Packets to a listener with SYN cookies, and of flows that began with one.
    SynCookie,
    /// Answers of servers to flows that began with a SYN cookie.
    CookieReply,
}

const _: () = assert!(TailCalled::NAMES.len() == TailCalled::CookieReply as usize + 1);

impl TailCalled {
    /// Names of the programs, by slot.
    pub const NAMES: [&str; 12] = [
        "slb_full_nat",
        "slb_slow",
        "slb_to_server",
        "slb_new_flow",
        "slb_source",
        "slb_forward",
        "slb_to_client",
        "slb_fragment",
        "slb_icmp",
        "slb_refused",
        "slb_syn_cookie",
        "slb_cookie_reply",
    ];
}
