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

/// What a service adds to the hash of its flows, from what is the same on every node; the port in network byte order.
pub const fn salt(seed: u64, address: &Address, port: u16, protocol: u8) -> u64 {
    let [high, low] = address.halves();
    let h = mix(mix(seed ^ high).wrapping_add(low));
    mix(h.wrapping_add((port as u64) << 8 | protocol as u64))
}

/// Hash of a flow of the service with this salt, from the client's address and port (network byte order).
#[inline(always)]
pub const fn flow_hash(salt: u64, client: &Address, port: u16) -> u64 {
    let [high, low] = client.halves();
    if client.is_v4() {
        // All of it fits in one word.
        mix((low & 0xffff_ffff_0000_0000 | port as u64) ^ salt)
    } else {
        mix(mix(high ^ salt).wrapping_add(low).wrapping_add((port as u64) << 24))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_tuple_counts() {
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
        // 65,536 flows over 64 buckets: mean 1,024, standard deviation 32; six of them on either side.
        assert!(v4.iter().chain(&v6).all(|&n| (832..=1216).contains(&n)), "{v4:?} {v6:?}");
    }
}
