//! Ranges of SLB's settings. A value outside becomes the nearest one that is allowed, with a note.

use std::{ops::RangeInclusive, time::Duration};

use crate::{
    ledger::Ledger,
    model::{HttpCheck, Status},
    source::Lines,
};

/// A duration setting and its range.
pub(crate) struct Setting {
    name: &'static str,
    range: RangeInclusive<Duration>,
}

const fn seconds(name: &'static str, first: u64, last: u64) -> Setting {
    Setting { name, range: Duration::from_secs(first)..=Duration::from_secs(last) }
}

pub(crate) const INTERVAL: Setting = seconds("interval", 1, 50);
pub(crate) const TIMEOUT: Setting = seconds("timeout", 1, 300);
pub(crate) const PERSISTENCE: Setting = seconds("session_persistence", 1, 3600);
pub(crate) const ESTABLISHED: Setting = seconds("established_timeout", 10, 900);
pub(crate) const SLOW_START: Setting = seconds("slow_start", 1, 300);
pub(crate) const WITHIN: Setting = seconds("within", 5, 60);

impl Setting {
    /// The value, or the nearest that is allowed.
    pub(crate) fn fit(&self, ledger: &mut Ledger, at: Lines, value: Duration) -> Duration {
        ledger.used(at);
        let fitted = value.clamp(*self.range.start(), *self.range.end());
        if fitted != value {
            let (name, first, last) = (self.name, text(*self.range.start()), text(*self.range.end()));
            let reason =
                format!("`{name}` is {first} to {last} in SLB: {} became {}", text(value), text(fitted));
            ledger.changed(at, reason);
        }
        fitted
    }
}

/// A count in a range.
pub(crate) fn count(
    ledger: &mut Ledger,
    at: Lines,
    name: &str,
    value: u64,
    range: RangeInclusive<u64>,
) -> u64 {
    ledger.used(at);
    let fitted = value.clamp(*range.start(), *range.end());
    if fitted != value {
        let (first, last) = range.into_inner();
        ledger.changed(at, format!("`{name}` is {first} to {last} in SLB: {value} became {fitted}"));
    }
    fitted
}

/// A duration as SLB writes it.
pub(crate) fn text(value: Duration) -> String {
    let millis = value.as_millis();
    if millis.is_multiple_of(1000) { format!("{}s", millis / 1000) } else { format!("{millis}ms") }
}

/// A number of seconds with a fraction, as keepalived has them.
pub(crate) fn fraction(text: &str) -> Option<Duration> {
    let value: f64 = text.parse().ok()?;
    // Milliseconds are as fine as SLB's settings.
    let rounded = Duration::try_from_secs_f64(value).ok()?.as_millis();
    u64::try_from(rounded).ok().map(Duration::from_millis)
}

/// A number with units, one after another; `default` is the unit of a number without one, in milliseconds.
pub(crate) fn with_units(text: &str, default: u64) -> Option<Duration> {
    let mut total = 0_u64;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "" => default,
            "us" => return Some(Duration::from_micros(number)),
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        rest = &rest[letters..];
        total = total.checked_add(number.checked_mul(unit)?)?;
    }
    Some(Duration::from_millis(total))
}

/// Statuses of a range, as codes and classes. `None` if SLB cannot express them.
pub(crate) fn statuses(first: u16, last: u16) -> Option<Vec<Status>> {
    if !(200..=599).contains(&first) || !(first..=599).contains(&last) {
        return None;
    }
    let mut found = Vec::new();
    let mut code = first;
    while code <= last {
        if code.is_multiple_of(100) && code + 99 <= last {
            found.push(Status::Class(code / 100));
            code += 100;
        } else {
            found.push(Status::Code(code));
            code += 1;
        }
    }
    Some(found)
}

/// Whether SLB accepts this as the path of a check.
pub(crate) fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.len() <= 1024 && text.chars().all(|c| c.is_ascii_graphic() && c != '#')
}

/// Whether SLB accepts this as the host of a check.
pub(crate) fn is_host(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    (1..=255).contains(&text.len()) && text.chars().all(allowed)
}

/// An HTTP check of the root.
pub(crate) fn http(tls: bool, is_get: bool, expect: Vec<Status>) -> HttpCheck {
    HttpCheck { tls, verify: false, is_get, path: "/".to_owned(), host: None, expect }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_units() {
        let read = |text| with_units(text, 1).map(text_of);
        assert_eq!(read("2000").as_deref(), Some("2s"));
        assert_eq!(read("1h30m").as_deref(), Some("5400s"));
        assert_eq!(read("1500ms").as_deref(), Some("1500ms"));
        assert_eq!(read("5x"), None);
        assert_eq!(read(""), None);
        assert_eq!(read("99999999999999999d"), None);
        assert_eq!(fraction("1.5").map(text_of).as_deref(), Some("1500ms"));
        assert_eq!(fraction("-1"), None);
        assert_eq!(fraction("1e300"), None);
    }

    fn text_of(value: Duration) -> String {
        text(value)
    }

    #[test]
    fn statuses_are_classes_where_a_hundred_is_whole() {
        assert_eq!(statuses(200, 200), Some(vec![Status::Code(200)]));
        assert_eq!(statuses(200, 399), Some(vec![Status::Class(2), Status::Class(3)]));
        assert_eq!(statuses(299, 300), Some(vec![Status::Code(299), Status::Code(300)]));
        assert_eq!(statuses(100, 200), None);
        assert_eq!(statuses(300, 200), None);
    }

    #[test]
    fn value_outside_the_range_is_the_nearest_and_noted() {
        let (mut ledger, at) = (Ledger::default(), Lines::one(0, 7));
        assert_eq!(INTERVAL.fit(&mut ledger, at, Duration::from_secs(60)), Duration::from_secs(50));
        assert_eq!(count(&mut ledger, at, "unhealthy_threshold", 3, 1..=10), 3);
        let sources = crate::source::Sources::new("f", "", &crate::NoFiles);
        let notes = ledger.notes(&sources);
        assert_eq!(notes.len(), 1);
        assert_eq!(notes[0].reason, "`interval` is 1s to 50s in SLB: 60s became 50s");
    }
}
