//! Spread of hashes over structured sets of endpoints, such as a client could choose.

use super::*;
use crate::abi::{flow::Client, lookup_table::LookupTable, service::ServiceIndex};

#[test]
fn flow_hash_depends_on_every_field_of_the_tuple() {
    let hash = |from: &str, port, to: &str, at, protocol, seed| {
        let address = |text: &str| match text.parse().unwrap() {
            core::net::IpAddr::V4(ip) => Address::v4(ip.octets()),
            core::net::IpAddr::V6(ip) => Address::v6(ip.octets()),
        };
        flow_hash(salt(seed, &address(to), at, protocol), &address(from), port)
    };
    for (a, b) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8:0:1::1")] {
        let base = hash(a, 1, b, 2, 6, 0);
        for other in [
            hash(b, 1, a, 2, 6, 0),
            hash(b, 1, b, 2, 6, 0),
            hash(a, 3, b, 2, 6, 0),
            hash(a, 1, b, 3, 6, 0),
            hash(a, 1, b, 2, 17, 0),
            hash(a, 1, b, 2, 6, 1),
        ] {
            assert_ne!(base, other);
        }
    }
}

#[test]
fn consecutive_ports_and_addresses_spread_evenly() {
    let salt = salt(0, &Address::v4([198, 51, 100, 10]), 80u16.to_be(), 6);
    let mut v4 = [0u32; 64];
    let mut v6 = [0u32; 64];
    for host in 0..64u8 {
        for port in 0..1024u16 {
            let port = (32768 + port).to_be();
            let h = flow_hash(salt, &Address::v4([10, 0, 0, host]), port);
            v4[(h >> 58) as usize] += 1;
            let mut bytes = [0x20; 16];
            bytes[15] = host;
            v6[(flow_hash(salt, &Address::v6(bytes), port) >> 58) as usize] += 1;
        }
    }
    // 65,536 flows in 64 buckets: mean 1,024, standard deviation 32. The bounds are six of them away.
    assert!(v4.iter().chain(&v6).all(|&n| (832..=1216).contains(&n)), "{v4:?} {v6:?}");
}

/// One set of endpoints: addresses, and ports in network byte order.
type Endpoints = Vec<(Address, u16)>;

const SIZE: u64 = 4096;
const SEEDS: u64 = 40;

fn v6(high: u64, low: u64) -> Address {
    let [a, b] = [high.to_le_bytes(), low.to_le_bytes()];
    Address::v6(core::array::from_fn(|n| if n < 8 { a[n] } else { b[n - 8] }))
}

/// Sets of one IPv6 /64 or /48 whose endpoints have a linear relation. The low half of the address and the shifted port
/// have the same sum, difference or exclusive or. So have the two halves of the address.
fn related() -> impl Iterator<Item = (String, Endpoints)> {
    let prefix = u64::from_le_bytes([0x20, 1, 0xd, 0xb8, 0, 7, 0, 0]);
    let base = 0x0123_4567_89ab_cdef_u64;
    let ports = (0..SIZE).map(|n| 1024 + 15 * n).collect::<Vec<_>>();
    let of_ports = (0..=48).flat_map(move |shift| {
        let set = |low: &dyn Fn(u64) -> u64| -> Endpoints {
            ports.iter().map(|port| (v6(prefix, low(port << shift)), *port as u16)).collect()
        };
        [
            (format!("sum with the port << {shift}"), set(&|port| base.wrapping_sub(port))),
            (format!("difference from the port << {shift}"), set(&|port| base.wrapping_add(port))),
            (format!("exclusive or with the port << {shift}"), set(&|port| base ^ port)),
        ]
    });
    let of_prefix_and_port = (0..=48).map(move |shift| {
        let set =
            (0..SIZE).map(|n| (v6(base ^ (1024 + 15 * n) << shift, base), (1024 + 15 * n) as u16)).collect();
        (format!("exclusive or of the upper half with the port << {shift}"), set)
    });
    let of_halves = [0, 16, 32, 48].into_iter().flat_map(move |shift| {
        let half = |n: u64| (n & 0xff) << 48 | (n >> 8) << 56;
        let set = |low: &dyn Fn(u64) -> u64| -> Endpoints {
            (0..SIZE).map(|n| (v6(prefix ^ half(n), low(n << shift)), 4660)).collect()
        };
        [
            (format!("sum of the halves << {shift}"), set(&|n| base.wrapping_sub(n))),
            (format!("exclusive or of the halves << {shift}"), set(&|n| base ^ n)),
        ]
    });
    of_ports.chain(of_prefix_and_port).chain(of_halves)
}

/// Consecutive endpoints by address and by port, for each stride that is a power of two.
fn strided() -> impl Iterator<Item = (String, Endpoints)> {
    let prefix = u64::from_le_bytes([0x20, 1, 0xd, 0xb8, 0, 7, 0, 0]);
    let v6 = (0..=52).map(move |shift| {
        let set = (0..SIZE).map(|n| (v6(prefix, n << shift), 4660)).collect();
        (format!("IPv6 addresses, stride 2^{shift}"), set)
    });
    let v4 = (0..=20).flat_map(|shift| {
        let address = |n: u64| Address::v4(((n << shift) as u32).wrapping_add(0x0a00_0000).to_be_bytes());
        let by_address = (0..SIZE).map(|n| (address(n), 4660)).collect();
        let sum = (0..SIZE).map(|n| (address(SIZE - n), (1024 + 15 * n) as u16)).collect();
        [
            (format!("IPv4 addresses, stride 2^{shift}"), by_address),
            (format!("IPv4 addresses, stride 2^{shift}, falling as ports rise"), sum),
        ]
    });
    let ports = (0..4).map(|shift| {
        let set = (0..SIZE).map(|n| (Address::v4([192, 0, 2, 1]), (n << shift) as u16)).collect();
        (format!("ports, stride 2^{shift}"), set)
    });
    v6.chain(v4).chain(ports)
}

