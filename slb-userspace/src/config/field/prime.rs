//! Primes, for the sizes of tables.

/// The smallest table.
pub(super) const SMALLEST: u32 = 251;

/// Returns whether a number is prime.
pub(super) fn is_prime(number: u32) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}

/// Returns the nearest primes around a number of slots that is not a prime, both allowed as table sizes.
pub(super) fn neighbours(number: u32) -> Option<(u32, u32)> {
    let below = (SMALLEST..number).rev().find(|candidate| is_prime(*candidate))?;
    // The largest size is a prime, so a number in range has one above it.
    let above = (number + 1..).find(|candidate| is_prime(*candidate))?;
    Some((below, above))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes_are_told() {
        let primes: Vec<u32> = (0..32).filter(|number| is_prime(*number)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31]);
        assert!(is_prime(251) && is_prime(65_537) && !is_prime(65_536) && !is_prime(65_025));
    }

    #[test]
    fn neighbours_enclose() {
        assert_eq!(neighbours(252), Some((251, 257)));
        assert_eq!(neighbours(65_536), Some((65_521, 65_537)));
        assert_eq!(neighbours(1_000), Some((997, 1_009)));
    }
}
