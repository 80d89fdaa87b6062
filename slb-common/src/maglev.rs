//! Builds server tables: weighted consistent hashing in the manner of Maglev (Eisenbud et al., NSDI 2016).
//!
//! A table is a pure function of its size, the seed and the set of (name, weight). Nodes that share these build the
//! same table, in whatever order they list the servers.
//!
//! # How a table is filled
//!
//! 1. Every server gets a **quota** of slots from its weight alone (`quota`), so the balance is exact by construction.
//! 2. Every server visits the slots in an order of its own, a **permutation** drawn from its name and the seed. Its
//!    pace is proportional to its weight. The first server to visit a slot gets it. A server whose quota is full stops
//!    (`race`).
//!
//! Maglev differs in the second step. There a server that visits a taken slot continues at once until it finds a free
//! one. Its later claims then depend on all claims before them, and the removal of one server shifts claims all over
//! the table.
//!
//! Here the step to a taken slot is lost. So the time at which a server visits a slot depends on its permutation and
//! weight alone. Without quotas a change would move hardly more slots than it must. The other moves are the cost of
//! exact balance: about half of those of Maglev. `examples/maglev_figures.rs` prints the figures.

pub mod measure;
mod prime;
mod quota;
mod race;
#[cfg(test)]
mod tests;

pub use prime::{is_prime, nearest_primes};

/// Fewest slots of a table.
pub const MIN_SIZE: u32 = 251;
/// Most slots of a table, which then has 131,074 bytes.
pub const MAX_SIZE: u32 = 65_537;
/// Most servers of a table: [`EMPTY`] takes one of the values of a slot.
pub const MAX_MEMBERS: usize = u16::MAX as usize;
/// Value of a slot without a server. All slots have it if no server has a weight above 0.
pub const EMPTY: u16 = u16::MAX;

/// A server in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member<'a> {
    /// Identifies the server and decides its slots, for instance `10.0.0.1:80`. Unique in a table.
    pub name: &'a [u8],
    /// Weight relative to the others, 0 to 100. With 0 the server gets no slot, as if it were not listed.
    pub weight: u8,
}

/// Whether a table may have this many slots: a prime from [`MIN_SIZE`] to [`MAX_SIZE`].
#[must_use]
pub const fn is_table_size(size: u32) -> bool {
    MIN_SIZE <= size && size <= MAX_SIZE && is_prime(size)
}

/// Builds a table: for every slot the index of its server in `members`. All slots are [`EMPTY`] if no weight is above
/// 0.
///
/// Every server with a weight above 0 gets at least one slot, unless there are fewer slots than such servers.
///
/// # Panics
///
/// [`is_table_size`] refuses `size`, or there are more than [`MAX_MEMBERS`] members. The configuration parser refuses
/// both.
#[must_use]
pub fn build(size: u32, seed: u64, members: &[Member<'_>]) -> Vec<u16> {
    assert!(is_table_size(size), "a table cannot have {size} slots");
    assert!(members.len() <= MAX_MEMBERS, "a table cannot have {} members", members.len());

    let mut runners: Vec<Runner> = (0u16..)
        .zip(members)
        .filter(|(_, member)| member.weight > 0)
        .map(|(index, member)| Runner {
            index,
            weight: u32::from(member.weight),
            key: name_key(member.name, seed),
            quota: 0,
        })
        .collect();
    // From here on nothing depends on the order of `members`. Names order members with equal keys.
    runners.sort_unstable_by(|a, b| {
        let name = |runner: &Runner| members[usize::from(runner.index)].name;
        (b.weight, a.key).cmp(&(a.weight, b.key)).then_with(|| name(a).cmp(name(b)))
    });
    quota::assign_quotas(size, &mut runners);
    race::fill(size, &runners)
}

/// A server with a weight above 0.
#[derive(Debug, Clone, Copy)]
struct Runner {
    /// Index in the caller's list, which is written to the slots.
    index: u16,
    /// 1 to 100.
    weight: u32,
    /// Hash of name and seed.
    key: u64,
    /// Slots that it gets.
    quota: u32,
}

/// Hashes a name with the seed. Nodes must agree on it, so it never changes between versions.
fn name_key(name: &[u8], seed: u64) -> u64 {
    // FNV-1a reads the bytes; the mix makes every bit of the result depend on all of them.
    let basis = 0xcbf2_9ce4_8422_2325 ^ mix(seed);
    mix(name.iter().fold(basis, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)))
}

/// Mixes 64 bits: the finalizer of SplitMix64, a bijection.
const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
