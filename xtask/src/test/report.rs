//! Reads the output of libtest, hides the output of passed tests, and counts outcomes.

use std::{fmt, ops::AddAssign, process::ExitCode};

/// Start of the line by which a test reports that it could not run.
const SKIPPED: &str = "skipped: ";

/// Tests by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Tests that succeeded.
    pub(crate) passed: u64,
    /// Tests that failed, or ended without a result.
    pub(crate) failed: u64,
    /// Tests that did not run, and printed the reason.
    pub(crate) skipped: u64,
}

impl Totals {
    /// Success if no test failed.
    pub(crate) fn exit_code(self) -> ExitCode {
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// State of reading the output of one or more runs of libtest with `--show-output`.
#[derive(Debug, Default)]
pub(crate) struct Report {
    totals: Totals,
    /// Whether a run has printed its result.
    has_result: bool,
    /// Whether the current line belongs to the output of passed tests.
    in_successes: bool,
    /// The test whose output is being read.
    test: String,
    /// Skipped tests of the current run, which libtest counts as passed.
    skipped: u64,
    /// Whether the test whose output is being read has been counted as skipped.
    counted: bool,
}

impl Report {
    /// Reads the next line, and returns what to show of it.
    pub(crate) fn line(&mut self, line: &str) -> Option<String> {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.result(result);
            return Some(line.to_owned());
        }
        match line {
            "successes:" => self.in_successes = true,
            "failures:" => self.in_successes = false,
            _ if self.in_successes => return self.success_line(line),
            _ => return Some(line.to_owned()),
        }
        (!self.in_successes).then(|| line.to_owned())
    }

    /// The totals. `success` is whether the program exited successfully.
    pub(crate) fn finish(mut self, success: bool) -> Totals {
        // A program without libtest, or one that ended before its result, counts as one test.
        if !success && self.totals.failed == 0 {
            self.totals.failed = 1;
        } else if success && !self.has_result {
            self.totals.passed = 1;
        }
        self.totals
    }

    fn success_line(&mut self, line: &str) -> Option<String> {
        if let Some(test) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            test.clone_into(&mut self.test);
            self.counted = false;
            return None;
        }
        let reason = line.strip_prefix(SKIPPED)?;
        if std::mem::replace(&mut self.counted, true) {
            return None;
        }
        self.skipped += 1;
        Some(format!("skipped {}: {reason}", self.test))
    }

    /// Reads the result line: `ok. 3 passed; 1 failed; 2 ignored; ...`.
    fn result(&mut self, result: &str) {
        self.has_result = true;
        self.in_successes = false;
        let said_skipped = std::mem::take(&mut self.skipped);
        self.totals.skipped += said_skipped;
        let counts = result.split_once(". ").map_or("", |(_, counts)| counts);
        for count in counts.split("; ") {
            let Some((number, outcome)) = count.split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match outcome {
                "passed" => self.totals.passed += number.saturating_sub(said_skipped),
                "failed" => self.totals.failed += number,
                "ignored" => self.totals.skipped += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, success: bool) -> (Totals, Vec<String>) {
        let mut report = Report::default();
        let shown = text.lines().filter_map(|line| report.line(line)).collect();
        (report.finish(success), shown)
    }

    const MIXED: &str = "\
running 4 tests
test a ... ok
test b ... ok
test c ... FAILED
test d ... ignored

successes:

---- a stdout ----
skipped: needs root
skipped: needs root

---- b stdout ----
noise

successes:
    a
    b

failures:

---- c stdout ----
why

failures:
    c

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn test_outcomes_are_counted_once_each() {
        let (totals, shown) = read(MIXED, false);
        assert_eq!(totals, Totals { passed: 1, failed: 1, skipped: 2 });
        assert_eq!(totals.to_string(), "1 passed, 1 failed, 2 skipped");
        assert!(shown.contains(&"skipped a: needs root".to_owned()), "{shown:?}");
        assert!(shown.contains(&"why".to_owned()), "{shown:?}");
        assert!(!shown.contains(&"noise".to_owned()), "{shown:?}");
    }

    #[test]
    fn totals_of_several_runs_add_up() {
        let twice = MIXED.repeat(2);
        assert_eq!(read(&twice, false).0, Totals { passed: 2, failed: 2, skipped: 4 });
    }

    #[test]
    fn test_program_that_dies_is_a_failure() {
        assert_eq!(read("running 3 tests\n", false).0, Totals { passed: 0, failed: 1, skipped: 0 });
        let died_late = "test result: ok. 3 passed; 0 failed; 0 ignored\n";
        assert_eq!(read(died_late, false).0, Totals { passed: 3, failed: 1, skipped: 0 });
    }

    #[test]
    fn test_program_without_libtest_is_one_test() {
        assert_eq!(read("whatever\n", true).0, Totals { passed: 1, failed: 0, skipped: 0 });
    }
}
