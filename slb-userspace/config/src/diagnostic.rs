//! Diagnostics with their position in the text, and their rendering.

use std::fmt;

use annotate_snippets::{AnnotationKind, Level, Renderer, normalize_untrusted_str};

pub(super) use super::sources::Span;
use super::sources::{SourceText, Sources};

/// Most diagnostics that are rendered. A file with more has a common cause, and each one costs a pass over the text.
const MAX_SHOWN: usize = 100;

/// Whether a diagnostic makes a configuration invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// The configuration is valid, but probably not what its author wants.
    Warning,
}

/// A diagnostic: what is wrong, where, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    severity: Severity,
    message: String,
    span: Span,
    label: String,
    related: Option<(Span, String)>,
    help: Option<String>,
    /// Key that the table at `span` lacks.
    missing: Option<String>,
}

impl Diagnostic {
    /// Creates an error at `span`, with a label below it.
    pub(super) fn error(span: Span, message: impl Into<String>, label: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            span,
            label: label.into(),
            related: None,
            help: None,
            missing: None,
        }
    }

    /// Creates a warning at `span`, with a label below it.
    pub(super) fn warning(span: Span, message: impl Into<String>, label: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(span, message, label) }
    }

    /// Adds a second position that explains the first one.
    pub(super) fn related(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related = Some((span, label.into()));
        self
    }

    /// Names the key that the table at the position lacks.
    pub(super) fn missing(mut self, key: &str) -> Self {
        self.missing = Some(key.to_owned());
        self
    }

    /// Adds what to write instead.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Whether the diagnostic makes the configuration invalid.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// What is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to write instead, or else what is wrong with the value.
    pub fn advice(&self) -> &str {
        self.help.as_deref().unwrap_or(&self.label)
    }

    fn render(&self, sources: &Sources, renderer: &Renderer) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let source = sources.of_span(&self.span);
        let primary = AnnotationKind::Primary.span(source.local(&self.span)).label(self.label.as_str());
        let related =
            self.related.as_ref().map(|(span, label)| (sources.of_span(span), span, label.as_str()));
        let beside = related.filter(|(other, ..)| other.start == source.start);
        let elsewhere = related.filter(|(other, ..)| other.start != source.start);
        let context = |(source, span, label): (&SourceText, &Span, _)| {
            AnnotationKind::Context.span(source.local(span)).label(label)
        };
        let snippet = source.snippet().annotation(primary).annotations(beside.map(context));
        let other = elsewhere.map(|other| other.0.snippet().annotation(context(other)));
        let help = self.help.as_ref().map(|help| Level::HELP.message(normalize_untrusted_str(help)));
        let title = level.primary_title(self.message.as_str()).element(snippet);
        renderer.render(&[title.elements(other).elements(help)])
    }
}

/// Diagnostics of a configuration, in the order of its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiagnosticReport {
    sources: Sources,
    diagnostics: Vec<Diagnostic>,
}

impl DiagnosticReport {
    /// Collects the diagnostics of these texts.
    pub(super) fn new(sources: Sources, mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
        Self { sources, diagnostics }
    }

    /// The diagnostics that are rendered, each with its key in the document of the API, as in `load_balancer[0].port`;
    /// `None` for the key of one in the file.
    pub fn with_api_keys(&self) -> Vec<(&Diagnostic, Option<String>)> {
        let keys = self.sources.api_keys();
        let key = |diagnostic: &Diagnostic| {
            let mut path = keys.as_ref()?.at(&diagnostic.span)?;
            if let Some(missing) = &diagnostic.missing {
                path = format!("{path}.{missing}");
            }
            Some(path)
        };
        self.diagnostics.iter().take(MAX_SHOWN).map(|diagnostic| (diagnostic, key(diagnostic))).collect()
    }

    /// The diagnostics in the order of the text.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Renders the diagnostics, with terminal colours if `colour`. Empty if there are none.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut shown: Vec<String> = self
            .diagnostics
            .iter()
            .take(MAX_SHOWN)
            .map(|diagnostic| diagnostic.render(&self.sources, &renderer))
            .collect();
        if let Some(hidden) = self.diagnostics.len().checked_sub(MAX_SHOWN).filter(|hidden| *hidden > 0) {
            shown.push(format!("{hidden} more problems are not shown"));
        }
        shown.join("\n\n")
    }
}

impl fmt::Display for DiagnosticReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_shows_position_source_line_caret_and_help() {
        let text = "a = 1\nb = 300\n";
        let problem = Diagnostic::error(10..13, "`b` is too large", "0 to 100").help("write less");
        let shown = DiagnosticReport::new(Sources::file("x.toml", text), vec![problem]).to_string();
        let expected = "\
error: `b` is too large
 --> x.toml:2:5
  |
2 | b = 300
  |     ^^^ 0 to 100
  |
  = help: write less";
        assert_eq!(shown, expected);
    }

    #[test]
    fn report_shows_the_related_position() {
        let text = "a = 1\n\n\n\n\n\n\n\na = 2\n";
        let problem = Diagnostic::warning(13..14, "twice", "again here").related(0..1, "first here");
        let shown = DiagnosticReport::new(Sources::file("x.toml", text), vec![problem]).to_string();
        assert!(shown.starts_with("warning: twice\n"), "{shown}");
        assert!(shown.contains("x.toml:9:1"), "{shown}");
        assert!(shown.contains("1 | a = 1\n  | - first here"), "{shown}");
        assert!(shown.contains("9 | a = 2\n  | ^ again here"), "{shown}");
    }

    #[test]
    fn report_shows_positions_in_both_sources() {
        let sources = Sources::file("x.toml", "a = 1\n").with_api("api.toml", "b = 2\nc = 3\n");
        let start = "a = 1\n".len() + 1;
        let problem = Diagnostic::error(start + 6..start + 7, "twice", "again").related(0..1, "first here");
        let report = DiagnosticReport::new(sources, vec![problem]);
        let shown = report.to_string();
        assert!(shown.contains("api.toml:2:1") && shown.contains("2 | c = 3"), "{shown}");
        assert!(shown.contains("x.toml:1:1") && shown.contains("1 | a = 1"), "{shown}");
        assert_eq!(report.with_api_keys()[0].1.as_deref(), Some("c"));
    }

    #[test]
    fn report_has_colours_only_on_request() {
        let report = DiagnosticReport::new(
            Sources::file("x", "a = 1"),
            vec![Diagnostic::error(0..1, "m", "l").help("h")],
        );
        assert!(report.render(true).contains("\u{1b}["));
        assert!(!report.render(false).contains('\u{1b}'));
    }

    #[test]
    fn report_sorts_problems_by_position_and_limits_them() {
        let text = "x".repeat(150);
        let problems =
            (0..150).rev().map(|at| Diagnostic::error(at..at + 1, format!("m{at}"), "l")).collect();
        let report = DiagnosticReport::new(Sources::file("x", &text), problems);
        assert_eq!(report.diagnostics()[0].message(), "m0");
        let shown = report.to_string();
        assert_eq!(shown.matches("error: ").count(), MAX_SHOWN);
        assert!(shown.ends_with("50 more problems are not shown"), "{shown}");
    }
}
