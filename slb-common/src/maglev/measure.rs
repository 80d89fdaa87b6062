//! Quality of tables: slots per server, and slots that a change of members reassigns.

/// Counts the slots of each of `members` members.
#[must_use]
pub fn owned(table: &[u16], members: usize) -> Vec<u32> {
    let mut owned = vec![0; members];
    for &current_backend in table {
        if let Some(count) = owned.get_mut(usize::from(current_backend)) {
            *count += 1;
        }
    }
    owned
}

/// Slots that a change of one member's weight has reassigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Slots that the member gained or lost. Every table must reassign as many.
    pub needed: u32,
    /// Slots that passed between two other members.
    pub needless: u32,
    /// Slots that need not be reassigned: all but [`Self::needed`].
    pub bystanders: u32,
}

impl Moved {
    /// Compares two tables of the same members, between which the weight of `member` changed.
    ///
    /// # Panics
    ///
    /// The tables differ in size.
    #[must_use]
    pub fn between(before: &[u16], after: &[u16], member: u16) -> Self {
        assert_eq!(before.len(), after.len(), "tables of different sizes cannot be compared slot by slot");
        let (mut needed, mut needless) = (0, 0);
        for (&from, &to) in before.iter().zip(after).filter(|(from, to)| from != to) {
            if from == member || to == member {
                needed += 1;
            } else {
                needless += 1;
            }
        }
        Self { needed, needless, bystanders: before.len() as u32 - needed }
    }

    /// All reassigned slots.
    #[must_use]
    pub const fn total(self) -> u32 {
        self.needed + self.needless
    }

    /// [`Self::needless`] as a fraction of [`Self::bystanders`], 0 to 1.
    #[must_use]
    pub fn needless_share(self) -> f64 {
        f64::from(self.needless) / f64::from(self.bystanders.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::super::EMPTY;
    use super::*;

    #[test]
    fn owners_are_counted_and_empty_slots_are_not() {
        assert_eq!(owned(&[0, 2, 2, EMPTY], 4), [1, 0, 2, 0]);
    }

    #[test]
    fn moves_are_needless_between_others_only() {
        let moved = Moved::between(&[0, 1, 1, 2, 2, 0], &[0, 0, 1, 1, 2, 2], 1);
        assert_eq!(moved, Moved { needed: 2, needless: 1, bystanders: 4 });
        assert_eq!(moved.total(), 3);
        assert!((moved.needless_share() - 0.25).abs() < f64::EPSILON);
    }
}
