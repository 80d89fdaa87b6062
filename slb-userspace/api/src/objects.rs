//! Objects of the configuration as resources.
//!
//! An object has the keys of its table in the configuration file, its `id`, and its `source`: `file` or `api`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObjectPage {
    /// The objects, in the order of their ids.
    pub items: Vec<Value>,
    /// `after` for the next page; `null` on the last one.
    pub next: Option<String>,
}

/// Changes that are made together: all or none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// The changes, in this order.
    pub operations: Vec<BatchOperation>,
}

/// A change of an object. `path` is that of the object, as in `/v1/server-groups/web`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "lowercase", deny_unknown_fields)]
pub enum BatchOperation {
    /// It is made. It must not exist.
    Create {
        /// Path of the object.
        path: String,
        /// The object.
        value: Value,
    },
    /// It is made, or replaced as a whole.
    Put {
        /// Path of the object.
        path: String,
        /// The object.
        value: Value,
        /// Entity tag that it must have.
        #[serde(default)]
        if_match: Option<String>,
    },
    /// Its keys are replaced by those of the value; `null` removes a key (RFC 7396).
    Patch {
        /// Path of the object.
        path: String,
        /// The keys that change.
        value: Value,
        /// Entity tag that it must have.
        #[serde(default)]
        if_match: Option<String>,
    },
    /// It is removed.
    Delete {
        /// Path of the object.
        path: String,
        /// Entity tag that it must have.
        #[serde(default)]
        if_match: Option<String>,
    },
}
