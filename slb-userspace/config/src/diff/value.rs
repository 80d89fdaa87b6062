//! Values of fields, and how they are made from the model.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug, Display},
    path::Path,
    time::Duration,
};

/// A field's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Not set, or off.
    Absent,
    /// A number.
    Number(u64),
    /// A text. A duration is one, as in `300s`.
    Text(String),
    /// Several values. The order is part of the value.
    List(Vec<Value>),
    /// Settings that belong together.
    Map(BTreeMap<String, Value>),
}

/// The fields of an object. The paths are the same for all objects of a kind.
pub(super) type Fields = Vec<(&'static str, Value)>;

impl Value {
    /// The value of a setting in a map; [`Value::Absent`] if there is none.
    pub(super) fn get(&self, setting: &str) -> &Self {
        match self {
            Self::Map(settings) => settings.get(setting).unwrap_or(&Self::Absent),
            _ => &Self::Absent,
        }
    }

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
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
            Self::List(items) => {
                f.write_str(&items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
            }
            Self::Map(settings) => {
                let settings = settings.iter().map(|(setting, value)| format!("{setting} {value}"));
                f.write_str(&settings.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// Settings by name, without those that are absent.
pub(super) fn map(settings: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let present = settings.into_iter().filter(|(_, value)| *value != Value::Absent);
    Value::Map(present.map(|(setting, value)| (setting.to_owned(), value)).collect())
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
