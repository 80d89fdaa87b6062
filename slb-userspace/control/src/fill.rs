//! Warnings that the flow table is nearly full. Pure.

/// Percentage of entries with assured flows from which the table counts as nearly full.
const FULL: usize = 80;
/// Percentage below which it no longer does.
const ROOMY: usize = 70;

/// Whether the flow table was nearly full after the last GC pass.
#[derive(Debug, Default)]
pub struct Fill {
    is_full: bool,
}

/// A change of the fill level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The table is nearly full.
    Full,
    /// The table is no longer nearly full.
    Roomy,
}

impl Fill {
    /// Takes the numbers of assured flows and of entries after a GC pass. Returns a change, if there is one.
    pub fn note(&mut self, assured: usize, entries: usize) -> Option<Change> {
        let (part, was_full) = (100 * assured / entries.max(1), self.is_full);
        self.is_full = part >= if was_full { ROOMY } else { FULL };
        match (was_full, self.is_full) {
            (false, true) => Some(Change::Full),
            (true, false) => Some(Change::Roomy),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_that_is_nearly_full_is_said_to_be_once() {
        let mut fill = Fill::default();
        let mut note = |assured| fill.note(assured, 1000);
        assert_eq!([799, 800, 999, 800, 700].map(&mut note), [None, Some(Change::Full), None, None, None]);
        assert_eq!([699, 750, 800].map(note), [Some(Change::Roomy), None, Some(Change::Full)]);
    }
}
