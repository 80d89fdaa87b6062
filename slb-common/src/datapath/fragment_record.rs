//! Records of first fragments. Later fragments of a packet are forwarded by its record.

use super::{maps::Maps, parse::Packet};
use crate::abi::{
    Handle,
    flow::ClientPath,
    fragment::{FragmentKey, FragmentRecord},
    source::Source,
};

/// The flow of a first fragment: [`Handle::tag`] of its service, and its source.
#[derive(Debug, Clone, Copy)]
pub struct FragmentFlow {
    pub(super) service: u32,
    pub(super) source: Source,
}

impl FragmentFlow {
    /// As a number, for a BPF subprogram.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.service as u64 | (self.source.0 as u64) << 32
    }

    /// That of [`Self::word`].
    #[inline(always)]
    pub const fn of_word(word: u64) -> Self {
        Self { service: word as u32, source: Source((word >> 32) as u32) }
    }
}

/// Records a first fragment. A BPF subprogram
/// ([`PathCalls::record_fragment`](super::path_calls::PathCalls::record_fragment)): key and record lie in its stack frame.
#[inline(always)]
pub fn record<T: Maps>(
    packet: &Packet,
    server: Handle,
    client: ClientPath,
    FragmentFlow { service, source }: FragmentFlow,
    maps: &T,
) {
    let ports = u32::from(packet.source_port) | u32::from(packet.destination_port) << 16;
    let record = FragmentRecord { server, client, service, source, ports, since: maps.now() };
    maps.put_fragment(&packet.fragment_key(), &record);
}

impl Packet {
    #[inline(always)]
    pub(super) fn fragment_key(&self) -> FragmentKey {
        FragmentKey {
            source: self.source,
            destination: self.destination,
            id: self.fragment_id,
            protocol: self.protocol.into(),
        }
    }
}
