//! The packet path: decides on one frame, and rewrites it.
//!
//! The fast path ([`fast`]) handles untagged TCP and UDP without options whose flow needs no new entry: nearly all
//! packets. Each address family has its own code with constant offsets. Every other frame goes to the slow path
//! ([`slow`]), a BPF program behind a tail call, which starts from the beginning: it parses the frame, and a further
//! program decides. Until then the frame is unchanged. Of the flow table the fast path may have marked finished flows,
//! as the later programs would do too.
//!
//! | program | decides on |
//! |---|---|
//! | [`fast`] | most packets of known flows, frames for other hosts |
//! | [`full_nat`] | packets of known flows of the modes `full-nat` and `gue`, port ranges, and services with QUIC |
//! | [`slow`] | nothing: parses, names the next program |
//! | [`to_server`] | packets to a listener: selects the server of untracked flows and of known ones |
//! | [`new_flow`] | packets that begin a tracked flow: selects the server, inserts the flow |
//! | [`source`] | packets whose source is translated: finds or chooses their source |
//! | [`forward`] | packets with a selected server: rewrites them |
//! | [`to_client`] | packets that may answer a flow (modes `nat`, `full-nat`) |
//! | [`fragment`] | later fragments: where the first one went |
//! | [`icmp`] | echo requests, ICMP errors about packets of flows |
//! | [`syn_cookie`] | segments to listeners with SYN cookies, or of flows that began with one |
//! | [`cookie_reply`] | segments of servers to flows that began with a SYN cookie |
//! | [`refused`] | refused packets: RST, ICMP error, drop or pass |
//!
//! Invariants:
//!
//! - A frame that is passed has not been changed.
//! - A frame that is sent on is changed only after every check that could refuse it.
//! - Every call counts the frame under exactly one action and one reason.
//! - Maps and kernel helpers are reached through [`maps::Maps`] alone, BPF subprograms through the traits above it:
//!   [`flow_calls`], [`schedule_calls`], [`path_calls`], and through [`frame_calls`].

pub mod access;
pub mod cookie_calls;
pub mod cookie_mark;
pub mod cookie_segments;
pub mod embedded;
pub mod flow_calls;
#[cfg(any(test, feature = "user"))]
pub mod flow_gc;
pub mod flows;
pub mod fragment_record;
pub mod frame_calls;
pub mod icmp_error;
pub mod icmp_nat;
pub mod insert;
pub mod ipip;
pub mod limits;
pub mod maps;
pub mod metadata;
pub mod parse;
pub mod path_calls;
pub mod quic;
pub mod refusal;
pub mod reset;
pub mod schedule;
pub mod schedule_calls;
pub mod sequence_numbers;
pub mod syn_cookie;
pub mod toa;
pub mod tracked;
pub mod unmatched;

mod charge;
mod client_path;
mod cookie_reply;
mod echo;
mod fast;
mod forward;
mod fragments;
mod gue;
mod icmp;
mod listener;
mod macs;
mod nat;
mod new_flow;
mod path;
mod refused;
mod related;
mod reply;
mod select;
mod slots;
mod slow;
mod source;
mod to_client;
mod to_server;
mod vlan;

use crate::abi::programs::TailCalled;
pub use cookie_reply::cookie_reply;
pub use fast::{fast, full_nat};
pub use forward::forward;
pub use fragments::fragment;
use frame_calls::FrameCalls;
pub use icmp::icmp;
pub use new_flow::new_flow;
pub use path::Verdict;
use path_calls::PathCalls;
pub use refused::refused;
pub use slow::slow;
pub use source::source;
pub use syn_cookie::syn_cookie;
pub use to_client::to_client;
pub use to_server::to_server;

/// Decides on a frame that arrived on the interface `ifindex`, and rewrites it for the verdict. Each program decides or
/// names the next one.
pub fn process<G: FrameCalls, T: PathCalls>(head: &mut G, ifindex: u32, maps: &T) -> Verdict {
    let mut decided = fast(head, ifindex, maps);
    loop {
        decided = match decided {
            Ok(verdict) => return verdict,
            Err(TailCalled::FullNat) => full_nat(head, ifindex, maps),
            Err(TailCalled::Slow) => slow(head, ifindex, maps),
            Err(TailCalled::ToServer) => to_server(head, ifindex, maps),
            Err(TailCalled::NewFlow) => new_flow(head, ifindex, maps),
            Err(TailCalled::Source) => source(head, ifindex, maps),
            Err(TailCalled::Forward) => forward(head, ifindex, maps),
            Err(TailCalled::ToClient) => to_client(head, ifindex, maps),
            Err(TailCalled::Fragment) => fragment(head, ifindex, maps),
            Err(TailCalled::Icmp) => icmp(head, ifindex, maps),
            Err(TailCalled::SynCookie) => syn_cookie(head, ifindex, maps),
            Err(TailCalled::CookieReply) => cookie_reply(head, ifindex, maps),
            Err(TailCalled::Refused) => Ok(refused(head, ifindex, maps)),
        }
    }
}
