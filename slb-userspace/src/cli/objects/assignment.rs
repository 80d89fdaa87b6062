//! Settings on the command line: `KEY=VALUE`.

use std::str::FromStr;

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

/// Keys whose value is a list of texts: commas separate the items.
const LISTS: [&str; 2] = ["addresses", "entries"];

/// A setting.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// Path of the key, as in `health_check.kind`.
    path: Vec<String>,
    /// The value; `null` for the default.
    value: Value,
}

impl FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| format!("`{text}` is no setting: write it as KEY=VALUE, as in port=80"))?;
        let path: Vec<_> = key.split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            return Err(format!("`{key}` is no key: write it as in health_check.kind=http"));
        }
        Ok(Self { value: parsed(key, value)?, path })
    }
}

/// A value: a number, `true`, `false`, a list or table as in the configuration file, or else a text.
fn parsed(key: &str, text: &str) -> Result<Value, String> {
    if text.is_empty() {
        return Ok(Value::Null);
    }
    if text.starts_with(['[', '{', '"', '\'']) && !LISTS.contains(&key) || text.starts_with("[\"") {
        let table: toml::Table =
            format!("value = {text}").parse().map_err(|error: toml::de::Error| error.message().to_owned())?;
        let value = table.get("value").map(serde_json::to_value);
        return value.and_then(Result::ok).ok_or_else(|| format!("`{text}` is no value"));
    }
    if LISTS.contains(&key) {
        return Ok(text.split(',').map(|item| json!(item.trim())).collect());
    }
    Ok(match text {
        "true" => json!(true),
        "false" => json!(false),
        _ => text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number)),
    })
}

/// An object with these settings.
///
/// # Errors
/// A key is set twice, or is both a value and a table.
pub(super) fn merged(mut object: Map<String, Value>, settings: Vec<Assignment>) -> Result<Value> {
    for Assignment { path, value } in settings {
        let key = path.join(".");
        let mut table = &mut object;
        let Some((last, tables)) = path.split_last() else { continue };
        for name in tables {
            let inner = table.entry(name.clone()).or_insert_with(|| json!({}));
            let Some(inner) = inner.as_object_mut() else { bail!("`{key}`: `{name}` is set as a value too") };
            table = inner;
        }
        if table.insert(last.clone(), value).is_some() {
            bail!("`{key}` is set twice");
        }
    }
    Ok(Value::Object(object))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(settings: &[&str]) -> Result<Value, String> {
        let settings: Result<Vec<Assignment>, _> = settings.iter().map(|text| text.parse()).collect();
        merged(Map::new(), settings?).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_have_the_types_of_the_file() {
        let found = object(&[
            "port=80",
            "port_text=\"80\"",
            "toa=true",
            "drain_timeout=60s",
            "addresses=192.0.2.10, 2001:db8::10",
            "slow_start=",
            "health_check.kind=http",
            "health_check.path=/a=b",
            "quic={ server_id_length = 2 }",
        ]);
        let expected = json!({
            "port": 80, "port_text": "80", "toa": true, "drain_timeout": "60s",
            "addresses": ["192.0.2.10", "2001:db8::10"], "slow_start": null,
            "health_check": { "kind": "http", "path": "/a=b" }, "quic": { "server_id_length": 2 },
        });
        assert_eq!(found.unwrap(), expected);
    }

    #[test]
    fn settings_that_are_none_are_refused() {
        for (settings, words) in [
            (&["port"][..], "KEY=VALUE"),
            (&["=1"], "no key"),
            (&["a..b=1"], "no key"),
            (&["port=80", "port=81"], "set twice"),
            (&["quic=1", "quic.server_id_length=2"], "as a value too"),
            (&["quic={ a"], "inline table"),
        ] {
            let said = object(settings).unwrap_err();
            assert!(said.contains(words), "{settings:?}: {said}");
        }
    }
}
