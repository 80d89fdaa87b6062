//! Matches objects of two configurations by id. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::Id;

/// Objects in both lists or in one of them, each sorted by id.
pub(super) struct Pairs<'a, T> {
    pub(super) both: Vec<(&'a T, &'a T)>,
    pub(super) removed: Vec<&'a T>,
    pub(super) added: Vec<&'a T>,
}

impl<'a, T> Pairs<'a, T> {
    /// Pairs objects of the same id. Ids are unique in each list.
    pub(super) fn of(old: &'a [T], new: &'a [T], id: impl Fn(&T) -> &Id) -> Self {
        let [old, new] = [old, new]
            .map(|objects| objects.iter().map(|object| (id(object), object)).collect::<BTreeMap<_, _>>());
        let mut pairs = Self { both: Vec::new(), removed: Vec::new(), added: Vec::new() };
        for id in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
            match (old.get(id), new.get(id)) {
                (Some(before), Some(after)) => pairs.both.push((*before, *after)),
                (Some(before), None) => pairs.removed.push(before),
                (None, Some(after)) => pairs.added.push(after),
                (None, None) => {}
            }
        }
        pairs
    }
}
