//! Running probes: which one a packet belongs to, and where it is sent.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use slb_common::net::headers::protocol;

use super::Transport;
use crate::neigh::Mac;

/// Identifies the packets of one running probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) transport: Transport,
    pub(super) is_v4: bool,
    /// Source port, or identifier of ICMP echo requests.
    pub(super) id: u16,
}

/// How the packets of a probe are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Unchanged, to a hardware address.
    Dsr { interface: u32, mac: Mac },
    /// In an IP tunnel.
    Ipip { server: IpAddr },
}

/// Why this host did not send a packet of a probe, if so.
pub(super) type SendError = Arc<OnceLock<io::Error>>;

/// A running probe.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) way: Way,
    pub(super) send_error: SendError,
}

/// The running probes.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<HashMap<Key, Entry>>);

impl Registry {
    /// Adds a probe. Returns false if a running probe has the same key.
    pub(super) fn enter(&self, key: Key, entry: Entry) -> bool {
        let mut probes = self.lock();
        let free = !probes.contains_key(&key);
        if free {
            probes.insert(key, entry);
        }
        free
    }

    pub(super) fn remove(&self, key: Key) {
        self.lock().remove(&key);
    }

    /// The probe that a packet belongs to, if any.
    pub(super) fn entry(&self, packet: &[u8]) -> Option<Entry> {
        self.lock().get(&key_of(packet)?).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        // No holder of the lock panics while the map is inconsistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Parses a packet of this host's own kernel. It has no extension headers and is no fragment.
fn key_of(packet: &[u8]) -> Option<Key> {
    let is_v4 = match packet.first()? >> 4 {
        4 => true,
        6 => false,
        _ => return None,
    };
    let (number, payload) = if is_v4 {
        (*packet.get(9)?, packet.get(usize::from(packet[0] & 15) * 4..)?)
    } else {
        (*packet.get(6)?, packet.get(40..)?)
    };
    /// ICMP type of echo requests: IPv4, IPv6.
    const ECHO: [u8; 2] = [8, 128];
    let (transport, at) = match number {
        protocol::TCP => (Transport::Tcp, 0),
        protocol::UDP => (Transport::Udp, 0),
        protocol::ICMP | protocol::ICMPV6 if ECHO.contains(payload.first()?) => (Transport::Icmp, 4),
        _ => return None,
    };
    Some(Key { transport, is_v4, id: u16::from_be_bytes([*payload.get(at)?, *payload.get(at + 1)?]) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 24];
        // With an option.
        (packet[0], packet[9]) = (0x46, protocol);
        packet.extend_from_slice(payload);
        packet
    }

    fn v6(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        (packet[0], packet[6]) = (0x60, protocol);
        packet.extend_from_slice(payload);
        packet
    }

    #[test]
    fn packets_are_told_by_family_protocol_and_port_or_identifier() {
        let key = |transport, is_v4, id| Some(Key { transport, is_v4, id });
        assert_eq!(key_of(&v4(6, &[0x12, 0x34, 0, 80])), key(Transport::Tcp, true, 0x1234));
        assert_eq!(key_of(&v6(6, &[0x12, 0x34, 0, 80])), key(Transport::Tcp, false, 0x1234));
        assert_eq!(key_of(&v4(17, &[0, 9])), key(Transport::Udp, true, 9));
        assert_eq!(key_of(&v4(1, &[8, 0, 0, 0, 0xab, 0xcd])), key(Transport::Icmp, true, 0xabcd));
        assert_eq!(key_of(&v6(58, &[128, 0, 0, 0, 0, 1])), key(Transport::Icmp, false, 1));
        // Other ICMP packets of the kernel: a router solicitation, an error.
        assert_eq!(key_of(&v6(58, &[133, 0, 0, 0, 0, 0])), None);
        assert_eq!(key_of(&v4(1, &[3, 3, 0, 0, 0, 0])), None);
        for cut in 0..26 {
            assert_eq!(key_of(&v4(6, &[0x12, 0x34])[..cut.min(25)]), None, "{cut}");
        }
    }

    #[test]
    fn no_two_probes_share_their_packets() {
        let registry = Registry::default();
        let key = Key { transport: Transport::Icmp, is_v4: true, id: 7 };
        let [first, second] = [1, 2].map(|host| Way::Ipip { server: [10, 0, 0, host].into() });
        let entry = |way| Entry { way, send_error: SendError::default() };
        let way = |packet: &[u8]| registry.entry(packet).map(|entry| entry.way);
        assert!(registry.enter(key, entry(first)));
        assert!(!registry.enter(key, entry(second)));
        let packet = v4(1, &[8, 0, 0, 0, 0, 7]);
        assert_eq!(way(&packet), Some(first));
        registry.remove(key);
        assert_eq!(way(&packet), None);
        assert!(registry.enter(key, entry(second)));
    }
}
