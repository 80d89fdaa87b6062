//! Runs of many configurations.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use slb_oracle::generator::Extent;

use super::{Comparison, SEQUENCES, STEPS, Second, Tally, sequence, world};

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Seed of all configurations and sequences.
    pub seed: u64,
    /// Packets to compare, at least.
    pub packets: u64,
    /// What sequences may contain.
    pub extent: Extent,
}

/// A disagreement, with all that is needed to see it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Plan {
    /// The number of configurations. Most steps are packets, and floods make up for the others.
    pub fn worlds(&self) -> u64 {
        self.packets.div_ceil(SEQUENCES * STEPS as u64)
    }
}

/// Runs the plan on the host, on so many threads.
///
/// # Errors
/// The first disagreement of each thread.
pub fn on_the_host(plan: Plan, threads: usize) -> Result<Tally, Vec<Failure>> {
    let (next, total) = (AtomicU64::new(0), Mutex::new((Tally::default(), Vec::new())));
    let work = || {
        let mut tally = Tally::default();
        let mut failure = None;
        // Numbers of configurations do not depend on the number of threads.
        while failure.is_none() {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= plan.worlds() {
                break;
            }
            failure = one_world(plan, number, &mut None, &mut tally).err();
        }
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        total.0.add(&tally);
        total.1.extend(failure);
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let (tally, failures) = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    if failures.is_empty() { Ok(tally) } else { Err(failures) }
}

/// A second packet path for each configuration.
pub trait SecondOf {
    /// Makes the second packet path ready for a configuration.
    fn world(&mut self, comparison: &Comparison<'_>);

    /// The second packet path.
    fn second(&mut self) -> &mut dyn Second;
}

/// Runs all sequences of the configuration with this number, and counts their packets.
///
/// # Errors
/// The first disagreement, shrunk.
pub fn one_world(
    plan: Plan,
    number: u64,
    second: &mut Option<&mut dyn SecondOf>,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let Plan { seed, extent, .. } = plan;
    let world = match extent {
        Extent::Host => world(seed, number),
        // The kernel's clock runs.
        Extent::Kernel => world(seed, number).with_unreached_limits(),
    };
    let mut comparison = Comparison::new(&world);
    if let Some(second) = second {
        second.world(&comparison);
    }
    for n in 0..SEQUENCES {
        let steps = sequence(seed, number, n, &world, extent);
        let mut run = |steps: &_, tally: &mut _| {
            comparison.run(steps, &mut second.as_mut().map(|second| second.second()), tally)
        };
        let mut counted = Tally::default();
        let result = run(&steps, &mut counted);
        tally.add(&counted);
        let Err(found) = result else { continue };
        // The kernel's clock runs: a pause of a second changes what a sequence means. Then it does not fail again.
        let Some(found) = run(&steps, &mut Tally::default()).err().filter(|again| again.step == found.step)
        else {
            continue;
        };
        let (steps, found) = found.shrunk(steps, |steps| run(steps, &mut Tally::default()).err());
        return Err(Failure(format!(
            "seed {seed}, configuration {number}, sequence {n}\n{}{found}",
            comparison.shown(&steps)
        )));
    }
    Ok(())
}
