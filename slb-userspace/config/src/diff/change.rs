//! A diff as values: which objects were added, removed or changed, and which of their fields.

use super::value::Value;

/// What changes when one configuration replaces another. In the order of kinds, owners' ids and ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// The changes. At most one per object.
    pub changes: Vec<Change>,
}

/// The change of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Kind of the object.
    pub kind: ObjectKind,
    /// The object that this one is part of; `None` for an object at the top.
    pub owner: Option<Identity>,
    /// The object.
    pub object: Identity,
    /// What happens to it.
    pub action: ChangeAction,
    /// Fields with another value, in the order of the settings. All fields with a value if the object is added or
    /// removed.
    pub fields: Vec<FieldChange>,
}

/// Kinds of objects, in the order of a diff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// The configuration as a whole.
    Configuration,
    /// Settings of the daemon.
    Daemon,
    /// An interface that the XDP program is attached to.
    Interface,
    /// A load balancer.
    LoadBalancer,
    /// A listener. Its owner is the load balancer.
    Listener,
    /// A server of a default server group. Its owner is the load balancer.
    DefaultServer,
    /// A server group.
    ServerGroup,
    /// A server of a server group. Its owner is the server group.
    Server,
    /// A primary/secondary server group.
    PrimarySecondaryGroup,
    /// An access list.
    AccessList,
}

impl ObjectKind {
    /// Kind of the object that objects of this kind are part of; `None` at the top.
    pub const fn owner(self) -> Option<Self> {
        match self {
            Self::Listener | Self::DefaultServer => Some(Self::LoadBalancer),
            Self::Server => Some(Self::ServerGroup),
            Self::Configuration
            | Self::Daemon
            | Self::Interface
            | Self::LoadBalancer
            | Self::ServerGroup
            | Self::PrimarySecondaryGroup
            | Self::AccessList => None,
        }
    }
}

/// Which object it is. An object that changes has the same id before and after, and perhaps another name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// Its id; the address of a server, the name of an interface.
    pub id: String,
    /// Its name before the change; the same as `after` for an object that is added.
    pub before: String,
    /// Its name after the change; the same as `before` for an object that is removed.
    pub after: String,
}

impl Identity {
    /// Whether the name changes.
    pub fn is_renamed(&self) -> bool {
        self.before != self.after
    }
}

/// What happens to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeAction {
    /// Only the new configuration has it.
    Added,
    /// Only the old configuration has it.
    Removed,
    /// Both have it, with another name or other values.
    Changed,
    /// Its entries have another order, and nothing else differs.
    Reordered,
}

/// The change of one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldChange {
    /// Path of the key in the object's table of the configuration file: `port`, `health_check.interval`.
    pub path: String,
    /// Value before the change.
    pub old: Value,
    /// Value after the change.
    pub new: Value,
}

impl Diff {
    /// Whether the configurations are equal.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}
