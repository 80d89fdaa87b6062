//! Hashes of the packet path: the same on every node, cheap in BPF, with no table.

use crate::abi::Address;

/// Spreads every bit of `h` over the result (two rounds of xor-shift and multiplication).
#[inline(always)]
pub const fn mix(h: u64) -> u64 {
    round(round(h ^ h >> 32))
}

/// Half of [`mix`], without its first shift.
#[inline(always)]
const fn round(h: u64) -> u64 {
    let h = h.wrapping_mul(0xd6e8_feb8_6659_fd93);
    h ^ h >> 32
}

/// What a service adds to the hash of its flows, from what is the same on every node; the port in network byte order.
pub const fn salt(seed: u64, address: &Address, port: u16, protocol: u8) -> u64 {
    let [high, low] = address.halves();
    let h = mix(mix(seed ^ high).wrapping_add(low));
    mix(h.wrapping_add((port as u64) << 8 | protocol as u64))
}

/// Hash of a flow of the service with this salt, from the client's address and port (network byte order).
///
/// A client chooses the port and the lower half of an IPv6 address, and a forger the whole of it. Between any two of them lie
/// multiplications of a number that neither knows: no relation between address and port gives many flows one hash.
#[inline(always)]
pub const fn flow_hash(salt: u64, client: &Address, port: u16) -> u64 {
    let [high, low] = client.halves();
    if client.is_v4() {
        // All of it fits in one word.
        mix((low & 0xffff_ffff_0000_0000 | port as u64) ^ salt)
    } else {
        let h = high ^ salt;
        mix(mix(round(h ^ h >> 32) ^ port as u64).wrapping_add(low))
    }
}

/// What the routers on the way to a server tell flows apart by; costs what [`mix`] costs.
#[inline(always)]
pub const fn flow_label(salt: u64, client: &Address, port: u16) -> u32 {
    let [_, low] = client.halves();
    round(round(low ^ salt) ^ port as u64) as u32
}

#[cfg(test)]
mod tests;
