//! Runs a scenario: requires root, creates a world, and shows logs on failure.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use anyhow::Result;
use nix::unistd::geteuid;

use crate::{World, test_lock::TestLock};

/// Number of lines of the daemon's log that a failure shows.
const LOG_LINES: usize = 100;

/// Path of the function that contains the call, without the crate.
#[macro_export]
macro_rules! function_name {
    () => {{
        fn here() {}
        $crate::scenario::enclosing(std::any::type_name_of_val(&here))
    }};
}

/// Runs a scenario under the name of the function that contains the call: `scenario!(&WEIGHTS, |world| ...)`. One of
/// several variants has a name of its own after it: `scenario!(mode; &WEIGHTS, |world| ...)`. See
/// [`scenario()`](fn@scenario).
#[macro_export]
macro_rules! scenario {
    ($variant:expr; $weights:expr, $body:expr $(,)?) => {
        $crate::scenario::scenario(&format!("{}: {}", $crate::function_name!(), $variant), $weights, $body)
    };
    ($weights:expr, $body:expr $(,)?) => {
        $crate::scenario::scenario($crate::function_name!(), $weights, $body)
    };
}

/// As [`scenario!`], while no other world exists. See [`alone()`](fn@alone).
#[macro_export]
macro_rules! scenario_alone {
    ($weights:expr, $body:expr $(,)?) => {
        $crate::scenario::alone($crate::function_name!(), $weights, $body)
    };
}

/// Path of the function that contains the item of this path, without the crate, as the test runner names it. Closures
/// do not count.
pub fn enclosing(item: &'static str) -> &'static str {
    let function = item.rsplit_once("::").map_or(item, |(function, _)| function);
    let function = function.trim_end_matches("::{{closure}}");
    function.split_once("::").map_or(function, |(_, path)| path)
}

/// Runs `body` in a world with one backend per weight. Its servers run, its daemon does not. Without root, the scenario
/// counts as skipped.
///
/// # Panics
/// `body` fails or panics; the daemon's log is printed before.
pub fn scenario(name: &str, weights: &[u8], body: impl FnOnce(&mut World) -> Result<()>) {
    run(name, weights, TestLock::beside_others, body);
}

/// As [`scenario`], while no other world exists: for scenarios with tight time bounds, or that look for leftovers.
///
/// # Panics
/// As [`scenario`].
pub fn alone(name: &str, weights: &[u8], body: impl FnOnce(&mut World) -> Result<()>) {
    run(name, weights, TestLock::alone, body);
}

fn run(
    name: &str,
    weights: &[u8],
    test_lock: fn() -> Result<TestLock>,
    body: impl FnOnce(&mut World) -> Result<()>,
) {
    if !geteuid().is_root() {
        // `cargo xtask test` reads this line and adds the name of the test.
        println!("skipped: needs root");
        return;
    }
    let world = test_lock().and_then(|test_lock| World::new(weights, test_lock));
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

#[cfg(test)]
mod tests {
    #[test]
    fn function_name_is_that_of_the_enclosing_function() {
        let expected = "scenario::tests::function_name_is_that_of_the_enclosing_function";
        assert_eq!(function_name!(), expected);
        assert_eq!(Some(1).map(|_| function_name!()), Some(expected));
    }
}
