//! Metadata of a frame: what one program of the packet path leaves for the next, in a map of each processor.

use super::{
    embedded::parse_embedded,
    flows::NOT_FOUND,
    parse::{EMPTY_PACKET, Packet, TcpFlags, parse},
    quic::NamedServer,
    refusal::PackedRefusal,
    tracked::Selection,
};
use crate::{
    abi::{Handle, MAX_BACKENDS, source::Source, stats::Reason},
    net::frame::Frame,
};

/// What has been found out about a frame.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Metadata {
    /// The packet; of a frame that the parser refuses, what it has read.
    pub packet: Packet,
    /// Why the parser or a later step refuses it; [`PackedRefusal::UNMATCHED`] for a sound packet.
    pub refusal: PackedRefusal,
    /// The server that is selected for it.
    pub selection: PackedSelection,
    /// The source that it gets, [`Source::UNTRANSLATED`], or [`Source::NONE`] before that is decided.
    pub source: Source,
    /// The entry that its flow replaces, if it begins one.
    pub replaced: ReplacedEntry,
    /// What its connection ID names, if it begins a flow.
    pub named: NamedServer,
    /// Sequence offset of its flow, with [`TcpFlags::TRANSLATED`](super::parse::TcpFlags). With `TcpFlags::OF_COOKIE` the
    /// number of a RST to the client.
    pub offset: u32,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
}

impl Metadata {
    /// Metadata of a frame that nothing has been read of.
    pub const EMPTY: Self = Self {
        packet: EMPTY_PACKET,
        refusal: PackedRefusal::unmatched(Reason::NotReady),
        selection: PackedSelection(0),
        source: Source::NONE,
        replaced: ReplacedEntry::NONE,
        named: NamedServer::NONE,
        offset: 0,
        reserved: 0,
    };

    /// [`parse`].
    #[inline(always)]
    pub fn read(&mut self, frame: &Frame<'_>) {
        let read = parse(frame, &mut self.packet);
        self.refusal = refusal(read);
    }

    /// [`parse_embedded`].
    #[inline(always)]
    pub fn read_embedded(&mut self, frame: &Frame<'_>, outer: &Packet, minimum: u32) {
        let read = parse_embedded(frame, outer, minimum, &mut self.packet);
        self.refusal = refusal(read);
    }

    /// Takes the ports of a first fragment, as [`FrameCalls::follow`](super::frame_calls::FrameCalls::follow) does.
    #[inline(always)]
    pub const fn follow(&mut self, ports: u32, selection: PackedSelection, source: Source) {
        self.packet.source_port = ports as u16;
        self.packet.destination_port = (ports >> 16) as u16;
        self.selection = selection;
        self.source = source;
    }

    /// Marks the packet, as [`FrameCalls::mark`](super::frame_calls::FrameCalls::mark) does.
    #[inline(always)]
    pub const fn mark(&mut self, marks: u32, offset: u32) {
        self.packet.flags.0 |= marks;
        self.offset = offset;
        if marks & TcpFlags::TO_SERVER == TcpFlags::TO_SERVER {
            self.packet.acknowledges = self.packet.acknowledges.wrapping_sub(offset);
        }
    }

    /// Whether the parser has refused nothing.
    #[inline(always)]
    pub(super) fn is_sound(&self) -> bool {
        self.refusal == PackedRefusal::UNMATCHED
    }

    /// Whether the parser has refused it for this reason.
    #[inline(always)]
    pub(super) fn is_refused_for(&self, reason: Reason) -> bool {
        self.refusal == PackedRefusal::unmatched(reason)
    }
}

#[inline(always)]
const fn refusal(read: Result<(), Reason>) -> PackedRefusal {
    match read {
        Ok(()) => PackedRefusal::UNMATCHED,
        Err(reason) => PackedRefusal::unmatched(reason),
    }
}

/// The flow-table entry that a new flow replaces, or none: its distance from the home bucket, and a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplacedEntry(pub u32);

impl ReplacedEntry {
    /// The flow gets a new entry.
    pub const NONE: Self = Self(NOT_FOUND);
    const LIVE: u32 = 8;

    /// The entry at `distance` from the home bucket. `live` is 1 if its flow has not ended, else 0.
    #[inline(always)]
    pub(super) const fn new(distance: u32, live: u64) -> Self {
        Self(distance | (live as u32) << Self::LIVE)
    }

    /// Distance from the home bucket, or [`NOT_FOUND`].
    #[inline(always)]
    pub(super) const fn distance(self) -> u32 {
        self.0 & ((1 << Self::LIVE) - 1)
    }

    /// 1 if the flow of the entry has not ended, else 0.
    #[inline(always)]
    pub(super) const fn live(self) -> u64 {
        (self.0 >> Self::LIVE) as u64
    }
}

/// A selected server, and how the packet goes to it, as a number in a map: the server's handle and two flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedSelection(pub u64);

const _: () = assert!((MAX_BACKENDS as u64) < PackedSelection::OPENING);

impl PackedSelection {
    const NEW: u64 = 1 << 31;
    const FINISHED: u64 = 1 << 30;
    const OPENING: u64 = 1 << 29;
    const FLAGS: u64 = Self::NEW | Self::FINISHED | Self::OPENING;

    /// A selection of `server` without flags.
    #[inline(always)]
    pub(super) const fn new(server: Handle) -> Self {
        Self(server.0)
    }

    /// The selection for a packet that begins a flow, if `is_new`. `is_finished` says whether it goes to the server as a RST.
    #[inline(always)]
    pub(super) const fn begins(server: Handle, is_new: bool, is_finished: bool) -> Self {
        let flags = is_new as u64 * (Self::NEW + Self::OPENING) + is_finished as u64 * Self::FINISHED;
        Self(server.0 | flags)
    }

    /// What the next program needs of a selection.
    #[inline(always)]
    pub(super) const fn of(selection: &Selection<'_>) -> Self {
        let Selection { backend, is_new, is_finished, is_opening, .. } = *selection;
        let flags = is_new as u64 * Self::NEW
            + is_finished as u64 * Self::FINISHED
            + is_opening as u64 * Self::OPENING;
        Self(backend.handle.0 | flags)
    }

    /// The server. Its entry may have been replaced since it was selected.
    #[inline(always)]
    pub(super) const fn server(self) -> Handle {
        Handle(self.0 & !Self::FLAGS)
    }

    /// Whether the packet begins a flow.
    #[inline(always)]
    pub(super) const fn is_new(self) -> bool {
        self.0 & Self::NEW != 0
    }

    /// Whether the packet goes to the server as a RST.
    #[inline(always)]
    pub(super) const fn is_finished(self) -> bool {
        self.0 & Self::FINISHED != 0
    }

    /// Whether the packet opens a connection.
    #[inline(always)]
    pub(super) const fn is_opening(self) -> bool {
        self.0 & Self::OPENING != 0
    }
}
