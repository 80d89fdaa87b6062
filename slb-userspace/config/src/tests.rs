//! Tests from text to model.

mod accepted;
mod access_lists;
mod broken;
mod limits;
mod mutated;
mod port_ranges;
mod quic;
mod warned;

use super::{Config, ConfigError, Diagnostic, DiagnosticReport, Severity, parse, samples::SHOP as BASE};

/// The base with one replacement. The replaced text must occur exactly once.
fn changed(from: &str, to: &str) -> String {
    assert_eq!(BASE.matches(from).count(), 1, "{from:?} must stand in the base once");
    BASE.replace(from, to)
}

fn accepted(text: &str) -> Config {
    match parse("base.toml", text) {
        Ok(loaded) => {
            assert_eq!(loaded.warnings.to_string(), "", "no warnings expected for\n{text}");
            loaded.config
        }
        Err(rejected) => panic!("refused:\n{rejected}\n{text}"),
    }
}

fn warnings(text: &str) -> DiagnosticReport {
    match parse("base.toml", text) {
        Ok(loaded) => {
            let severities = loaded.warnings.diagnostics().iter().map(Diagnostic::severity);
            assert!(severities.into_iter().all(|severity| severity == Severity::Warning));
            loaded.warnings
        }
        Err(rejected) => panic!("refused:\n{rejected}\n{text}"),
    }
}

fn errors(text: &str) -> DiagnosticReport {
    match parse("base.toml", text) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(ConfigError::Invalid(report)) => report,
        Err(other) => panic!("{other}"),
    }
}

/// Asserts that a report has a single problem, at `at` ("line:column"), and that its text contains all `words`.
fn assert_single(report: &DiagnosticReport, at: &str, words: &[&str], text: &str) {
    let shown = report.to_string();
    assert_eq!(report.diagnostics().len(), 1, "one problem expected:\n{shown}\n{text}");
    assert!(shown.contains(&format!("--> base.toml:{at}\n")), "expected at {at}:\n{shown}\n{text}");
    for word in words {
        assert!(shown.contains(word), "{word:?} expected in:\n{shown}");
    }
}
