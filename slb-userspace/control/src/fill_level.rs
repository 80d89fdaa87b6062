//! Warnings that the flow table is nearly full. Pure.

/// Percentage of entries with assured flows from which the table counts as nearly full.
const NEARLY_FULL_PERCENT: usize = 80;
/// Percentage below which it no longer does.
const RELIEVED_PERCENT: usize = 70;

/// Whether the flow table was nearly full after the last GC pass.
#[derive(Debug, Default)]
pub struct FillLevel {
    is_full: bool,
}

/// A change of the fill level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FillChange {
    /// The table is nearly full.
    NearlyFull,
    /// The table is no longer nearly full.
    Relieved,
}

impl FillLevel {
    /// Takes the numbers of assured flows and of entries after a GC pass. Returns a change, if there is one.
    pub fn note(&mut self, assured: usize, entries: usize) -> Option<FillChange> {
        let (part, was_full) = (100 * assured / entries.max(1), self.is_full);
        self.is_full = part >= if was_full { RELIEVED_PERCENT } else { NEARLY_FULL_PERCENT };
        match (was_full, self.is_full) {
            (false, true) => Some(FillChange::NearlyFull),
            (true, false) => Some(FillChange::Relieved),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearly_full_flow_table_is_reported_once() {
        let mut fill = FillLevel::default();
        let mut note = |assured| fill.note(assured, 1000);
        assert_eq!(
            [799, 800, 999, 800, 700].map(&mut note),
            [None, Some(FillChange::NearlyFull), None, None, None]
        );
        assert_eq!(
            [699, 750, 800].map(note),
            [Some(FillChange::Relieved), None, Some(FillChange::NearlyFull)]
        );
    }
}
