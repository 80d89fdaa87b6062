//! The trie of access lists.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, MapError, lpm_trie};
use nix::libc;
use slb_common::abi::{
    access_list::{AccessKey, LISTED},
    ids::AccessListId,
};
use slb_control::dataplane::access_list::{Networks, key, of_key};

use super::{pinned_map, pins::Pins};

/// The words of an [`AccessKey`] after its prefix.
type Words = [u32; 5];

/// Networks of all access lists.
pub(super) struct AccessLists(lpm_trie::LpmTrie<MapData, Words, u32>);

impl AccessLists {
    /// Opens the map behind its pin.
    pub(super) fn open(pins: &Pins) -> Result<Self> {
        pinned_map::open(pins, NAME).map(Self)
    }

    /// Writes a list.
    pub(super) fn put(&mut self, id: AccessListId, networks: &Networks) -> Result<()> {
        for network in networks.iter() {
            let key = aya_key(&key(id, network));
            self.0
                .insert(&key, LISTED, 0)
                .with_context(|| format!("cannot write {network} of an access list"))?;
        }
        Ok(())
    }

    /// Removes the networks of a list.
    pub(super) fn clear(&mut self, id: AccessListId, networks: &Networks) -> Result<()> {
        for network in networks.iter() {
            match self.0.remove(&aya_key(&key(id, network))) {
                // An earlier attempt has removed it.
                Err(error) if is_missing(&error) => {}
                removed => removed.with_context(|| format!("cannot remove {network} of an access list"))?,
            }
        }
        Ok(())
    }

    /// Reads all lists.
    pub(super) fn read(&self) -> Result<BTreeMap<AccessListId, Networks>> {
        let mut lists: BTreeMap<AccessListId, Networks> = BTreeMap::new();
        for key in self.0.keys() {
            let key = key.context("cannot read the access lists")?;
            let [list, address @ ..] = key.data();
            let key = AccessKey { prefix: key.prefix_len(), list, address };
            let (id, network) =
                of_key(&key).with_context(|| format!("{key:?} is no key of an access list"))?;
            Arc::make_mut(lists.entry(id).or_default()).insert(network);
        }
        Ok(lists)
    }
}

/// Name of the map.
pub(super) const NAME: &str = "ACCESS_LISTS";

fn aya_key(key: &AccessKey) -> lpm_trie::Key<Words> {
    let [a, b, c, d] = key.address;
    lpm_trie::Key::new(key.prefix, [key.list, a, b, c, d])
}

/// Whether a key to remove is not in a map.
pub(super) fn is_missing(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}
