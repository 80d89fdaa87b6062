//! Tables whose listeners have left them, until a GC pass has rehomed their flows. Pure.
//!
//! Until then the flows name server entries of the old table. These entries stay, and do not become terminating.

use std::collections::BTreeSet;

use crate::dataplane::state::MapState;
use slb_common::abi::{backend::Backend, ids::TableId};

/// Tables with flows to rehome.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rehoming {
    /// Left since the running pass began, or the last one if none runs.
    left: Tables,
    /// Left before the running pass began.
    in_pass: Tables,
}

/// A set of tables.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tables {
    /// Any table: an earlier daemon may have died before its GC pass.
    Any,
    These(BTreeSet<TableId>),
}

impl Default for Tables {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
}

impl Tables {
    fn is_empty(&self) -> bool {
        matches!(self, Self::These(tables) if tables.is_empty())
    }

    fn union(self, other: Self) -> Self {
        match (self, other) {
            (Self::These(a), Self::These(b)) => Self::These(&a | &b),
            _ => Self::Any,
        }
    }
}

impl Rehoming {
    /// At the start of the daemon.
    pub(crate) fn unknown() -> Self {
        Self { left: Tables::Any, ..Self::default() }
    }

    /// Listeners leave these tables.
    pub(crate) fn leave(&mut self, tables: impl IntoIterator<Item = TableId>) {
        if let Tables::These(left) = &mut self.left {
            left.extend(tables);
        }
    }

    /// A GC pass begins.
    pub(crate) fn begin_pass(&mut self) {
        let before = std::mem::take(&mut self.in_pass);
        self.in_pass = before.union(std::mem::take(&mut self.left));
    }

    /// The GC pass has rehomed the flows of all tables left before it. Returns whether there were any.
    pub(crate) fn end_pass(&mut self) -> bool {
        !std::mem::take(&mut self.in_pass).is_empty()
    }

    /// The GC pass may have missed flows. Returns `false`: nothing is rehomed for sure.
    pub(crate) fn abort_pass(&mut self) -> bool {
        let before = std::mem::take(&mut self.in_pass);
        self.left = before.union(std::mem::take(&mut self.left));
        false
    }

    /// The tables, of those that servers in `actual` are in.
    pub(crate) fn tables(&self, actual: &MapState) -> BTreeSet<TableId> {
        match (&self.left, &self.in_pass) {
            (Tables::These(left), Tables::These(in_pass)) => left | in_pass,
            _ => actual.backends.values().map(Backend::table).collect(),
        }
    }
}
