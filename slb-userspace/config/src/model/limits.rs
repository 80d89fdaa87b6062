//! Limits of a listener's traffic.

use std::{fmt, ops::RangeInclusive};

/// A bandwidth. 1 Mbit/s to 1,000 Gbit/s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bandwidth {
    /// Kilobits (1,000 bits) per second.
    kilobits: u32,
}

impl Bandwidth {
    /// The smallest: its token bucket holds 16 full frames.
    pub const MIN: Self = Self { kilobits: 1000 };
    /// The largest.
    pub const MAX: Self = Self { kilobits: 1_000_000_000 };
    /// Units, the largest first, in kilobits per second.
    const UNITS: [(&str, u32); 3] = [("Gbit", 1_000_000), ("Mbit", 1000), ("kbit", 1)];

    /// This many kilobits (1,000 bits) per second.
    pub const fn of_kilobits(kilobits: u32) -> Self {
        Self { kilobits }
    }

    /// Kilobits per second.
    pub const fn kilobits(self) -> u32 {
        self.kilobits
    }

    /// Bits per second.
    pub const fn bits(self) -> u64 {
        self.kilobits as u64 * 1000
    }

    /// Reads an integer and its unit: `100Mbit`. Of values beyond `u32` only the order counts.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = text.split_at(digits);
        let (_, factor) = Self::UNITS.iter().find(|(name, _)| *name == unit)?;
        let number = number.parse::<u128>().ok()?;
        let kilobits = number.saturating_mul(u128::from(*factor)).try_into().unwrap_or(u32::MAX);
        Some(Self { kilobits })
    }

    /// The range that a configuration may set.
    pub(crate) const fn range() -> RangeInclusive<Self> {
        Self::MIN..=Self::MAX
    }
}

/// As the configuration file has it, in the largest unit that makes it an integer.
impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = Self::UNITS.iter().find(|(_, factor)| self.kilobits.is_multiple_of(*factor));
        let (name, factor) = unit.copied().unwrap_or(("kbit", 1));
        write!(f, "{}{name}", self.kilobits / factor)
    }
}
