//! Limits of listeners: bandwidth, and new connections.
//!
//! Bandwidth counts each frame that is about to be forwarded between a client and a server, as the traffic counters do.
//! Each direction has its own token bucket. ICMP errors, and answers of SLB, do not count.
//!
//! A new connection is a SYN, or in the modes that see replies a datagram, without an entry, or with that of a flow that
//! has ended. It counts before a server is selected, so one that is refused makes no entry and takes no turn. Flows of a
//! limited listener are tracked, so a SYN that is sent again counts once, and a flow that loses its server does not count.

use super::maps::Maps;
use crate::{abi::token_bucket::Limit, net::headers::protocol};

/// Takes `amount` from a token bucket of a service: bytes, or connections. Returns `false` if the bucket is empty, and
/// counts the packet as dropped. A BPF subprogram
/// ([`PathCalls::take_tokens`](super::path_calls::PathCalls::take_tokens)).
#[inline(always)]
pub fn take<T: Maps>(service: u32, limit: Limit, amount: u32, maps: &T) -> bool {
    let Some(limited) = maps.service(service) else { return true };
    let rate = match limit {
        Limit::BandwidthIn | Limit::BandwidthOut => limited.bandwidth,
        Limit::NewConnections => limited.new_connections,
    };
    // During a resize the entry of a datagram's flow may be in the table that this one replaces.
    let is_unknown =
        limit == Limit::NewConnections && limited.protocol == protocol::UDP && maps.is_resizing();
    // Without a rate, the limit is being removed.
    if rate == 0 || is_unknown {
        return true;
    }
    // Before the next call: rate and amount need no place in the stack frame after it.
    let cost = limit.cost(rate, amount);
    let Some(buckets) = maps.token_buckets(limited.token_buckets.into()) else { return true };
    let may_pass = buckets.take(limit, cost, maps.nanoseconds());
    if !may_pass {
        maps.count_over_limit(service, limit);
    }
    may_pass
}
