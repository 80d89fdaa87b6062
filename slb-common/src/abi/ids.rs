//! Ids: indexes into the maps, each kind with a type of its own, and tags of services.

use core::fmt;

use super::Handle;

/// Defines an id: an index into one map.
macro_rules! id {
    ($(#[$about:meta])* $type:ident) => {
        $(#[$about])*
        #[repr(transparent)]
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(u32);

        impl $type {
            /// The id of the entry at `index`.
            pub const fn new(index: u32) -> Self {
                Self(index)
            }

            /// The index into the map.
            pub const fn index(self) -> u32 {
                self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// Id of a server table, below [`MAX_LOOKUP_TABLES`](super::MAX_LOOKUP_TABLES), or [`Self::NONE`].
    TableId
}

impl TableId {
    /// The id of no table.
    pub const NONE: Self = Self(u32::MAX);
}

id! {
    /// Id of a server, below [`MAX_BACKENDS`](super::MAX_BACKENDS), or [`Self::NONE`].
    BackendId
}

impl BackendId {
    /// The id in a slot without a server.
    pub const NONE: Self = Self(0x00ff_ffff);

    /// The id of the server with this handle.
    pub const fn of(server: Handle) -> Self {
        Self(server.id())
    }
}

id! {
    /// Id of a service, below [`MAX_SERVICES`](super::MAX_SERVICES).
    ServiceId
}

id! {
    /// Id of a next hop, or [`Self::NONE`].
    NextHopId
}

impl NextHopId {
    /// The id of no next hop.
    pub const NONE: Self = Self(0);
}

id! {
    /// Id of an access list, up to [`MAX_LISTS`](super::access_list::MAX_LISTS), or [`Self::EMPTY`].
    AccessListId
}

impl AccessListId {
    /// The list without networks. It is in no map.
    pub const EMPTY: Self = Self(0);
}

/// Tag of a service: [`Handle::tag`], by which flows and the index name it. Tags are reused much later than ids.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceTag(u32);

impl ServiceTag {
    /// The tag with this number in the maps.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The tag of the service with this handle.
    pub const fn of(service: Handle) -> Self {
        Self(service.tag())
    }

    /// The number in the maps.
    pub const fn number(self) -> u32 {
        self.0
    }
}
