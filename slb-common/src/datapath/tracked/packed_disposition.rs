//! The result of [`super::disposition`] as a number: a BPF subprogram returns no more than 64 bits.

use super::Selection;
use crate::{
    abi::{programs::TailCalled, stats::Reason},
    datapath::{maps::Maps, refusal::Refusal},
};

/// What a flow-table entry says about a packet, packed into 64 bits as the result of a BPF subprogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedDisposition(pub u64);

impl PackedDisposition {
    const REFUSED: u64 = 1 << 63;
    const FINISHED: u64 = 1 << 32;
    const OPENING: u64 = 1 << 33;
    const NO_NEXT_HOP: Self = Self(Self::REFUSED);
    /// The sender receives a RST.
    const RST_DUE: Self = Self(Self::REFUSED | 1);
    /// There is no entry.
    pub const NO_ENTRY: Self = Self(1 << 62);
    /// The entry does not hold for the packet. A server is selected anew.
    pub(in crate::datapath) const RESELECT: Self = Self(1 << 61);
    /// As [`Self::RESELECT`], for a flow that has not ended: its server may no longer receive the packet.
    pub(in crate::datapath) const RESELECT_LIVE: Self = Self(Self::RESELECT.0 | 1);
    /// The packet belongs to another connection than the entry.
    pub(in crate::datapath) const OTHER_CONNECTION: Self = Self(1 << 60);

    /// Another program translates the packet's numbers first.
    pub(in crate::datapath) const TRANSLATE: Self = Self(1 << 59);

    #[inline(always)]
    pub(super) const fn forward(backend: u32, is_finished: bool, is_opening: bool) -> Self {
        let flags = is_finished as u64 * Self::FINISHED + is_opening as u64 * Self::OPENING;
        Self(backend as u64 | flags)
    }

    #[inline(always)]
    pub(super) const fn refusal(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::Rst(_) => Self::RST_DUE,
            // The server of an entry is selected already: only its next hop can be missing. In the slow path no step
            // before it passes, answers or declines.
            Refusal::Drop(_)
            | Refusal::Pass(_)
            | Refusal::IcmpError(_)
            | Refusal::Unmatched(_)
            | Refusal::Next(_) => Self::NO_NEXT_HOP,
        }
    }

    /// The server; `None` where one must be selected.
    /// 1 for [`Self::RESELECT_LIVE`], 0 for [`Self::RESELECT`] and [`Self::NO_ENTRY`].
    #[inline(always)]
    pub(in crate::datapath) const fn live(self) -> u64 {
        self.0 & 1
    }

    /// Whether it is [`Self::RESELECT`] or [`Self::RESELECT_LIVE`].
    #[inline(always)]
    pub(in crate::datapath) const fn is_reselect(self) -> bool {
        self.0 | 1 == Self::RESELECT_LIVE.0
    }

    #[inline(always)]
    pub(in crate::datapath) fn selection<T: Maps>(self, maps: &T) -> Result<Option<Selection<'_>>, Refusal> {
        if self == Self::RST_DUE {
            return Err(Refusal::RST_DUE);
        }
        if self == Self::TRANSLATE {
            return Err(Refusal::Next(TailCalled::SynCookie));
        }
        if self.0 & Self::REFUSED != 0 {
            return Err(Refusal::drop(Reason::NoNextHop));
        }
        if self.0 & (Self::NO_ENTRY.0 | Self::RESELECT.0 | Self::OTHER_CONNECTION.0) != 0 {
            return Ok(None);
        }
        let backend = maps.backend(self.0 as u32).ok_or(Reason::NoServer)?;
        let (is_finished, is_opening) = (self.0 & Self::FINISHED != 0, self.0 & Self::OPENING != 0);
        Ok(Some(Selection { is_finished, is_opening, ..Selection::new(backend, false, maps)? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_dispositions_differ() {
        let all = [
            PackedDisposition::forward(0, false, false),
            PackedDisposition::forward(0, true, false),
            PackedDisposition::forward(u32::MAX, false, true),
            PackedDisposition::forward(u32::MAX, true, true),
            PackedDisposition::NO_ENTRY,
            PackedDisposition::RESELECT,
            PackedDisposition::RESELECT_LIVE,
            PackedDisposition::OTHER_CONNECTION,
            PackedDisposition::TRANSLATE,
            PackedDisposition::refusal(&Refusal::RST_DUE),
            PackedDisposition::refusal(&Refusal::drop(Reason::NoNextHop)),
        ];
        for (n, one) in all.iter().enumerate() {
            assert!(!all[..n].contains(one), "{one:?}");
        }
        for (packed, backend) in [(all[0], 0), (all[3], u32::MAX)] {
            assert_eq!(packed.0 as u32, backend);
        }
    }

    #[test]
    fn only_a_due_rst_is_packed_as_one() {
        assert_eq!(PackedDisposition::refusal(&Refusal::RST_DUE), PackedDisposition::RST_DUE);
        for reason in [Reason::NoNextHop, Reason::NoServer] {
            assert_eq!(PackedDisposition::refusal(&Refusal::drop(reason)), PackedDisposition::NO_NEXT_HOP);
        }
    }
}
