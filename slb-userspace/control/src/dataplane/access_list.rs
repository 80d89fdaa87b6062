//! Access lists as values, and the keys of their networks in the trie of the packet path.

use std::net::IpAddr;

use ipnet::IpNet;
use slb_common::abi::{access_list::AccessKey, ids::AccessListId};

use super::state::{to_address, to_ip};

pub use slb_config::model::Networks;

/// The key of a network on a list.
pub fn key(list: AccessListId, network: &IpNet) -> AccessKey {
    AccessKey::network(list.index(), &to_address(network.addr()), network.prefix_len())
}

/// The key by which a client is looked up.
pub fn client_key(list: AccessListId, client: IpAddr) -> AccessKey {
    AccessKey::client(list.index(), &to_address(client))
}

/// The list and the network of a key; `None` for a key that [`key`] does not make.
pub fn of_key(key: &AccessKey) -> Option<(AccessListId, IpNet)> {
    let (list, address, length) = key.parts()?;
    Some((AccessListId::new(list), IpNet::new(to_ip(&address), length).ok()?))
}
