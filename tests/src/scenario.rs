//! Running a scenario: root, a world, and on failure everything that helps to understand it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use anyhow::Result;
use nix::unistd::geteuid;

use crate::{World, turn::Turn};

/// Lines of the daemon's log that a failure shows.
const LOG_LINES: usize = 100;

/// Runs `body` in a world with one backend per weight, its servers started and its daemon not. Without root the
/// scenario is reported as skipped.
///
/// # Panics
/// When `body` fails or panics, after the daemon's log has been shown.
pub fn scenario(name: &str, weights: &[u8], body: impl FnOnce(&mut World) -> Result<()>) {
    run(name, weights, Turn::beside_others, body);
}

/// As [`scenario`], while nobody else has a world: for what is held to tight bounds of time, or looks for what others leave.
///
/// # Panics
/// As [`scenario`].
pub fn alone(name: &str, weights: &[u8], body: impl FnOnce(&mut World) -> Result<()>) {
    run(name, weights, Turn::alone, body);
}

fn run(name: &str, weights: &[u8], turn: fn() -> Result<Turn>, body: impl FnOnce(&mut World) -> Result<()>) {
    if !geteuid().is_root() {
        // `cargo xtask test` reads this line, and adds the name of the test.
        println!("skipped: needs root");
        return;
    }
    let world = turn().and_then(|turn| World::new(weights, turn));
    let mut world = world.unwrap_or_else(|error| panic!("{name}: no world: {error:#}"));
    match catch_unwind(AssertUnwindSafe(|| body(&mut world))) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            show_log(name, &world);
            drop(world);
            panic!("{name}: {error:#}");
        }
        Err(panic) => {
            show_log(name, &world);
            drop(world);
            resume_unwind(panic);
        }
    }
}

fn show_log(name: &str, world: &World) {
    let log = world.log();
    let lines: Vec<_> = log.lines().collect();
    let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
    eprintln!("{name}: the daemon's log, last {} of {} lines:\n{}", tail.len(), lines.len(), tail.join("\n"));
}
