//! The result of [`super::known`] as a number: a BPF subprogram returns no more than 64 bits.

use super::Chosen;
use crate::{abi::stats::Reason, datapath::tables::Tables};

/// What a flow-table entry says about a packet, packed into 64 bits as the result of a BPF subprogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome(pub u64);

impl Outcome {
    const REFUSED: u64 = 1 << 63;
    const OVER: u64 = 1 << 32;
    /// There is no entry.
    pub const NONE: Self = Self(1 << 62);
    /// The entry does not hold for the packet. A server is selected anew.
    pub(super) const ANEW: Self = Self(1 << 61);
    /// The packet belongs to another connection than the entry.
    pub(super) const STRANGER: Self = Self(1 << 60);

    #[inline(always)]
    pub(super) const fn goes(backend: u32, is_finished: bool) -> Self {
        let over = is_finished as u64 * Self::OVER;
        Self(backend as u64 | over)
    }

    #[inline(always)]
    pub(super) const fn refused(reason: Reason) -> Self {
        Self(Self::REFUSED | reason as u64)
    }

    /// The server; `None` where one must be selected; or the reason for which the packet is refused.
    #[inline(always)]
    pub(super) fn chosen<T: Tables>(self, tables: &T) -> Result<Option<Chosen<'_>>, Reason> {
        const RESET: u64 = Outcome::refused(Reason::Reset).0;
        if self.0 == RESET {
            return Err(Reason::Reset);
        }
        // No other reason is left: the server of an entry is chosen already.
        if self.0 & Self::REFUSED != 0 {
            return Err(Reason::NoNextHop);
        }
        if self.0 & (Self::NONE.0 | Self::ANEW.0 | Self::STRANGER.0) != 0 {
            return Ok(None);
        }
        let backend = tables.backend(self.0 as u32).ok_or(Reason::NoServer)?;
        let is_finished = self.0 & Self::OVER != 0;
        Ok(Some(Chosen { is_finished, ..Chosen::new(backend, false, tables)? }))
    }
}
