//! Quality of tables: slots per server, and slots that a change of members reassigns.

/// Counts the slots of each of `members` members.
#[must_use]
pub fn slots_per_member(table: &[u16], members: usize) -> Vec<u32> {
    let mut slots_per_member = vec![0; members];
    for &slot_member in table {
        if let Some(count) = slots_per_member.get_mut(usize::from(slot_member)) {
            *count += 1;
        }
    }
    slots_per_member
}

/// Slots that a change of one member's weight has reassigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reassignment {
    /// Slots that the member gained or lost. Every table must reassign as many.
    pub needed: u32,
    /// Slots that passed between two other members.
    pub needless: u32,
    /// Slots that need not be reassigned: all but [`Self::needed`].
    pub other_slots: u32,
}

impl Reassignment {
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
        Self { needed, needless, other_slots: before.len() as u32 - needed }
    }

    /// All reassigned slots.
    #[must_use]
    pub const fn total(self) -> u32 {
        self.needed + self.needless
    }

    /// [`Self::needless`] as a fraction of [`Self::other_slots`], 0 to 1.
    #[must_use]
    pub fn needless_share(self) -> f64 {
        f64::from(self.needless) / f64::from(self.other_slots.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::super::EMPTY;
    use super::*;

    #[test]
    fn slots_are_counted_per_server_and_empty_ones_are_skipped() {
        assert_eq!(slots_per_member(&[0, 2, 2, EMPTY], 4), [1, 0, 2, 0]);
    }

    #[test]
    fn slot_moves_between_unchanged_servers_are_needless() {
        let moved = Reassignment::between(&[0, 1, 1, 2, 2, 0], &[0, 0, 1, 1, 2, 2], 1);
        assert_eq!(moved, Reassignment { needed: 2, needless: 1, other_slots: 4 });
        assert_eq!(moved.total(), 3);
        assert!((moved.needless_share() - 0.25).abs() < f64::EPSILON);
    }
}
