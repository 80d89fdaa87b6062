//! Values of fields, and how they are made from the model.

use std::{
    fmt::{self, Debug, Display},
    path::Path,
    time::Duration,
};

use crate::field::OFF;

/// A field's value.
///
/// All but [`Value::Absent`] are as the configuration file has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Value {
    /// The file need not have the setting, or must not.
    #[default]
    Absent,
    /// Yes or no.
    Boolean(bool),
    /// A number.
    Number(u64),
    /// A text. A duration is one, as in `300s`.
    Text(String),
    /// Several values. The order is part of the value.
    List(Vec<Value>),
}

/// The fields of an object. The paths are those of the keys in the file, below the object's table, and the same for all
/// objects of a kind.
pub(super) type Fields = Vec<(&'static str, Value)>;

impl Value {
    /// The values of a list; none if it is no list.
    pub(super) fn items(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("none"),
            Self::Boolean(boolean) => write!(f, "{boolean}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
            Self::List(items) => {
                f.write_str(&items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

pub(super) fn or_absent<T>(value: Option<T>, of: impl Fn(T) -> Value) -> Value {
    value.map_or(Value::Absent, of)
}

pub(super) fn number(number: impl Into<u64>) -> Value {
    Value::Number(number.into())
}

pub(super) fn text(value: impl Display) -> Value {
    Value::Text(value.to_string())
}

/// A whole number of seconds or milliseconds, which the file's parser takes: `300s`, `1500ms`.
pub(super) fn duration(time: &Duration) -> Value {
    let milliseconds = time.as_millis();
    Value::Text(if milliseconds.is_multiple_of(1000) {
        format!("{}s", time.as_secs())
    } else {
        format!("{milliseconds}ms")
    })
}

/// A duration, or `off`.
pub(super) fn duration_or_off(time: Option<&Duration>) -> Value {
    time.map_or_else(|| text(OFF), duration)
}

pub(super) fn path(path: &Path) -> Value {
    text(path.display())
}

/// A variant's name, as in the file.
pub(super) fn word(value: &impl Debug) -> Value {
    Value::Text(format!("{value:?}").to_lowercase())
}

/// A list whose order has no meaning.
pub(super) fn set<T: Ord + Display>(items: &[T]) -> Value {
    let mut items: Vec<_> = items.iter().collect();
    items.sort();
    Value::List(items.into_iter().map(text).collect())
}
