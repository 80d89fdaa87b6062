//! A diff in words, one line per change.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    change::{Change, ChangeAction, Diff, Identity, ObjectKind},
    field_text::{self, Side},
    target_text,
    value::Value,
    value_text,
};

/// Describes a diff. Removed objects are before changed ones, and those before added ones.
pub fn lines(diff: &Diff) -> Vec<String> {
    let texts = Texts::of(diff);
    let mut changes: Vec<_> = diff.changes.iter().filter(|change| !texts.is_in_owners_line(change)).collect();
    changes.sort_by_key(|change| texts.position(change));
    changes.into_iter().flat_map(|change| texts.lines(change)).collect()
}

/// What the line of one change needs to know of the others.
struct Texts<'a> {
    /// Load balancers and listeners that are removed.
    removed: Vec<&'a Change>,
    /// Kinds of objects that are added.
    added: BTreeSet<ObjectKind>,
    /// What happens to each object that may own others, by kind and id.
    actions: BTreeMap<(ObjectKind, &'a str), ChangeAction>,
    /// Parts of objects, by kind and the owner's id.
    parts: BTreeMap<(ObjectKind, &'a str), usize>,
}

impl<'a> Texts<'a> {
    fn of(diff: &'a Diff) -> Self {
        let (mut actions, mut parts) = (BTreeMap::new(), BTreeMap::new());
        for Change { kind, owner, object, action, .. } in &diff.changes {
            match owner {
                None => drop(actions.insert((*kind, object.id.as_str()), *action)),
                Some(owner) => *parts.entry((*kind, owner.id.as_str())).or_default() += 1,
            }
        }
        let of = |action| diff.changes.iter().filter(move |change| change.action == action);
        let may_be_replaced =
            |change: &&Change| matches!(change.kind, ObjectKind::LoadBalancer | ObjectKind::Listener);
        Self {
            removed: of(ChangeAction::Removed).filter(may_be_replaced).collect(),
            added: of(ChangeAction::Added).map(|change| change.kind).collect(),
            actions,
            parts,
        }
    }

    fn owners_action(&self, change: &Change) -> Option<ChangeAction> {
        let owner = (change.kind.owner()?, change.owner.as_ref()?.id.as_str());
        self.actions.get(&owner).copied()
    }

    /// Whether the owner is added or removed with all its parts.
    fn is_in_owners_line(&self, change: &Change) -> bool {
        matches!(self.owners_action(change), Some(ChangeAction::Added | ChangeAction::Removed))
    }

    /// Parts follow their owner.
    fn position(&self, change: &'a Change) -> (ObjectKind, u8, &'a str, ObjectKind, u8) {
        let Change { kind, owner, object, action, .. } = change;
        let own_rank = rank(*action);
        match (kind.owner(), owner) {
            (Some(top), Some(owner)) => (top, rank(ChangeAction::Changed), &owner.id, *kind, own_rank),
            _ => match kind {
                ObjectKind::Interface => (*kind, 0, "", *kind, own_rank),
                _ => (*kind, own_rank, &object.id, *kind, own_rank),
            },
        }
    }

    fn lines(&self, change: &Change) -> Vec<String> {
        let Change { kind, action, fields, object, .. } = change;
        let what = label(change);
        match action {
            ChangeAction::Reordered => vec!["the order of entries, and nothing else".to_owned()],
            ChangeAction::Added => vec![format!("{what}added{}", self.added(change))],
            ChangeAction::Removed => vec![format!("{what}removed{}", self.keep_hint(*kind, &object.id))],
            ChangeAction::Changed => {
                let renamed = object.is_renamed().then(|| format!("renamed to {}", object.after));
                let words = field_text::words(fields).into_iter().chain(renamed);
                words.map(|words| format!("{what}{words}")).collect()
            }
        }
    }

    /// What follows `added`.
    fn added(&self, change: &Change) -> String {
        let value = |path: &str| field_text::value(&change.fields, path, Side::New);
        let text = |path| value_text::of(path, value(path));
        match change.kind {
            ObjectKind::LoadBalancer => format!(
                " ({}; {}){}",
                text("addresses"),
                self.counted(ObjectKind::Listener, &change.object.id, "listener"),
                self.in_place(change, |gone| {
                    let vips = old_value(gone, "addresses");
                    value("addresses").items().iter().any(|vip| vips.items().contains(vip))
                })
            ),
            ObjectKind::Listener => format!(
                " ({} port {} to {}){}",
                text("protocol"),
                text("port"),
                target_text::target(value),
                self.in_place(change, |gone| {
                    gone.owner == change.owner
                        && ["protocol", "port"].iter().all(|path| old_value(gone, path) == value(path))
                })
            ),
            ObjectKind::ServerGroup => {
                format!(" ({})", self.counted(ObjectKind::Server, &change.object.id, "server"))
            }
            ObjectKind::PrimarySecondaryGroup => {
                let primary = target_text::endpoint(value("primary.address"), value("primary.port"));
                let secondary = target_text::endpoint(value("secondary.address"), value("secondary.port"));
                format!(" ({primary}, and {secondary} in its place)")
            }
            ObjectKind::AccessList => match value("entries").items().len() {
                1 => " (1 entry)".to_owned(),
                number => format!(" ({number} entries)"),
            },
            ObjectKind::DefaultServer | ObjectKind::Server => format!(" (weight {})", text("weight")),
            ObjectKind::Configuration | ObjectKind::Daemon | ObjectKind::Interface => String::new(),
        }
    }

    fn counted(&self, kind: ObjectKind, owner: &str, noun: &str) -> String {
        let number = self.parts.get(&(kind, owner)).copied().unwrap_or(0);
        format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
    }

    /// How a rename keeps overrides. It is no guess about what was renamed: it depends on additions alone.
    fn keep_hint(&self, kind: ObjectKind, id: &str) -> String {
        let has_overrides = matches!(
            kind,
            ObjectKind::LoadBalancer | ObjectKind::ServerGroup | ObjectKind::PrimarySecondaryGroup
        );
        if !has_overrides || !self.added.contains(&kind) {
            return String::new();
        }
        format!(" (its overrides end; if it was renamed, `id = \"{id}\"` beside the new name keeps them)")
    }

    /// What an object at the same VIP and port means for connections.
    fn in_place(&self, added: &Change, is_same: impl Fn(&Change) -> bool) -> String {
        let mut removed = self.removed.iter().filter(|gone| gone.kind == added.kind);
        removed.find(|gone| is_same(gone)).map_or_else(String::new, |gone| {
            let name = &gone.object.before;
            format!(" in place of {name}: connections stay where VIP, port and server stay")
        })
    }
}

/// Objects that are removed come first.
const fn rank(action: ChangeAction) -> u8 {
    match action {
        ChangeAction::Removed => 0,
        ChangeAction::Changed | ChangeAction::Reordered => 1,
        ChangeAction::Added => 2,
    }
}

/// The old value of a field; [`Value::Absent`] if it does not differ.
fn old_value<'a>(change: &'a Change, path: &str) -> &'a Value {
    field_text::value(&change.fields, path, Side::Old)
}

