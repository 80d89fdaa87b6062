//! Where the generator's choices come from: a seed, or the input of a coverage-guided fuzzer.

/// A source of choices.
pub trait Choices {
    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: u32) -> u32;

    /// True once in `of` times.
    fn rarely(&mut self, of: u32) -> bool {
        self.below(of) == of - 1
    }

    /// One of the values.
    fn pick<T: Copy>(&mut self, values: &[T]) -> T
    where
        Self: Sized,
    {
        values[self.below(values.len() as u32) as usize]
    }
}

/// Choices that a seed determines.
#[derive(Debug, Clone)]
pub struct Seeded(fastrand::Rng);

impl Seeded {
    /// Equal seeds make equal choices.
    pub fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }
}

impl Choices for Seeded {
    fn below(&mut self, bound: u32) -> u32 {
        self.0.u32(..bound)
    }
}

/// Choices that bytes determine, one or two bytes each; 0 after the last byte. A changed byte changes one choice.
#[derive(Debug, Clone)]
pub struct FromBytes<'b>(&'b [u8]);

impl<'b> FromBytes<'b> {
    /// Choices from these bytes.
    pub const fn new(bytes: &'b [u8]) -> Self {
        Self(bytes)
    }

    /// Whether all bytes have been used.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Choices for FromBytes<'_> {
    fn below(&mut self, bound: u32) -> u32 {
        let len = if bound <= 1 << 8 {
            1
        } else if bound <= 1 << 16 {
            2
        } else {
            4
        }
        .min(self.0.len());
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken.iter().fold(0, |number: u32, byte| number << 8 | u32::from(*byte)) % bound
    }
}
