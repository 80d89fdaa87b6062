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
pub(super) struct ProbeKey {
    pub(super) transport: Transport,
    pub(super) is_v4: bool,
    /// Source port, or identifier of ICMP echo requests.
    pub(super) id: u16,
}

/// How the packets of a probe are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbePath {
    /// Unchanged, to a hardware address.
    Dsr { interface: u32, mac: Mac },
    /// In an IP tunnel.
    Ipip { server: IpAddr },
    /// In a UDP tunnel.
    Gue { server: IpAddr },
}

/// Why this host did not send a packet of a probe, if so.
pub(super) type SendError = Arc<OnceLock<io::Error>>;

/// A running probe.
#[derive(Debug, Clone)]
pub(super) struct RunningProbe {
    pub(super) probe_path: ProbePath,
    pub(super) send_error: SendError,
}

/// The running probes.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<HashMap<ProbeKey, RunningProbe>>);

impl Registry {
    /// Adds a probe. Returns false if a running probe has the same key.
    pub(super) fn register(&self, key: ProbeKey, entry: RunningProbe) -> bool {
        let mut probes = self.lock();
        let free = !probes.contains_key(&key);
        if free {
            probes.insert(key, entry);
        }
        free
    }

    pub(super) fn remove(&self, key: ProbeKey) {
        self.lock().remove(&key);
    }

    /// The probe that a packet belongs to, if any.
    pub(super) fn entry(&self, packet: &[u8]) -> Option<RunningProbe> {
        self.lock().get(&key_of(packet)?).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ProbeKey, RunningProbe>> {
        // No holder of the lock panics while the map is inconsistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Parses a packet of this host's own kernel. It has no extension headers and is no fragment.
fn key_of(packet: &[u8]) -> Option<ProbeKey> {
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
    Some(ProbeKey { transport, is_v4, id: u16::from_be_bytes([*payload.get(at)?, *payload.get(at + 1)?]) })
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
    fn probe_packets_are_identified_by_family_protocol_and_id() {
        let key = |transport, is_v4, id| Some(ProbeKey { transport, is_v4, id });
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
    fn probe_with_a_key_in_use_is_refused() {
        let registry = Registry::default();
        let key = ProbeKey { transport: Transport::Icmp, is_v4: true, id: 7 };
        let [first, second] = [1, 2].map(|host| ProbePath::Ipip { server: [10, 0, 0, host].into() });
        let entry = |probe_path| RunningProbe { probe_path, send_error: SendError::default() };
        let probe_path = |packet: &[u8]| registry.entry(packet).map(|entry| entry.probe_path);
        assert!(registry.register(key, entry(first)));
        assert!(!registry.register(key, entry(second)));
        let packet = v4(1, &[8, 0, 0, 0, 0, 7]);
        assert_eq!(probe_path(&packet), Some(first));
        registry.remove(key);
        assert_eq!(probe_path(&packet), None);
        assert!(registry.register(key, entry(second)));
    }
}
