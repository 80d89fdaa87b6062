//! A frame in memory, and the steps of the packet path that read or rewrite it.

use slb_common::{
    abi::source::Source,
    datapath::{
        cookie_segments::{self, HeaderNumbers, SegmentShape},
        frame_calls::FrameCalls,
        icmp_error::{self, IcmpMessage},
        icmp_nat::{self, Translation},
        metadata::{Metadata, PackedSelection, ReplacedEntry},
        parse::Packet,
        quic::NamedServer,
        refusal::PackedRefusal,
        reset, toa,
    },
    net::{
        address::Address,
        ethernet,
        frame::{Frame, FrameBuffer},
        vlan::Vlan,
        vlan_tags,
    },
};

/// A frame with headroom in front, as drivers provide it.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    /// What the programs leave for later ones.
    metadata: Metadata,
}

/// `XDP_PACKET_HEADROOM`.
const HEADROOM: usize = 256;

impl Buffer {
    /// A frame with these bytes.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let mut padded = vec![0xa5; HEADROOM];
        padded.extend_from_slice(bytes);
        Self { bytes: padded, start: HEADROOM, metadata: Metadata::EMPTY }
    }

    /// The bytes of the frame.
    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        self.bytes.split_off(self.start)
    }
}

impl FrameBuffer for Buffer {
    fn frame(&mut self) -> Frame<'_> {
        Frame::from_slice(&mut self.bytes[self.start..])
    }

    fn grow(&mut self, bytes: usize) -> bool {
        match self.start.checked_sub(bytes) {
            Some(start) => {
                self.start = start;
                true
            }
            None => false,
        }
    }

    fn shrink(&mut self, bytes: usize) -> bool {
        self.start += bytes;
        true
    }

    fn truncate(&mut self, bytes: usize) -> bool {
        self.bytes.truncate(self.start + bytes);
        true
    }

    fn resize(&mut self, bytes: usize) -> bool {
        self.bytes.resize(self.start + bytes, 0);
        true
    }
}

impl FrameCalls for Buffer {
    type Metadata = Metadata;

    fn parse(&mut self) -> Option<Metadata> {
        let mut parsed = Metadata::EMPTY;
        parsed.read(&self.frame());
        self.metadata = parsed;
        Some(parsed)
    }

    fn metadata(&self) -> Option<Metadata> {
        Some(self.metadata)
    }

    fn arrive_by(&mut self, vlan_device: u32) {
        self.metadata.packet.vlan_device = vlan_device;
    }

    fn refuse(&mut self, refusal: PackedRefusal) {
        self.metadata.refusal = refusal;
    }

    fn begin_flow(&mut self, replaced: ReplacedEntry, named: NamedServer) {
        self.metadata.replaced = replaced;
        self.metadata.named = named;
    }

    fn select(&mut self, selection: PackedSelection) {
        self.metadata.selection = selection;
        self.metadata.source = Source::NONE;
    }

    fn translate_source(&mut self, source: Source) {
        self.metadata.source = source;
    }

    fn follow(&mut self, ports: u32, selection: PackedSelection, source: Source) {
        self.metadata.follow(ports, selection, source);
    }

    fn parse_embedded(&mut self, packet: &Packet, minimum: u32) -> Option<Metadata> {
        let mut embedded = Metadata::EMPTY;
        embedded.read_embedded(&self.frame(), packet, minimum);
        Some(embedded)
    }

    fn translate_icmp(
        &mut self,
        packet: &Packet,
        embedded: &Packet,
        address: &Address,
        translation: Translation,
    ) -> bool {
        icmp_nat::translate(&mut self.frame(), packet, embedded, address, translation).is_some()
    }

    fn translate_embedded_sequence(&mut self, packet: &Packet, embedded: &Packet, offset: u32) -> bool {
        icmp_nat::translate_sequence(&mut self.frame(), packet, embedded, offset).is_some()
    }

    fn remove_priority_tags(&mut self) -> bool {
        ethernet::remove_priority_tags(self).is_some()
    }

    fn set_vlan(&mut self, vlan: Vlan) -> bool {
        vlan_tags::set_vlan(self, vlan).is_some()
    }

    fn may_answer(&mut self, network: usize, message: IcmpMessage) -> bool {
        icmp_error::may_answer(&self.frame(), network, message)
    }

    fn rewrite_to_icmp_error(&mut self, network: usize, message: IcmpMessage) -> bool {
        icmp_error::answer(self, network, message).is_some()
    }

    fn insert_client_option(&mut self, packet: &Packet, room: usize) -> bool {
        toa::insert(self, packet, room).is_some()
    }

    fn rewrite_to_rst(&mut self, network: usize, back: bool) -> bool {
        reset::rewrite_to_rst(self, network, back).is_some()
    }

    fn rewrite_segment(&mut self, network: usize, numbers: HeaderNumbers, shape: SegmentShape) -> bool {
        cookie_segments::rewrite(self, network, numbers, shape).is_some()
    }

    fn mark(&mut self, marks: u32, offset: u32) {
        self.metadata.mark(marks, offset);
    }

    fn offset(&self) -> u32 {
        self.metadata.offset
    }

    fn translate_number(&mut self, transport: usize, offset: u32, is_to_server: bool) -> bool {
        cookie_segments::translate(&mut self.frame(), transport, offset, is_to_server).is_some()
    }
}
