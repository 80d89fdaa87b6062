//! When the flow table is said to be nearly full. Pure.

/// Part of the entries that assured flows hold, in percent, from which on that is said.
const FULL: usize = 80;
/// Part below which that is over.
const ROOMY: usize = 70;

/// How full the flow table was.
#[derive(Debug, Default)]
pub struct Fill {
    is_full: bool,
}

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The table is nearly full.
    Full,
    /// It is no longer.
    Roomy,
}

impl Fill {
    /// Takes the assured flows that a pass over the table has found, of so many entries.
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
