//! The diff back: what `diff(b, a)` must be, made from `diff(a, b)`.

use std::mem;

use crate::diff::{Change, ChangeAction, Diff, Identity};

/// The diff back to the old configuration.
pub(super) fn flip(mut diff: Diff) -> Diff {
    for Change { kind: _, owner, object, action, fields } in &mut diff.changes {
        owner.iter_mut().for_each(flip_names);
        flip_names(object);
        *action = match *action {
            ChangeAction::Added => ChangeAction::Removed,
            ChangeAction::Removed => ChangeAction::Added,
            other => other,
        };
        fields.iter_mut().for_each(|field| mem::swap(&mut field.old, &mut field.new));
    }
    diff
}

fn flip_names(Identity { id: _, before, after }: &mut Identity) {
    mem::swap(before, after);
}
