//! Values as serde reads them. No type is refused here for which a later check has a better message.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{
        self, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};
use toml::Spanned;

/// An integer, a string, a boolean, or a list of them where several values are allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scalar {
    /// An integer. Values beyond `i128` become its maximum.
    Integer(i128),
    /// A string.
    Text(String),
    /// A boolean.
    Boolean(bool),
    /// A list.
    List(Vec<Spanned<Scalar>>),
    /// Any other type, by its name for messages.
    Other(&'static str),
}

/// A list of values. Other types are refused.
#[derive(Debug)]
pub(crate) struct List<T>(pub(crate) Vec<T>);

/// A table of named fields. Other types are refused: serde alone would accept a list of the fields in order.
#[derive(Debug)]
pub(crate) struct Fields<T>(pub(crate) T);

/// A table of named fields, or a value.
#[derive(Debug)]
pub(crate) enum ScalarOr<T> {
    Scalar(Scalar),
    Table(T),
}

impl Scalar {
    /// The type's name, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Integer(_) => "an integer",
            Self::Text(_) => "a string",
            Self::Boolean(_) => "a boolean",
            Self::List(_) => "a list",
            Self::Other(kind) => kind,
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarVisitor;
        impl<'de> Visitor<'de> for ScalarVisitor {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar::Integer(value.into()))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar::Integer(value.into()))
            }

            fn visit_i128<E: de::Error>(self, value: i128) -> Result<Scalar, E> {
                Ok(Scalar::Integer(value))
            }

            fn visit_u128<E: de::Error>(self, value: u128) -> Result<Scalar, E> {
                Ok(Scalar::Integer(value.try_into().unwrap_or(i128::MAX)))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(value.to_owned()))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar::Boolean(value))
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Scalar, E> {
                Ok(Scalar::Other("a number with a fraction"))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Scalar, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = list.next_element()? {
                    values.push(value);
                }
                Ok(Scalar::List(values))
            }

            // The toml crate presents dates as maps.
            fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Scalar, A::Error> {
                while table.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other("a table or date"))
            }
        }
        deserializer.deserialize_any(ScalarVisitor)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for ScalarOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EitherVisitor<T>(PhantomData<T>);

        /// Reads a value as a [`Scalar`].
        fn scalar<'de, T, E: de::Error>(value: impl IntoDeserializer<'de, E>) -> Result<ScalarOr<T>, E> {
            Scalar::deserialize(value.into_deserializer()).map(ScalarOr::Scalar)
        }

        impl<'de, T: Deserialize<'de>> Visitor<'de> for EitherVisitor<T> {
            type Value = ScalarOr<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or a table")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
                scalar(value)
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
                scalar(value)
            }

            fn visit_i128<E: de::Error>(self, value: i128) -> Result<Self::Value, E> {
                scalar(value)
            }

            fn visit_u128<E: de::Error>(self, value: u128) -> Result<Self::Value, E> {
                scalar(value)
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
                scalar(value)
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Self::Value, E> {
                scalar(value)
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
                scalar(value)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                Scalar::deserialize(SeqAccessDeserializer::new(list)).map(ScalarOr::Scalar)
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(table)).map(ScalarOr::Table)
            }
        }
        deserializer.deserialize_any(EitherVisitor(PhantomData))
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<List<T>, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = list.next_element()? {
                    values.push(value);
                }
                Ok(List(values))
            }
        }
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Fields<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for FieldsVisitor<T> {
            type Value = Fields<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Fields<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(table)).map(Fields)
            }
        }
        deserializer.deserialize_any(FieldsVisitor(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Holder {
        value: Scalar,
    }

    fn scalar(text: &str) -> Scalar {
        toml::from_str::<Holder>(&format!("value = {text}")).expect("TOML").value
    }

    #[test]
    fn scalar_names_every_kind_of_value() {
        assert_eq!(scalar("7"), Scalar::Integer(7));
        assert_eq!(scalar("-1"), Scalar::Integer(-1));
        assert_eq!(scalar("18446744073709551615"), Scalar::Integer(u64::MAX.into()));
        assert_eq!(scalar("99999999999999999999"), Scalar::Integer(99_999_999_999_999_999_999));
        assert_eq!(scalar("'x'"), Scalar::Text("x".into()));
        assert_eq!(scalar("true").kind(), "a boolean");
        assert_eq!(scalar("1.5").kind(), "a number with a fraction");
        assert_eq!(scalar("[1, [2]]").kind(), "a list");
        assert_eq!(scalar("{ a = { b = 1 } }").kind(), "a table or date");
        assert_eq!(scalar("2024-01-01").kind(), "a table or date");
    }

    #[test]
    fn list_in_place_of_a_table_is_refused() {
        assert!(toml::from_str::<Fields<Holder>>("value = 1").is_ok());
        #[derive(Debug, Deserialize)]
        struct Outer {
            #[expect(dead_code, reason = "read by serde only")]
            inner: Fields<Holder>,
        }
        let error = toml::from_str::<Outer>("inner = [1]").expect_err("a list");
        assert!(error.message().contains("expected a table"), "{error}");
    }
}
