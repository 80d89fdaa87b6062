//! Primes, for table sizes: only with a prime number of slots every stride is a permutation.

use super::{MAX_SIZE, MIN_SIZE};

/// Whether `n` is a prime.
#[must_use]
pub const fn is_prime(n: u32) -> bool {
    if n < 4 {
        return n > 1;
    }
    if n.is_multiple_of(2) {
        return false;
    }
    let mut divisor = 3;
    // A division, because the square could overflow.
    while divisor <= n / divisor {
        if n.is_multiple_of(divisor) {
            return false;
        }
        divisor += 2;
    }
    true
}

/// The table sizes nearest to `n`, for the hint of an error message: the largest one up to `n`, and the smallest one
/// from `n` on. Both are equal if `n` is a table size or outside the range of sizes.
#[must_use]
pub fn nearest_primes(n: u32) -> (u32, u32) {
    let n = n.clamp(MIN_SIZE, MAX_SIZE);
    // Both ends of the range are primes, so both searches find one.
    let below = (MIN_SIZE..=n).rev().find(|&n| is_prime(n)).unwrap_or(MIN_SIZE);
    let above = (n..=MAX_SIZE).find(|&n| is_prime(n)).unwrap_or(MAX_SIZE);
    (below, above)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_prime_matches_a_sieve() {
        let mut composite = vec![false; MAX_SIZE as usize + 100];
        for n in 2..composite.len() {
            assert_eq!(is_prime(n as u32), !composite[n], "{n}");
            (n * n..composite.len()).step_by(n).for_each(|multiple| composite[multiple] = true);
        }
        assert!(!is_prime(0) && !is_prime(1));
        assert!(is_prime(4_294_967_291) && !is_prime(u32::MAX));
    }

    #[test]
    fn nearest_primes_enclose_the_number() {
        assert_eq!(nearest_primes(65_536), (65_521, 65_537));
        assert_eq!(nearest_primes(1_000), (997, 1_009));
        assert_eq!(nearest_primes(4_099), (4_099, 4_099));
        assert_eq!(nearest_primes(0), (MIN_SIZE, MIN_SIZE));
        assert_eq!(nearest_primes(u32::MAX), (MAX_SIZE, MAX_SIZE));
    }
}
