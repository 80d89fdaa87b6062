//! Hashes of the packet path: equal on every node, cheap in BPF, without tables.

use crate::net::address::Address;

/// Makes every bit of `h` change the whole result: two rounds of xor-shift and multiplication.
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

/// A service's contribution to the hash of its flows. All inputs are equal on every node; `port` is in network byte
/// order.
pub const fn salt(seed: u64, address: &Address, port: u16, protocol: u8) -> u64 {
    let [high, low] = address.halves();
    let h = mix(mix(seed ^ high).wrapping_add(low));
    mix(h.wrapping_add((port as u64) << 8 | protocol as u64))
}

/// Hash of an address for tables and filters of the service index. Its upper bits select the slot or the bit.
#[inline(always)]
pub const fn address_hash(address: &Address) -> u64 {
    /// Odd.
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let [high, low] = address.halves();
    (high.wrapping_mul(MULTIPLIER) ^ low).wrapping_mul(MULTIPLIER)
}

/// Hash of a flow of the service with this salt; `port` is in network byte order.
///
/// A client chooses its port and the lower half of an IPv6 address; an attacker with forged sources chooses the whole
/// address. Multiplications that involve the secret salt separate these inputs. So no relation between address and port
/// gives many flows one hash.
#[inline(always)]
pub const fn flow_hash(salt: u64, client: &Address, port: u16) -> u64 {
    let [high, low] = client.halves();
    if client.is_v4() {
        // Address and port fit in one word.
        mix((low & 0xffff_ffff_0000_0000 | port as u64) ^ salt)
    } else {
        let h = high ^ salt;
        mix(mix(round(h ^ h >> 32) ^ port as u64).wrapping_add(low))
    }
}

/// IPv6 flow label, and UDP source port of mode `gue`, by which routers and NICs on the path to a server tell flows
/// apart. Costs as much as [`mix`].
#[inline(always)]
pub const fn flow_label(salt: u64, client: &Address, port: u16) -> u32 {
    let [_, low] = client.halves();
    round(round(low ^ salt) ^ port as u64) as u32
}

#[cfg(test)]
mod tests;
