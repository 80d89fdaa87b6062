//! Tests from text to model.

mod accepted;
mod access_lists;
mod broken;
mod limits;
mod mutated;
mod port_ranges;
mod quic;
mod warned;

use super::{
    Config, ConfigError, Diagnostic, DiagnosticReport, Severity,
    model::{Document, Documents, Source},
    parse, parse_documents,
    samples::SHOP as BASE,
};

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

#[test]
fn objects_of_the_api_follow_a_file_of_any_size() {
    let daemon = "[daemon]\ninterfaces = [\"eth0\"]\n";
    let file = format!("{daemon}{}", "# a comment\n".repeat(6_000));
    let documents = |group: &str| {
        let api = format!("[document]\nversion = 1\n[[server_group]]\n{group}servers = []\n");
        Documents { file: Document::new("slb.toml", &file), api: Some(Document::new("api.toml", &api)) }
    };
    let config = parse_documents(documents("name = \"web\"\n")).unwrap().config;
    let id = &config.server_groups[0].id;
    assert_eq!(config.api_objects.group(id), Source::Api);
    let Err(ConfigError::Invalid(report)) = parse_documents(documents("")) else {
        panic!("a group without a name")
    };
    let (diagnostic, key) = &report.with_api_keys()[0];
    assert_eq!((diagnostic.message(), key.as_deref()), ("`name` is missing", Some("server_group[0].name")));
}
