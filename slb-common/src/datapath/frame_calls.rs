//! Subprograms that read or rewrite the frame, and what they leave for later programs.

use core::borrow::Borrow;

#[cfg(doc)]
use super::{cookie_segments, embedded, icmp_error, icmp_nat, parse, reset, toa};
use super::{
    cookie_segments::{HeaderNumbers, SegmentShape},
    icmp_error::IcmpMessage,
    icmp_nat::Translation,
    metadata::{Metadata, PackedSelection, ReplacedEntry},
    parse::Packet,
    quic::{self, NamedServer},
    refusal::PackedRefusal,
};
use crate::abi::{quic::CidFormat, source::Source};
#[cfg(doc)]
use crate::net::ethernet;
use crate::net::{address::Address, frame::FrameBuffer, vlan::Vlan};

/// The frame in the kernel's buffer, and the subprograms that read or rewrite it.
pub trait FrameCalls: FrameBuffer {
    /// A parsed packet, by value or by reference.
    type Metadata: Borrow<Metadata>;

    /// [`Metadata::read`], a BPF subprogram; `None` where there is no memory for the packet. No constant packet can stand
    /// in for it: before Linux 6.15, subprograms take no pointer to read-only data.
    fn parse(&mut self) -> Option<Self::Metadata>;
    /// What [`Self::parse`] has left, in a later program.
    fn metadata(&self) -> Option<Self::Metadata>;
    /// Leaves the VLAN device by which the frame arrives in [`Self::metadata`].
    fn arrive_by(&mut self, vlan_device: u32);
    /// Leaves a refusal in [`Self::metadata`] for a later program.
    fn refuse(&mut self, refusal: PackedRefusal);
    /// Leaves the entry that the packet's flow replaces in [`Self::metadata`] for a later program, and what its connection
    /// ID names.
    fn begin_flow(&mut self, replaced: ReplacedEntry, named: NamedServer);
    /// Leaves a selected server in [`Self::metadata`] for a later program, and [`Source::NONE`].
    fn select(&mut self, selection: PackedSelection);
    /// Leaves the source of a packet, or [`Source::UNTRANSLATED`], in [`Self::metadata`] for a later program.
    fn translate_source(&mut self, source: Source);
    /// As [`Self::select`] and [`Self::translate_source`] for a later fragment, with the ports of the first one: source
    /// in the lower half, destination in the upper half, each in network byte order.
    fn follow(&mut self, ports: u32, selection: PackedSelection, source: Source);
    /// [`quic::read`], a BPF subprogram.
    fn named_server(&mut self, transport: usize, len: usize, format: CidFormat) -> NamedServer {
        quic::read(&self.frame(), transport, len, format)
    }
    /// [`Metadata::read_embedded`], a BPF subprogram. `packet` is what [`Self::parse`] has returned, `minimum` the
    /// smallest path MTU that is believed, as `embedded::minimum_mtu` packs it.
    fn parse_embedded(&mut self, packet: &Packet, minimum: u32) -> Option<Self::Metadata>;
    /// [`icmp_nat::translate`], a BPF subprogram. After `false` the frame must be dropped.
    fn translate_icmp(
        &mut self,
        packet: &Packet,
        embedded: &Packet,
        address: &Address,
        translation: Translation,
    ) -> bool;
    /// [`ethernet::remove_priority_tags`], a BPF subprogram. After `false` the frame must be dropped.
    fn remove_priority_tags(&mut self) -> bool;
    /// [`icmp_nat::translate_sequence`], a BPF subprogram. After `false` the frame must be dropped.
    fn translate_embedded_sequence(&mut self, packet: &Packet, embedded: &Packet, offset: u32) -> bool;
    /// [`set_vlan`](crate::net::vlan_tags::set_vlan), a BPF subprogram. After `false` the frame must be dropped.
    fn set_vlan(&mut self, vlan: Vlan) -> bool;
    /// [`icmp_error::may_answer`], a BPF subprogram.
    fn may_answer(&mut self, network: usize, message: IcmpMessage) -> bool;
    /// [`icmp_error::answer`], a BPF subprogram. After `false` the frame must be dropped.
    fn rewrite_to_icmp_error(&mut self, network: usize, message: IcmpMessage) -> bool;
    /// [`toa::insert`], a BPF subprogram. After `false` the frame must be dropped.
    fn insert_client_option(&mut self, packet: &Packet, room: usize) -> bool;
    /// [`reset::rewrite_to_rst`], a BPF subprogram. After `false` the frame must be dropped.
    fn rewrite_to_rst(&mut self, network: usize, back: bool) -> bool;
    /// [`cookie_segments::rewrite`], a BPF subprogram. After `false` the frame must be dropped.
    fn rewrite_segment(&mut self, network: usize, numbers: HeaderNumbers, shape: SegmentShape) -> bool;
    /// Leaves marks in the flags of the packet in [`Self::metadata`], and the sequence offset of its flow.
    fn mark(&mut self, marks: u32, offset: u32);
    /// What [`Self::mark`] has left as the sequence offset.
    fn offset(&self) -> u32;
    /// [`cookie_segments::translate`], a BPF subprogram. After `false` the frame must be dropped.
    fn translate_number(&mut self, transport: usize, offset: u32, is_to_server: bool) -> bool;
}
