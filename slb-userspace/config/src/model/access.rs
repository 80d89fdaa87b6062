//! Access lists: which clients may reach a listener.

use std::{collections::BTreeSet, sync::Arc};

use ipnet::IpNet;

use super::Name;

/// Networks of an access list. At most 300.
pub type Networks = Arc<BTreeSet<IpNet>>;

/// A named list of networks of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessList {
    /// Unique name.
    pub name: Name,
    /// Networks without host bits; single addresses are /32 and /128.
    pub networks: Networks,
}

/// The access list of a listener. The list exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerAccess {
    /// Name of the list.
    pub list: Name,
    /// What it means to be on the list.
    pub kind: AccessListKind,
}

/// What it means for a client to be on an access list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AccessListKind {
    /// Only clients on the list reach the listener.
    White,
    /// Clients on the list do not reach the listener.
    Black,
}

impl AccessListKind {
    /// All kinds.
    pub const ALL: [Self; 2] = [Self::White, Self::Black];

    /// The word for it in a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::White => "white",
            Self::Black => "black",
        }
    }
}
