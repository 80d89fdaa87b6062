//! Charges packets to the limits of their listener ([`limits`](super::limits)), where it has any.

use super::{path::PacketPath, path_calls::PathCalls, refusal::Refusal};
use crate::abi::{
    service::{IndexEntry, policy},
    stats::Reason,
    token_bucket::Limit,
};

/// Charges a packet that begins a flow, to a service with [`policy::LIMIT_NEW_CONNECTIONS`].
#[inline(always)]
pub(super) fn new_connection<T: PathCalls>(service: &IndexEntry, maps: &T) -> Result<(), Refusal> {
    let may_begin = maps.take_tokens(service.id(), Limit::NewConnections, 1);
    if may_begin { Ok(()) } else { Err(Refusal::drop(Reason::NewConnectionLimit)) }
}

impl<T: PathCalls, const FAST: bool> PacketPath<'_, T, FAST> {
    /// Charges a frame that is about to be forwarded. `service` and `policy` are those of its service.
    #[inline(always)]
    pub(super) fn charge_bandwidth(
        &self,
        service: u32,
        policy: u32,
        limit: Limit,
        bytes: usize,
    ) -> Result<(), Refusal> {
        let is_limited = policy & policy::LIMIT_BANDWIDTH != 0;
        if is_limited && !self.maps.take_tokens(service, limit, bytes as u32) {
            return Err(Refusal::drop(Reason::BandwidthLimit));
        }
        Ok(())
    }
}
