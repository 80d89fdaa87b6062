//! Where the objects of a configuration come from: each has one owner, the file or the API.

use std::{collections::BTreeSet, sync::Arc};

use super::{Config, Id, Name};

/// The owner of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The configuration file.
    File,
    /// The document of the API.
    Api,
}

impl Source {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Api => "api",
        }
    }
}

/// The objects that the API owns. The file owns all others. Listeners and servers belong to the owner of their load
/// balancer or server group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApiObjects {
    load_balancers: BTreeSet<Id>,
    /// Ids of groups of both kinds.
    groups: BTreeSet<Id>,
    access_lists: BTreeSet<Name>,
}

/// Number of objects of each kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct ObjectCounts {
    /// Load balancers.
    pub load_balancers: usize,
    /// Server groups.
    pub server_groups: usize,
    /// Primary/secondary server groups.
    pub primary_secondary_groups: usize,
    /// Access lists.
    pub access_lists: usize,
}

impl ApiObjects {
    /// The objects of a configuration that follow those of the file.
    pub(crate) fn after(config: &Config, of_file: ObjectCounts) -> Self {
        let groups = config.server_groups.iter().skip(of_file.server_groups).map(|group| &group.id);
        let pairs = config.primary_secondary_groups.iter().skip(of_file.primary_secondary_groups);
        let balancers = config.load_balancers.iter().skip(of_file.load_balancers);
        let lists = config.access_lists.iter().skip(of_file.access_lists);
        Self {
            load_balancers: balancers.map(|balancer| balancer.id.clone()).collect(),
            groups: groups.chain(pairs.map(|pair| &pair.id)).cloned().collect(),
            access_lists: lists.map(|list| list.name.clone()).collect(),
        }
    }

    /// The owner of a load balancer.
    pub fn load_balancer(&self, id: &Id) -> Source {
        source(self.load_balancers.contains(id))
    }

    /// The owner of a server group or of a primary/secondary server group.
    pub fn group(&self, id: &Id) -> Source {
        source(self.groups.contains(id))
    }

    /// The owner of an access list.
    pub fn access_list(&self, name: &Name) -> Source {
        source(self.access_lists.contains(name))
    }
}

fn source(is_of_api: bool) -> Source {
    if is_of_api { Source::Api } else { Source::File }
}

/// The texts of a configuration. Two configurations with the same objects are equal, whatever their texts are.
#[derive(Debug, Clone, Default)]
pub struct Documents {
    /// The configuration file, or what was applied in its place.
    pub file: Document,
    /// The document of the API; `None` if it has no objects and never had any.
    pub api: Option<Document>,
}

impl PartialEq for Documents {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Documents {}

/// A text and its origin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// The file name in messages.
    pub name: Arc<str>,
    /// The text, in TOML.
    pub text: Arc<str>,
}

impl Document {
    /// A text of this origin.
    pub fn new(name: &str, text: &str) -> Self {
        Self { name: name.into(), text: text.into() }
    }
}
