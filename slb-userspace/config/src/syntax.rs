//! Explains errors of the TOML parser: syntax, unknown fields, values of the wrong shape.

use super::{
    diagnostic::{Diagnostic, Span},
    suggest::{closest, listed, quoted},
};

/// Converts an error of the TOML parser into a diagnostic.
pub(super) fn explain(error: &toml::de::Error, text: &str) -> Diagnostic {
    let span = span_of(error);
    let message = error.message();
    if message.starts_with("unknown field") {
        let key = text.get(span.clone()).unwrap_or_default();
        return unknown_field(span, key, message);
    }
    if let Some((found, expected)) = wrong_shape(message) {
        let problem = Diagnostic::error(
            span,
            format!("expected {expected}, found {found}"),
            format!("this must be {expected}"),
        );
        let written = text.get(span_of(error)).unwrap_or_default();
        return match (expected, found) {
            ("a list", "a table") if written.starts_with('[') => {
                problem.help(format!("write `[{written}]`: two brackets begin one table of several"))
            }
            ("a list", _) => problem.help("write it between brackets, even if it is a single value"),
            ("a table", "a list") if written.starts_with("[[") => problem
                .help(format!("write `{}`: there is one such table only", &written[1..written.len() - 1])),
            ("a table", _) => problem.help("write it between braces, as in `{ name = value, … }`"),
            _ => problem,
        };
    }
    let label = match message {
        "duplicate key" => "this was set before",
        _ => "the text cannot be read from here on",
    };
    Diagnostic::error(span, format!("not valid TOML: {message}"), label)
}

fn span_of(error: &toml::de::Error) -> Span {
    error.span().unwrap_or(0..0)
}

/// Former names of settings, and their names now.
const RENAMED: [(&str, &str); 2] =
    [("connection_drain", "drain_timeout"), ("backend_port", "default_group_port")];

/// serde says "unknown field `x`, expected one of `a`, `b`".
fn unknown_field(span: Span, key: &str, message: &str) -> Diagnostic {
    if let Some((old, new)) = RENAMED.iter().find(|(old, _)| *old == key) {
        return Diagnostic::error(span, format!("`{old}` has another name now"), format!("write `{new}`"))
            .help(format!("only the name has changed: the values of `{old}` are those of `{new}`"));
    }
    let expected = message.rsplit_once("expected").map_or("", |(_, expected)| expected);
    let allowed: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    let label = match closest(key, allowed.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "there is no such field here".to_owned(),
    };
    Diagnostic::error(span, format!("unknown field {}", quoted(key)), label)
        .help(format!("allowed here: {}", listed(allowed, usize::MAX)))
}

/// serde says "invalid type: string \"x\", expected a list". Returns what was found and what was expected.
fn wrong_shape(message: &str) -> Option<(&'static str, &str)> {
    let (found, expected) = message.strip_prefix("invalid type: ")?.rsplit_once(", expected ")?;
    let found = match found.split([' ', '`']).next() {
        Some("map") => "a table",
        Some("sequence") => "a list",
        Some("string") => "a string",
        Some("integer") => "an integer",
        Some("boolean") => "a boolean",
        _ => "another value",
    };
    Some((found, expected))
}