/// Limit of chi square over 256 slots. Random sets have a mean of 255 and a standard deviation of 22.6.
const RANDOM: f64 = 420.0;

/// Names of the sets that this hash spreads unevenly for any of the seeds. Over 256 slots their chi square exceeds
/// `limit`, or one of 65,537 slots has more endpoints than random sets give it.
fn unevenly_spread(
    limit: f64,
    sets: impl Iterator<Item = (String, Endpoints)>,
    hash: impl Fn(u64, &Address, u16) -> u64,
) -> Vec<String> {
    let mut uneven = Vec::new();
    for (name, set) in sets {
        for seed in 0..SEEDS {
            let seed = mix(seed ^ 0x9e37_79b9_7f4a_7c15);
            let (mut few, mut many) = (vec![0_u32; 256], vec![0_u32; 65_537]);
            for (address, port) in &set {
                let hash = hash(seed, address, *port);
                few[LookupTable::slot_of(256, hash) as usize] += 1;
                many[LookupTable::slot_of(65_537, hash) as usize] += 1;
            }
            // The mean of a slot is 16.
            let spread = few.iter().map(|&n| f64::from(n * n) / 16.0).sum::<f64>() - SIZE as f64;
            let fullest = many.iter().max().copied().unwrap();
            if spread > limit || fullest > 8 {
                uneven.push(format!("{name}: chi square {spread:.0}, {fullest} in one slot of 65,537"));
                break;
            }
        }
    }
    uneven
}

#[test]
fn random_endpoint_sets_stay_within_the_spread_limit() {
    let sets = (0..200_u64).map(|n| {
        let random = |k: u64| mix(mix(n << 32 | k) ^ 0x9e37_79b9_7f4a_7c15);
        let set = (0..SIZE).map(|k| (v6(random(3 * k), random(3 * k + 1)), random(3 * k + 2) as u16));
        (format!("set {n}"), set.collect())
    });
    assert_eq!(
        unevenly_spread(RANDOM, sets, |_, address, port| mix(address.halves()[0] ^ u64::from(port))),
        [""; 0]
    );
}

/// Hash that selects the slot of a server table.
#[test]
fn linearly_related_endpoints_spread_evenly_over_server_tables() {
    let vip = Address::v6([0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    let hash = |seed, address: &Address, port| flow_hash(salt(seed, &vip, 443_u16.to_be(), 6), address, port);
    assert_eq!(unevenly_spread(RANDOM, related().chain(strided()), hash), [""; 0]);
}

/// Hash that selects the home bucket in the flow table.
#[test]
fn linearly_related_endpoints_spread_evenly_over_the_flow_table() {
    let home = |seed, address: &Address, port| u64::from(Client::new(address, port, 6).home(seed)) << 32;
    assert_eq!(unevenly_spread(RANDOM, related().chain(strided()), home), [""; 0]);
}

/// The salt of a listener.
#[test]
fn salts_of_linearly_related_vips_spread_evenly() {
    let salt = |seed, address: &Address, port| salt(seed, address, port, 6);
    assert_eq!(unevenly_spread(RANDOM, related().chain(strided()), salt), [""; 0]);
}

/// Once 64,512 endpoints of one /64, with the same sum of low half and port, had one slot of 65,537.
#[test]
fn endpoints_of_one_prefix_do_not_share_a_slot() {
    let salt = salt(0x5eed, &Address::v4([198, 51, 100, 10]), 80_u16.to_be(), 6);
    let mut slots = vec![0_u32; 65_537];
    for port in 1024..=u16::MAX {
        let low = 0x0123_4567_89ab_cdef_u64.wrapping_sub(u64::from(port) << 24);
        let address = v6(u64::from_le_bytes([0x20, 1, 0xd, 0xb8, 0, 7, 0, 0]), low);
        slots[LookupTable::slot_of(65_537, flow_hash(salt, &address, port)) as usize] += 1;
    }
    assert!(slots.iter().max() <= Some(&12), "{:?} of 64,512 endpoints have one slot", slots.iter().max());
}

/// Configurations have VIPs and servers of one prefix, with ports that correlate with their addresses. Clients do not
/// choose them. So this hash may spread regular sets less evenly, but must not collapse them into one slot.
#[test]
fn service_index_hash_spreads_linearly_related_endpoints() {
    let related = related().chain(strided());
    let uneven = unevenly_spread(f64::INFINITY, related, |seed, address, port| {
        ServiceIndex::hash(seed % 1000, address, port, 6)
    });
    assert_eq!(uneven, [""; 0]);
}

/// Consecutive ports have labels that are a little less even than random ones.
#[test]
fn flow_labels_of_linearly_related_endpoints_spread() {
    let label = |seed, address: &Address, port| u64::from(flow_label(seed, address, port)) << 44;
    assert_eq!(unevenly_spread(1000.0, related(), label), [""; 0]);
}
