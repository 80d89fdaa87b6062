//! Other hosts that claim a VIP. Pure.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use tokio::time::Instant;

use super::schedule::PROBE_INTERVAL;
use crate::{dataplane::bpf::answers::VipAt, neigh::Mac};

/// Probes without an answer after which a claim has ended.
const MISSED_PROBES: u32 = 3;
/// Most hosts that are kept for a VIP: a host may change its hardware address with every packet.
const MAX_HOSTS: usize = 4;
/// Time between two log lines for a VIP.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The claim of an ARP packet, without link header: its sender's addresses. `None` for a probe.
pub(super) fn of_arp(packet: &[u8]) -> Option<(IpAddr, Mac)> {
    let (mac, sender) = (packet.get(8..14)?, packet.get(14..18)?);
    let sender = Ipv4Addr::from(<[u8; 4]>::try_from(sender).ok()?);
    (packet.starts_with(&[0, 1, 8, 0, 6, 4]) && !sender.is_unspecified())
        .then_some((sender.into(), mac.try_into().ok()?))
}

/// The claim of a neighbour advertisement, without link header: its target. The frame came from `mac`.
pub(super) fn of_advertisement(packet: &[u8], mac: Mac) -> Option<(IpAddr, Mac)> {
    /// Of IPv6 and ICMPv6 headers, and the type of an advertisement.
    const LENGTHS: usize = 48;
    const KIND: (usize, u8) = (40, 136);
    const ON_LINK: (usize, u8) = (7, 255);
    let target = <[u8; 16]>::try_from(packet.get(LENGTHS..LENGTHS + 16)?).ok()?;
    (packet[KIND.0] == KIND.1 && packet[ON_LINK.0] == ON_LINK.1)
        .then_some((Ipv6Addr::from(target).into(), mac))
}

/// Hosts that claim a VIP of this one, at most [`MAX_HOSTS`] for each.
#[derive(Debug, Default)]
pub(super) struct Claims(BTreeMap<VipAt, Claimed>);

#[derive(Debug, Default)]
struct Claimed {
    /// When each host was last seen.
    hosts: BTreeMap<Mac, Instant>,
    logged: Option<Instant>,
}

impl Claims {
    /// Notes a claim; whether it is to be logged.
    pub(super) fn note(&mut self, at: VipAt, mac: Mac, now: Instant) -> bool {
        let Claimed { hosts, logged } = self.0.entry(at).or_default();
        let is_new = hosts.insert(mac, now).is_none();
        if hosts.len() > MAX_HOSTS {
            let others = hosts.iter().filter(|(other, _)| **other != mac);
            if let Some(oldest) = others.min_by_key(|(_, seen)| **seen).map(|(other, _)| *other) {
                hosts.remove(&oldest);
            }
        }
        let is_logged = logged.is_some_and(|logged| now.saturating_duration_since(logged) < LOG_INTERVAL);
        if !is_new || is_logged {
            return false;
        }
        *logged = Some(now);
        true
    }

    /// Removes claims that have ended, and those of VIPs that are not announced. Returns VIPs that no other host claims
    /// any more.
    pub(super) fn expire(&mut self, is_announced: impl Fn(&VipAt) -> bool, now: Instant) -> Vec<VipAt> {
        self.0.retain(|at, _| is_announced(at));
        let limit = PROBE_INTERVAL * MISSED_PROBES;
        for claimed in self.0.values_mut() {
            claimed.hosts.retain(|_, seen| now.saturating_duration_since(*seen) <= limit);
        }
        self.0.extract_if(.., |_, claimed| claimed.hosts.is_empty()).map(|(at, _)| at).collect()
    }

    /// The hosts that claim a VIP.
    pub(super) fn of(&self, at: &VipAt) -> impl Iterator<Item = Mac> {
        self.0.get(at).into_iter().flat_map(|claimed| claimed.hosts.keys().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::frames, *};

    const MAC: Mac = [2, 0, 0, 0, 0, 9];

    #[test]
    fn announcements_of_others_are_claims_and_probes_are_none() {
        let four: IpAddr = "192.0.2.10".parse().unwrap();
        let six: IpAddr = "2001:db8::10".parse().unwrap();
        for frame in frames::announcement(four, MAC) {
            assert_eq!(of_arp(&frame[14..]), Some((four, MAC)));
        }
        assert_eq!(of_arp(&frames::probe(four, MAC, None).unwrap()[14..]), None);
        let advertisement = &frames::announcement(six, MAC)[0][14..];
        assert_eq!(of_advertisement(advertisement, MAC), Some((six, MAC)));
        let probe = frames::probe(six, MAC, Some("fe80::1".parse().unwrap())).unwrap();
        assert_eq!(of_advertisement(&probe[14..], MAC), None);
        for length in 0..18 {
            assert_eq!(of_arp(&frames::announcement(four, MAC)[0][14..14 + length]), None);
        }
        for length in 0..64 {
            assert_eq!(of_advertisement(&advertisement[..length], MAC), None);
        }
    }

    #[test]
    fn claim_is_logged_once_and_ends_without_answers() {
        let (at, begun) = ((1, "192.0.2.10".parse().unwrap()), Instant::now());
        let of = |claims: &Claims| claims.of(&at).collect::<Vec<_>>();
        let mut claims = Claims::default();
        assert!(claims.note(at, MAC, begun));
        assert!(!claims.note(at, MAC, begun + PROBE_INTERVAL));
        assert!(claims.note(at, [2; 6], begun + PROBE_INTERVAL), "another host");
        assert_eq!(of(&claims), [MAC, [2; 6]]);
        let after = |probes: u32| begun + PROBE_INTERVAL * (1 + probes) + Duration::from_secs(1);
        assert!(!claims.note(at, [2; 6], after(0)));
        assert_eq!(claims.expire(|_| true, after(3)), []);
        assert_eq!(of(&claims), [[2; 6]], "the other one has ended");
        assert_eq!(claims.expire(|_| true, after(4)), [at]);
        assert_eq!(of(&claims), [[0; 6]; 0]);
        claims.note(at, MAC, begun);
        assert_eq!(claims.expire(|_| false, begun), []);
        assert_eq!(of(&claims), [[0; 6]; 0], "no VIP that is announced");
    }

    #[test]
    fn host_with_a_new_address_in_every_packet_is_logged_once_a_minute() {
        let (at, begun) = ((1, "192.0.2.10".parse().unwrap()), Instant::now());
        let mut claims = Claims::default();
        let packet = |number: u16| begun + Duration::from_millis(10) * number.into();
        let mac = |number: u16| [2, 0, 0, 0, (number >> 8) as u8, number as u8];
        let logged = (0..12_000_u16).filter(|number| claims.note(at, mac(*number), packet(*number))).count();
        assert_eq!(logged, 2, "in two minutes");
        assert_eq!(claims.of(&at).collect::<Vec<_>>(), [11_996, 11_997, 11_998, 11_999].map(mac));
    }
}
