//! Hashes of the packet path: the same on every node, cheap in BPF, with no table.

use crate::abi::Address;

/// Spreads every bit of `h` over the result (two rounds of xor-shift and multiplication).
#[inline(always)]
pub const fn mix(mut h: u64) -> u64 {
    h ^= h >> 32;
    h = h.wrapping_mul(0xd6e8_feb8_6659_fd93);
    h ^= h >> 32;
    h = h.wrapping_mul(0xd6e8_feb8_6659_fd93);
    h ^ (h >> 32)
}

/// Hash of a flow from its 5-tuple; ports in network byte order.
#[inline(always)]
pub fn flow_hash(
    source: &Address,
    source_port: u16,
    destination: &Address,
    destination_port: u16,
    protocol: u8,
    seed: u64,
) -> u64 {
    let pair = |x: u32, y: u32| u64::from(x) << 32 | u64::from(y);
    let ports = pair(u32::from(source_port) << 16 | u32::from(destination_port), u32::from(protocol));
    let [s0, s1, s2, s3] = source.0;
    let [d0, d1, d2, d3] = destination.0;
    let h = mix(pair(s0, s1) ^ seed);
    let h = mix(h.wrapping_add(pair(s2, s3)));
    let h = mix(h.wrapping_add(pair(d0 ^ d2, d1)).wrapping_add(pair(d3, 0).rotate_left(7)));
    mix(h.wrapping_add(ports))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_tuple_counts() {
        let (a, b) = (Address::v4([192, 0, 2, 1]), Address::v4([192, 0, 2, 2]));
        let base = flow_hash(&a, 1, &b, 2, 6, 0);
        assert_ne!(base, flow_hash(&b, 1, &a, 2, 6, 0));
        assert_ne!(base, flow_hash(&a, 3, &b, 2, 6, 0));
        assert_ne!(base, flow_hash(&a, 1, &b, 3, 6, 0));
        assert_ne!(base, flow_hash(&a, 1, &b, 2, 17, 0));
        assert_ne!(base, flow_hash(&a, 1, &b, 2, 6, 1));
    }

    #[test]
    fn consecutive_ports_and_addresses_spread_evenly() {
        let vip = Address::v4([198, 51, 100, 10]);
        let mut buckets = [0u32; 64];
        for host in 0..64u8 {
            for port in 0..1024u16 {
                let h = flow_hash(
                    &Address::v4([10, 0, 0, host]),
                    (32768 + port).to_be(),
                    &vip,
                    80u16.to_be(),
                    6,
                    0,
                );
                buckets[(h >> 58) as usize] += 1;
            }
        }
        // 65,536 flows over 64 buckets: mean 1,024, standard deviation 32; six of them on either side.
        assert!(buckets.iter().all(|&n| (832..=1216).contains(&n)), "{buckets:?}");
    }
}
