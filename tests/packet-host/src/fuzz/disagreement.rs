//! A packet about which packet path and oracle disagree.

use std::fmt;

use slb_oracle::{Expected, Step, decode::decoded};

/// What was seen in place of what was expected, after which steps.
#[derive(Debug, Clone)]
pub struct Disagreement {
    /// Position of the step at which it showed; the number of steps if counters differ at the end.
    pub step: usize,
    /// What differs.
    pub what: String,
}

impl Disagreement {
    /// The smallest sequence that still shows a disagreement, found by leaving out steps, and what it shows.
    pub fn shrunk(
        self,
        mut steps: Vec<Step>,
        mut run: impl FnMut(&[Step]) -> Option<Self>,
    ) -> (Vec<Step>, Self) {
        steps.truncate(self.step + 1);
        let mut smallest = self;
        let mut chunk = steps.len().div_ceil(2).max(1);
        loop {
            let mut at = 0;
            let before = steps.len();
            while at < steps.len() {
                let rest = [&steps[..at], &steps[(at + chunk).min(steps.len())..]].concat();
                match run(&rest) {
                    Some(found) => {
                        steps = rest;
                        steps.truncate(found.step + 1);
                        smallest = found;
                    }
                    None => at += chunk,
                }
            }
            if chunk == 1 && steps.len() == before {
                return (steps, smallest);
            }
            chunk = (chunk / 2).max(1);
        }
    }
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {}: {}", self.step, self.what)
    }
}

/// A step, for a reader.
pub(super) fn shown(step: &Step) -> String {
    match step {
        Step::Frame(arrival) => format!("on {}: {}", arrival.interface, decoded(&arrival.bytes)),
        Step::Flood(arrival, times) => {
            format!("{times} times on {}: {}", arrival.interface, decoded(&arrival.bytes))
        }
        Step::Wait(jiffies) => format!("{jiffies} jiffies pass"),
        Step::Server(number, state) => format!("server {number} is {state:?}"),
    }
}

/// Two results of a frame, decoded.
pub(super) fn differing(seen: &impl fmt::Debug, frame: &[u8], expected: &Expected) -> String {
    let should = expected.frame.as_deref().map_or_else(|| "dropped".to_owned(), decoded);
    let Expected { verdict, action, reason, .. } = expected;
    format!(
        "seen      {seen:?}\n      {}\n  expected  {verdict:?}, {} {}\n      {should}",
        decoded(frame),
        action.name(),
        reason.name(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(steps: &[Step]) -> Option<Disagreement> {
        let at = |wanted| steps.iter().position(|step| *step == Step::Wait(wanted));
        let (first, second) = (at(7)?, at(70)?);
        (first < second).then(|| Disagreement { step: second, what: "two waits".to_owned() })
    }

    #[test]
    fn shrunk_sequence_has_only_steps_that_matter() {
        let steps: Vec<_> = (0..100).map(Step::Wait).collect();
        let (steps, shown) = found(&steps).unwrap().shrunk(steps, found);
        assert_eq!(steps, [Step::Wait(7), Step::Wait(70)]);
        assert_eq!(shown.to_string(), "step 1: two waits");
    }
}
