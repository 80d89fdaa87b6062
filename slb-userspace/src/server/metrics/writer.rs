//! Writes metrics in the text formats of Prometheus (0.0.4) and OpenMetrics (1.0.0), in chunks.
//!
//! `prometheus-client` writes OpenMetrics only, and formats the labels of each sample anew. Here a server's labels are
//! written once for all its samples, and no text of a hundred megabytes is in memory.

use std::fmt::Write as _;

use axum::body::Bytes;

use super::families::{Family, Kind};
use crate::instruments::{BOUNDS, HistogramReading};

/// Size from which a chunk is sent.
const CHUNK: usize = 256 << 10;

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus text 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The content type.
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The format that an `Accept` header prefers (RFC 9110); Prometheus text unless it prefers OpenMetrics 1.0.0.
    pub(super) fn negotiated(accept: &str) -> Self {
        let quality = |wanted: fn(&str, Option<&str>) -> bool| {
            let ranges = accept.split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let media_type = parts.next()?.to_ascii_lowercase();
                let parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
                let value = |name: &str| {
                    let found = parameters.iter().find(|(key, _)| key.trim().eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.trim().trim_matches('"'))
                };
                let quality = value("q").map_or(Some(1.0), |q| q.parse::<f64>().ok())?;
                wanted(&media_type, value("version")).then_some(quality)
            });
            ranges.fold(0.0, f64::max)
        };
        let open_metrics = quality(|media_type, version| {
            media_type == "application/openmetrics-text" && version.is_none_or(|version| version == "1.0.0")
        });
        let text = quality(|media_type, version| {
            media_type == "text/plain" && version.is_none_or(|version| version == "0.0.4")
        });
        if open_metrics > 0.0 && open_metrics >= text { Self::OpenMetrics } else { Self::Prometheus }
    }
}

/// A value of a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Whole(value.into())
    }
}

impl From<u8> for Value {
    fn from(value: u8) -> Self {
        Self::Whole(value.into())
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

/// The reader of the metrics has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reader of the metrics has gone")]
pub(super) struct ReaderGone;

/// Writes families one after the other.
pub(super) struct Writer<'a> {
    format: Format,
    text: String,
    send: &'a mut dyn FnMut(Bytes) -> Result<(), ReaderGone>,
}

impl<'a> Writer<'a> {
    /// A writer that sends chunks.
    pub(super) fn new(format: Format, send: &'a mut dyn FnMut(Bytes) -> Result<(), ReaderGone>) -> Self {
        Self { format, text: String::with_capacity(CHUNK + (4 << 10)), send }
    }

    /// Begins a family. Its samples follow, before those of another one.
    pub(super) fn family(&mut self, family: &'static Family) -> Samples<'_, 'a> {
        let Family { name, kind, unit, help } = family;
        let (described, word) = match (self.format, kind) {
            (_, Kind::Gauge) => ("", "gauge"),
            (_, Kind::Histogram) => ("", "histogram"),
            (Format::OpenMetrics, Kind::Counter) => ("", "counter"),
            (Format::OpenMetrics, Kind::Info) => ("", "info"),
            (Format::Prometheus, Kind::Counter) => (family.suffix(), "counter"),
            (Format::Prometheus, Kind::Info) => (family.suffix(), "gauge"),
        };
        // Writing to a string does not fail.
        let _ = write!(self.text, "# HELP {name}{described} {help}\n# TYPE {name}{described} {word}\n");
        if self.format == Format::OpenMetrics && !unit.is_empty() {
            let _ = writeln!(self.text, "# UNIT {name} {unit}");
        }
        Samples { writer: self, family, name: format!("{name}{}", family.suffix()) }
    }

    /// Ends the metrics.
    pub(super) fn finish(mut self) -> Result<(), ReaderGone> {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.send_chunk()
    }

    fn send_chunk(&mut self) -> Result<(), ReaderGone> {
        let text = std::mem::replace(&mut self.text, String::with_capacity(CHUNK + (4 << 10)));
        (self.send)(text.into())
    }
}

/// Writes the samples of a family.
pub(super) struct Samples<'w, 'a> {
    writer: &'w mut Writer<'a>,
    family: &'static Family,
    name: String,
}

impl Samples<'_, '_> {
    /// Writes a sample. Both parts are label pairs as [`labels`] writes them; either may be empty.
    pub(super) fn sample(
        &mut self,
        labels: &str,
        more: &str,
        value: impl Into<Value>,
    ) -> Result<(), ReaderGone> {
        self.line("", [labels, more, ""], value.into())
    }

    /// Writes the samples of a histogram.
    pub(super) fn histogram(&mut self, labels: &str, reading: HistogramReading) -> Result<(), ReaderGone> {
        debug_assert_eq!(self.family.kind, Kind::Histogram);
        let HistogramReading { up_to, count, sum } = reading;
        for (bound, number) in BOUNDS.iter().zip(up_to) {
            // OpenMetrics wants a decimal point: "1.0".
            self.line("_bucket", [labels, &format!("le=\"{bound:?}\""), ""], number.into())?;
        }
        self.line("_bucket", [labels, "le=\"+Inf\"", ""], count.into())?;
        self.line("_sum", [labels, "", ""], sum.into())?;
        self.line("_count", [labels, "", ""], count.into())
    }

    fn line(&mut self, suffix: &str, labels: [&str; 3], value: Value) -> Result<(), ReaderGone> {
        let text = &mut self.writer.text;
        text.push_str(&self.name);
        text.push_str(suffix);
        let mut begin = '{';
        for part in labels.into_iter().filter(|part| !part.is_empty()) {
            text.push(begin);
            text.push_str(part);
            begin = ',';
        }
        if begin == ',' {
            text.push('}');
        }
        let _ = match value {
            Value::Whole(value) => writeln!(text, " {value}"),
            Value::Real(value) if value.is_finite() => writeln!(text, " {value}"),
            Value::Real(value) if value.is_nan() => writeln!(text, " NaN"),
            Value::Real(value) => writeln!(text, " {}Inf", if value > 0.0 { '+' } else { '-' }),
        };
        if text.len() >= CHUNK { self.writer.send_chunk() } else { Ok(()) }
    }
}

/// Writes label pairs: `name="value",name="value"`. Pairs without a value are left out, which means the same.
pub(super) fn labels(pairs: &[(&str, &str)]) -> String {
    let mut text =
        String::with_capacity(pairs.iter().map(|(name, value)| name.len() + value.len() + 4).sum());
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push_str("=\"");
        for character in value.chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    text
}
