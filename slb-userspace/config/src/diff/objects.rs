//! The objects of a configuration, each with its fields.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use super::{change::ObjectKind, fields, value::Fields};
use crate::model::{Config, DaemonConfig, Id, LoadBalancer, ServerGroup};

/// Identifies an object in both configurations. The order of keys is the order of a diff.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ObjectKey {
    pub(super) kind: ObjectKind,
    /// Id of the owner, if it has one.
    pub(super) owner: Option<String>,
    pub(super) id: ObjectId,
}

/// All ids of a kind are of one variant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ObjectId {
    Text(String),
    Address(IpAddr),
    Endpoint(SocketAddr),
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(id) => f.write_str(id),
            Self::Address(address) => address.fmt(f),
            Self::Endpoint(endpoint) => endpoint.fmt(f),
        }
    }
}

/// An object in one configuration.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) name: String,
    pub(super) fields: Fields,
}

impl Object {
    fn new(name: impl fmt::Display, fields: Fields) -> Self {
        Self { name: name.to_string(), fields }
    }
}

/// Objects of a configuration.
pub(super) type Objects = BTreeMap<ObjectKey, Object>;

impl ObjectKey {
    /// An object at the top.
    fn top(kind: ObjectKind, id: impl fmt::Display) -> Self {
        Self { kind, owner: None, id: ObjectId::Text(id.to_string()) }
    }

    fn of(owner: &Id, kind: ObjectKind, id: ObjectId) -> Self {
        Self { kind, owner: Some(owner.to_string()), id }
    }

    /// The key of the owner; `None` at the top.
    pub(super) fn owner(&self) -> Option<Self> {
        Some(Self::top(self.kind.owner()?, self.owner.as_ref()?))
    }
}

pub(super) fn objects(config: &Config) -> Objects {
    let Config {
        daemon,
        load_balancers,
        server_groups,
        primary_secondary_groups,
        access_lists,
        api_objects: _,
        documents: _,
    } = config;
    let mut objects = Objects::new();
    self::daemon(daemon, &mut objects);
    load_balancers.iter().for_each(|balancer| load_balancer(balancer, &mut objects));
    server_groups.iter().for_each(|group| server_group(group, &mut objects));
    for group in primary_secondary_groups {
        let key = ObjectKey::top(ObjectKind::PrimarySecondaryGroup, &group.id);
        objects.insert(key, Object::new(&group.name, fields::primary_secondary_group(group)));
    }
    for list in access_lists {
        let key = ObjectKey::top(ObjectKind::AccessList, &list.name);
        objects.insert(key, Object::new(&list.name, fields::access_list(list)));
    }
    objects
}

fn daemon(daemon: &DaemonConfig, objects: &mut Objects) {
    let name = "daemon";
    objects.insert(ObjectKey::top(ObjectKind::Daemon, name), Object::new(name, fields::daemon(daemon)));
    for interface in &daemon.interfaces {
        let key = ObjectKey::top(ObjectKind::Interface, interface);
        objects.insert(key, Object::new(interface, fields::interface(daemon, interface)));
    }
}

fn load_balancer(balancer: &LoadBalancer, objects: &mut Objects) {
    let key = ObjectKey::top(ObjectKind::LoadBalancer, &balancer.id);
    objects.insert(key, Object::new(&balancer.name, fields::load_balancer(balancer)));
    for listener in &balancer.listeners {
        let id = ObjectId::Text(listener.id.to_string());
        let key = ObjectKey::of(&balancer.id, ObjectKind::Listener, id);
        objects.insert(key, Object::new(&listener.name, fields::listener(listener)));
    }
    for server in &balancer.servers {
        let id = ObjectId::Address(server.address);
        let (name, fields) = (id.to_string(), fields::default_server(server));
        objects.insert(ObjectKey::of(&balancer.id, ObjectKind::DefaultServer, id), Object::new(name, fields));
    }
}

fn server_group(group: &ServerGroup, objects: &mut Objects) {
    let key = ObjectKey::top(ObjectKind::ServerGroup, &group.id);
    objects.insert(key, Object::new(&group.name, fields::server_group(group)));
    for server in &group.servers {
        let id = ObjectId::Endpoint(SocketAddr::new(server.address, server.port));
        let (name, fields) = (id.to_string(), fields::server(server));
        objects.insert(ObjectKey::of(&group.id, ObjectKind::Server, id), Object::new(name, fields));
    }
}
