//! Checks of single values. Each check records its diagnostic and continues, so that one run reports all problems.

use std::{
    collections::HashMap, fmt::Display, hash::Hash, ops::RangeInclusive, path::PathBuf, time::Duration,
};

use slb_common::maglev;

use super::{
    diagnostic::{Diagnostic, Span},
    model::{Id, Name, TableSize, Weight},
    raw::{Scalar, Value},
    suggest::{closest, listed, quoted},
};

pub(super) mod address;
mod network;

/// The word for a disabled duration.
pub(super) const OFF: &str = "off";
/// Range of `slow_start`.
const SLOW_START: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(300);

/// Ids of one kind so far, each with its place and whether it is a name that stands for the id.
#[derive(Debug, Default)]
pub(super) struct UsedIds(HashMap<Id, (Span, bool)>);

/// The settings that an id comes from.
#[derive(Clone, Copy)]
pub(super) struct Written<'a> {
    pub(super) id: Option<&'a Value>,
    pub(super) name: Option<&'a Value>,
}

/// Collects diagnostics.
#[derive(Debug, Default)]
pub(super) struct Checker {
    /// The diagnostics, in the order of detection.
    pub(super) diagnostics: Vec<Diagnostic>,
}

impl Checker {
    /// Records a diagnostic.
    pub(super) fn note(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// Records an error and returns `None` in place of the value.
    pub(super) fn refuse<T>(&mut self, diagnostic: Diagnostic) -> Option<T> {
        self.note(diagnostic);
        None
    }

    /// Checks that a required field is present. `example` is a valid line.
    pub(super) fn required<'a, T>(
        &mut self,
        value: Option<&'a T>,
        key: &str,
        table: &Span,
        example: &str,
    ) -> Option<&'a T> {
        if value.is_none() {
            self.note(
                Diagnostic::error(
                    table.clone(),
                    format!("`{key}` is missing"),
                    format!("this needs `{key}`"),
                )
                .help(format!("for example `{example}`"))
                .missing(key),
            );
        }
        value
    }

    /// Checks an integer against its range.
    pub(super) fn integer<T>(&mut self, key: &str, value: &Value, allowed: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i128> + PartialOrd + Display,
    {
        let range = format!("{} to {}", allowed.start(), allowed.end());
        let number = match value.as_ref() {
            Scalar::Integer(number) => *number,
            other => {
                let problem = wrong_type(key, value, other, "an integer", format!("an integer from {range}"));
                return self.refuse(match other {
                    Scalar::Text(text) if text.parse::<i128>().is_ok() => {
                        problem.help(format!("write it without quotes: `{key} = {text}`"))
                    }
                    _ => problem,
                });
            }
        };
        match T::try_from(number) {
            Ok(number) if allowed.contains(&number) => Some(number),
            _ => self.refuse(Diagnostic::error(
                value.span(),
                format!("`{key}` is out of range"),
                format!("allowed: {range}"),
            )),
        }
    }

    pub(super) fn port(&mut self, key: &str, value: &Value) -> Option<u16> {
        self.integer(key, value, 1..=u16::MAX)
    }

    /// Checks a weight. The default is the maximum.
    pub(super) fn weight(&mut self, value: Option<&Value>) -> Option<Weight> {
        let Some(value) = value else { return Some(Weight(Weight::MAX)) };
        self.integer("weight", value, 0..=Weight::MAX).map(Weight)
    }

    /// Checks a table size. The default is [`TableSize::DEFAULT`].
    pub(super) fn table_size(&mut self, value: Option<&Value>) -> Option<TableSize> {
        let Some(value) = value else { return Some(TableSize::DEFAULT) };
        let slots = self.integer("table_size", value, maglev::MIN_SIZE..=maglev::MAX_SIZE)?;
        if maglev::is_prime(slots) {
            return Some(TableSize(slots));
        }
        let (below, above) = maglev::nearest_primes(slots);
        self.refuse(
            Diagnostic::error(
                value.span(),
                "`table_size` is not a prime",
                "allowed: primes from 251 to 65537",
            )
            .help(format!("the nearest ones are {below} and {above}")),
        )
    }

    /// Checks a duration that may be off. The default is off, which is `Some(None)`.
    pub(super) fn optional_duration(
        &mut self,
        key: &str,
        value: Option<&Value>,
        allowed: RangeInclusive<Duration>,
    ) -> Option<Option<Duration>> {
        match value {
            None => Some(None),
            Some(value) if *value.as_ref() == Scalar::Text(OFF.to_owned()) => Some(None),
            Some(value) => self.duration_or(key, value, allowed, ", or \"off\"").map(Some),
        }
    }

    /// Checks a duration whose range includes zero; zero means off.
    pub(super) fn duration_or_none(
        &mut self,
        key: &str,
        value: Option<&Value>,
        allowed: RangeInclusive<Duration>,
    ) -> Option<Option<Duration>> {
        match value.map(Value::as_ref) {
            Some(Scalar::Text(text)) if time(text) == Some(Duration::ZERO) => Some(None),
            _ => self.optional_duration(key, value, allowed),
        }
    }

    /// Checks the duration of slow start.
    pub(super) fn slow_start(&mut self, value: Option<&Value>) -> Option<Option<Duration>> {
        self.optional_duration("slow_start", value, SLOW_START)
    }

    /// Checks that a value is a string. `expected` describes the string.
    pub(super) fn text<'a>(&mut self, key: &str, value: &'a Value, expected: &str) -> Option<&'a str> {
        match value.as_ref() {
            Scalar::Text(text) => Some(text),
            other => self.refuse(wrong_type(key, value, other, "a string", expected.to_owned())),
        }
    }

    pub(super) fn boolean(&mut self, key: &str, value: &Value) -> Option<bool> {
        match value.as_ref() {
            Scalar::Boolean(boolean) => Some(*boolean),
            other => self.refuse(wrong_type(
                key,
                value,
                other,
                "a boolean",
                "true or false, without quotes".to_owned(),
            )),
        }
    }

    /// Checks that a value is one of these words.
    pub(super) fn choice<T: Copy>(&mut self, key: &str, value: &Value, words: &[(&str, T)]) -> Option<T> {
        let all = words.iter().map(|(word, _)| *word);
        let allowed = format!(
            "allowed: {}",
            all.clone().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
        );
        let text = self.text(key, value, &allowed)?;
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*meaning);
        }
        let problem = Diagnostic::error(value.span(), format!("`{key}` cannot be {}", quoted(text)), allowed);
        self.refuse(match closest(text, all) {
            Some(near) => problem.help(format!("did you mean \"{near}\"?")),
            None => problem,
        })
    }

    pub(super) fn name(&mut self, value: &Value) -> Option<Name> {
        self.identifier("name", "a name", value).map(|text| Name(text.to_owned()))
    }

    /// Checks an id against the rules for names. The default is the name.
    pub(super) fn id(&mut self, value: Option<&Value>, name: Option<&Name>) -> Option<Id> {
        match value {
            Some(value) => self.identifier("id", "an id", value).map(|text| Id(text.to_owned())),
            None => name.map(Id::from),
        }
    }

    fn identifier<'a>(&mut self, key: &str, noun: &str, value: &'a Value) -> Option<&'a str> {
        let allowed = format!("{noun} has 1 to 63 characters of A-Z a-z 0-9 . _ -");
        let text = self.text(key, value, &allowed)?;
        if let Some(wrong) = text.chars().find(|c| !Name::allows(*c)) {
            let instead: String =
                text.chars().map(|c| if Name::allows(c) { c } else { '-' }).take(Name::MAX_LEN).collect();
            return self.refuse(
                Diagnostic::error(
                    value.span(),
                    format!("{noun} cannot contain {}", quoted(&wrong.to_string())),
                    allowed,
                )
                .help(format!("for example \"{instead}\"")),
            );
        }
        if !(1..=Name::MAX_LEN).contains(&text.len()) {
            let message = format!("{noun} cannot have {} characters", text.len());
            return self.refuse(Diagnostic::error(value.span(), message, allowed));
        }
        Some(text)
    }

    /// Checks a duration: an integer with a unit, such as "1500ms", "2s", "1m" or "1h".
    pub(super) fn duration(
        &mut self,
        key: &str,
        value: &Value,
        allowed: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        self.duration_or(key, value, allowed, "")
    }

    /// Checks a duration. `besides` names an alternative, for messages.
    fn duration_or(
        &mut self,
        key: &str,
        value: &Value,
        allowed: RangeInclusive<Duration>,
        besides: &str,
    ) -> Option<Duration> {
        let range = format!(
            "{} to {}",
            humantime::format_duration(*allowed.start()),
            humantime::format_duration(*allowed.end()),
        );
        let expected = format!("a number and its unit (ms, s, m or h) in quotes, {range}{besides}");
        let text = match value.as_ref() {
            Scalar::Text(text) => text,
            other => {
                let problem = wrong_type(key, value, other, "a duration", expected);
                return self.refuse(match other {
                    Scalar::Integer(number) => {
                        problem.help(format!("in seconds this is `{key} = \"{number}s\"`"))
                    }
                    _ => problem,
                });
            }
        };
        match time(text) {
            Some(duration) if allowed.contains(&duration) => Some(duration),
            Some(_) => self.refuse(Diagnostic::error(
                value.span(),
                format!("`{key}` is out of range"),
                format!("allowed: {range}{besides}"),
            )),
            None => self.refuse(Diagnostic::error(
                value.span(),
                format!("{} is not a duration", quoted(text)),
                format!("expected {expected}"),
            )),
        }
    }

    /// Checks an absolute path; `default` applies if it is absent.
    pub(super) fn absolute_path(
        &mut self,
        key: &str,
        value: Option<&Value>,
        default: &str,
    ) -> Option<PathBuf> {
        let Some(value) = value else { return Some(PathBuf::from(default)) };
        let text = self.text(key, value, "an absolute path")?;
        let path = PathBuf::from(text);
        if text.contains('\0') || !path.is_absolute() {
            let message = format!("`{key}` is not an absolute path");
            return self.refuse(
                Diagnostic::error(value.span(), message, "a path that starts with `/`")
                    .help(format!("the default is `{key} = \"{default}\"`")),
            );
        }
        Some(path)
    }

    /// Checks that a key is unique. `what` describes the key.
    pub(super) fn unique<K: Hash + Eq>(
        &mut self,
        seen: &mut HashMap<K, Span>,
        key: K,
        span: Span,
        what: &str,
    ) {
        if let Some(first) = seen.get(&key) {
            self.note(
                Diagnostic::error(span, format!("{what} appears twice"), "again here")
                    .related(first.clone(), "first here"),
            );
        } else {
            seen.insert(key, span);
        }
    }

    /// Checks that an id is unique. `what` names the kind. Two default ids are equal names, which are reported as such.
    pub(super) fn unique_id(&mut self, seen: &mut UsedIds, id: &Id, written: Written<'_>, what: &str) {
        let Some(value) = written.id.or(written.name) else { return };
        let is_default = written.id.is_none();
        let Some((first, first_is_default)) = seen.0.get(id) else {
            seen.0.insert(id.clone(), (value.span(), is_default));
            return;
        };
        if is_default && *first_is_default {
            return;
        }
        let label = |is_default| if is_default { "this name is its id, too" } else { "this id" };
        let mut problem =
            Diagnostic::error(value.span(), format!("{what} id `{id}` appears twice"), label(is_default))
                .related(first.clone(), format!("first here: {}", label(*first_is_default)));
        problem = problem.help("write another `id`: without one, the name is the id");
        self.note(problem);
    }

    /// Records an error for a reference to something undefined.
    pub(super) fn unknown(&mut self, what: &str, name: &str, span: Span, names: &[&str]) {
        let label = match closest(name, names.iter().copied()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("there is no {what} of this name"),
        };
        let help = match names {
            [] => format!("the file has no {what}"),
            _ => format!("the file has: {}", listed(names.iter().copied(), 10)),
        };
        self.note(
            Diagnostic::error(span, format!("{what} {} does not exist", quoted(name)), label).help(help),
        );
    }
}

/// Parses a duration that is an integer with a unit.
fn time(text: &str) -> Option<Duration> {
    match text.trim_start_matches(|c: char| c.is_ascii_digit()) {
        "ms" | "s" | "m" | "h" => humantime::parse_duration(text).ok(),
        _ => None,
    }
}

pub(super) fn wrong_type(
    key: &str,
    value: &Value,
    found: &Scalar,
    wanted: &str,
    expected: String,
) -> Diagnostic {
    let message = format!("expected {wanted} for `{key}`, found {}", found.kind());
    Diagnostic::error(
        value.span(),
        message,
        if expected.starts_with("allowed") { expected } else { format!("expected {expected}") },
    )
}
