//! The phases, in order. An expectation that is not met is recorded, and the demo goes on; an error ends it.

mod failure;
mod restart;
mod spread;
mod weight;

use anyhow::Result;

use super::{DemoOptions, WEIGHTS, figures::Figures, view::View};
use crate::{
    World,
    net::{CLIENT_SOURCES, Family},
};

/// Long-lived connections per family, in phases that open them.
const LONG_LIVED: usize = 40;

/// Exchanges of each kind after a change.
const AFTER_A_CHANGE: u64 = 500;

/// Runs all phases.
pub(super) fn all(
    world: &mut World,
    options: &DemoOptions,
    view: &mut View,
    figures: &mut Figures,
) -> Result<()> {
    let status = world.start()?;
    let modes: Vec<_> = status.interfaces.iter().map(|i| format!("{} ({:?})", i.name, i.mode)).collect();
    view.line(&format!(
        "client ({} addresses of each family) -> SLB, VIPs {} and {} -> {} servers\n\
         XDP on {}; the kernel of SLB's namespace forwards nothing",
        CLIENT_SOURCES,
        Family::V4.vip(),
        Family::V6.vip(),
        WEIGHTS.len(),
        modes.join(", ").to_lowercase()
    ));
    spread::phase(world, options.exchanges, view, figures)?;
    failure::phase(world, view, figures)?;
    weight::phase(world, view, figures)?;
    restart::phase(world, options.sigkill_rounds, view, figures)
}

impl Figures {
    /// Records a failure unless `good`.
    fn expect(&mut self, good: bool, failure: impl FnOnce() -> String) {
        if !good {
            self.failures.push(failure());
        }
    }
}
