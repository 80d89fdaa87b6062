//! Other hosts that claim a VIP. Pure.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use tokio::time::Instant;

use super::schedule::PROBE_INTERVAL;
use crate::{dataplane::bpf::answers::VipAt, neigh::Mac};

/// Probes without an answer after which a claim has ended.
const MISSED_PROBES: u32 = 3;

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

/// Hosts that claimed a VIP of this one, last.
#[derive(Debug, Default)]
pub(super) struct Claims(BTreeMap<VipAt, (Mac, Instant)>);

impl Claims {
    /// Notes a claim; whether it is a new one.
    pub(super) fn note(&mut self, at: VipAt, mac: Mac, now: Instant) -> bool {
        self.0.insert(at, (mac, now)).is_none_or(|(before, _)| before != mac)
    }

    /// Removes claims that have ended, and those of VIPs that are not announced; returns the former.
    pub(super) fn expire(
        &mut self,
        is_announced: impl Fn(&VipAt) -> bool,
        now: Instant,
    ) -> Vec<(VipAt, Mac)> {
        self.0.retain(|at, _| is_announced(at));
        let limit = PROBE_INTERVAL * MISSED_PROBES;
        let ended = self.0.extract_if(.., |_, (_, seen)| now.saturating_duration_since(*seen) > limit);
        ended.map(|(at, (mac, _))| (at, mac)).collect()
    }

    /// The host that claims a VIP.
    pub(super) fn of(&self, at: &VipAt) -> Option<Mac> {
        self.0.get(at).map(|(mac, _)| *mac)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::frames, *};

    const MAC: Mac = [2, 0, 0, 0, 0, 9];

    #[test]
    fn announcements_of_others_are_claims_and_probes_are_none() {
        let four: IpAddr = "192.0.2.10".parse().unwrap();
        let six: IpAddr = "2001:db8::10".parse().unwrap();
        for frame in frames::announcement(four, MAC) {
            assert_eq!(of_arp(&frame[14..]), Some((four, MAC)));
        }
        assert_eq!(of_arp(&frames::probe(four, MAC)[14..]), None);
        let advertisement = &frames::announcement(six, MAC)[0][14..];
        assert_eq!(of_advertisement(advertisement, MAC), Some((six, MAC)));
        assert_eq!(of_advertisement(&frames::probe(six, MAC)[14..], MAC), None);
        for length in 0..18 {
            assert_eq!(of_arp(&frames::announcement(four, MAC)[0][14..14 + length]), None);
        }
        for length in 0..64 {
            assert_eq!(of_advertisement(&advertisement[..length], MAC), None);
        }
    }

    #[test]
    fn claim_is_new_once_and_ends_without_answers() {
        let (at, begun) = ((1, "192.0.2.10".parse().unwrap()), Instant::now());
        let mut claims = Claims::default();
        assert!(claims.note(at, MAC, begun));
        assert!(!claims.note(at, MAC, begun + PROBE_INTERVAL));
        assert!(claims.note(at, [2; 6], begun + PROBE_INTERVAL));
        let after = |probes: u32| begun + PROBE_INTERVAL * (1 + probes) + Duration::from_secs(1);
        assert_eq!(claims.expire(|_| true, after(2)), []);
        assert_eq!(claims.of(&at), Some([2; 6]));
        assert_eq!(claims.expire(|_| true, after(3)), [(at, [2; 6])]);
        assert_eq!(claims.of(&at), None);
        claims.note(at, MAC, begun);
        assert_eq!(claims.expire(|_| false, begun), []);
        assert_eq!(claims.of(&at), None, "no VIP that is announced");
    }
}