/// What a line begins with.
fn label(change: &Change) -> String {
    let Change { kind, owner, object, action, .. } = change;
    let name = match action {
        ChangeAction::Added | ChangeAction::Removed => with_id(object),
        ChangeAction::Changed | ChangeAction::Reordered => object.before.clone(),
    };
    // An added object is part of an owner that may have a new name.
    let owner = owner.as_ref().map_or("", |owner| match (kind, action) {
        (ObjectKind::Listener, ChangeAction::Added) => &owner.after,
        _ => &owner.before,
    });
    match kind {
        ObjectKind::Configuration => String::new(),
        ObjectKind::Daemon => "daemon: ".to_owned(),
        ObjectKind::Interface if *action == ChangeAction::Changed => format!("daemon: interface {name}: "),
        ObjectKind::Interface => format!("daemon: interface {name} "),
        ObjectKind::LoadBalancer => format!("load balancer {name}: "),
        ObjectKind::Listener => format!("listener {owner}/{name}: "),
        ObjectKind::DefaultServer => format!("default group of {owner}: server {name} "),
        ObjectKind::ServerGroup => format!("server group {name}: "),
        ObjectKind::Server => format!("server group {owner}: server {name} "),
        ObjectKind::PrimarySecondaryGroup => format!("primary/secondary server group {name}: "),
        ObjectKind::AccessList => format!("access list {name}: "),
    }
}

/// The name, and the id where that is another one.
fn with_id(object: &Identity) -> String {
    let Identity { id, after: name, .. } = object;
    if id == name { name.clone() } else { format!("{name} (id {id})") }
}
