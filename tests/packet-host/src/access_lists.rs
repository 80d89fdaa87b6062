//! The trie of access lists on the host: a longest-prefix match over the bits of keys, as in the kernel.

use std::collections::BTreeSet;

use slb_common::{abi::access_list::AccessKey, net::address::Address};
use slb_control::dataplane::{access_list::key, state::Operation};

/// Bytes of a key after its prefix.
type KeyBytes = [u8; 20];

/// Networks of all lists: prefixes by their bytes.
#[derive(Debug, Default)]
pub(crate) struct AccessLists(BTreeSet<(KeyBytes, u32)>);

impl AccessLists {
    /// Applies an operation on access lists. Others change nothing.
    pub(crate) fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::PutAccessList(id, networks) => {
                let keys = networks.iter().map(|network| key(*id, network));
                self.0.extend(keys.map(|key| (bytes(&key), key.prefix)));
            }
            Operation::ClearAccessList(id, networks) => {
                for key in networks.iter().map(|network| key(*id, network)) {
                    self.0.remove(&(bytes(&key), key.prefix));
                }
            }
            _ => {}
        }
    }

    /// Whether a network on a list has the client.
    pub(crate) fn has(&self, list: u32, client: &Address) -> bool {
        let client = bytes(&AccessKey::client(list, client));
        self.0.iter().any(|(bytes, prefix)| (0..*prefix).all(|n| bit(bytes, n) == bit(&client, n)))
    }
}

fn bytes(key: &AccessKey) -> KeyBytes {
    let [a, b, c, d] = key.address;
    let mut bytes = KeyBytes::default();
    let (words, _) = bytes.as_chunks_mut::<4>();
    for (to, word) in words.iter_mut().zip([key.list, a, b, c, d]) {
        *to = word.to_ne_bytes();
    }
    bytes
}

const fn bit(bytes: &KeyBytes, n: u32) -> u8 {
    bytes[n as usize / 8] >> (7 - n % 8) & 1
}
