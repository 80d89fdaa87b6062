//! What becomes of each line of the source: part of the result, or a note with the reason.

use std::collections::BTreeSet;

use crate::{
    excerpt,
    source::{Lines, Sources},
};

/// Why a rule about clients is left out. The header of the result says it, too.
pub(crate) const ACCESS: &str = "who may connect: write an `[[access_list]]`, and `access_list` into the listener; until then all clients may";

/// Why a rule about the rate of clients is left out.
pub(crate) const RATE: &str = "a rate of connections: write `new_connections` into the listener";
/// What becomes of the PROXY protocol towards clients. The header of the result says it, too.
pub(crate) const PROXY: &str =
    "SLB passes a PROXY header on to the server, and sees the proxy before it as client";

/// What a note says of its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoteKind {
    /// They have no counterpart in the result.
    LeftOut,
    /// They are part of the result, and mean something else there.
    Changed,
}

/// A remark about lines of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Whether the lines are left out.
    pub kind: NoteKind,
    /// The file.
    pub file: String,
    /// First line, from 1.
    pub first_line: usize,
    /// Last line.
    pub last_line: usize,
    /// The beginning of the first line, as far as it holds no secrets. Empty if nothing of it may be shown.
    pub excerpt: String,
    /// Why it is left out, or what it means now.
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    at: Lines,
    kind: NoteKind,
    reason: String,
}

/// Collects what becomes of the lines.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    used: BTreeSet<(usize, usize)>,
    entries: BTreeSet<Entry>,
}

impl Ledger {
    /// These lines are part of the result.
    pub(crate) fn used(&mut self, at: Lines) {
        self.used.extend((at.first..=at.last).map(|line| (at.file, line)));
    }

    /// These lines have no counterpart.
    pub(crate) fn left_out(&mut self, at: Lines, reason: impl Into<String>) {
        self.entries.insert(Entry { at, kind: NoteKind::LeftOut, reason: reason.into() });
    }

    /// These lines are part of the result in a changed way.
    pub(crate) fn changed(&mut self, at: Lines, reason: impl Into<String>) {
        self.used(at);
        self.entries.insert(Entry { at, kind: NoteKind::Changed, reason: reason.into() });
    }

    /// Takes over what another ledger says.
    pub(crate) fn absorb(&mut self, other: &Self) {
        self.used.extend(&other.used);
        self.entries.extend(other.entries.iter().cloned());
    }

    /// Whether a line is part of the result.
    #[cfg(test)]
    pub(crate) fn is_used(&self, file: usize, line: usize) -> bool {
        self.used.contains(&(file, line))
    }

    /// Leaves out the lines with content that no rule has read. `is_comment` tells lines that say nothing.
    pub(crate) fn leave_out_rest(&mut self, sources: &Sources<'_>, is_comment: impl Fn(&str) -> bool) {
        for file in 0..sources.count() {
            let mut noted = BTreeSet::new();
            for entry in self.entries.iter().filter(|entry| entry.at.file == file) {
                noted.extend(entry.at.first..=entry.at.last);
            }
            for (index, text) in sources.text(file).lines().enumerate() {
                let line = index + 1;
                let is_known = self.used.contains(&(file, line)) || noted.contains(&line);
                if !is_known && !is_comment(text.trim()) {
                    self.left_out(Lines::one(file, line), "unknown directive");
                }
            }
        }
    }

    /// The notes in the order of the source.
    pub(crate) fn notes(&self, sources: &Sources<'_>) -> Vec<Note> {
        let note = |entry: &Entry| {
            let line = sources.text(entry.at.file).lines().nth(entry.at.first.saturating_sub(1));
            Note {
                kind: entry.kind,
                file: sources.name(entry.at.file).to_owned(),
                first_line: entry.at.first,
                last_line: entry.at.last,
                excerpt: excerpt::line(line.unwrap_or_default()),
                reason: entry.reason.clone(),
            }
        };
        self.entries.iter().map(note).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoFiles;

    #[test]
    fn line_without_rule_is_left_out() {
        let sources = Sources::new("f", "one\n# two\n\nthree\nfour\n", &NoFiles);
        let mut ledger = Ledger::default();
        ledger.used(Lines::one(0, 1));
        ledger.changed(Lines::one(0, 4), "other");
        ledger.leave_out_rest(&sources, |line| line.is_empty() || line.starts_with('#'));
        let notes = ledger.notes(&sources);
        assert_eq!(notes.len(), 2);
        assert_eq!((notes[0].first_line, notes[0].kind), (4, NoteKind::Changed));
        assert_eq!((notes[1].first_line, notes[1].kind), (5, NoteKind::LeftOut));
        assert!(ledger.is_used(0, 4) && !ledger.is_used(0, 5));
    }
}
