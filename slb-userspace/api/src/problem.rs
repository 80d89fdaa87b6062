//! Problem documents (RFC 9457).

use serde::{Deserialize, Serialize};

/// Why a request was refused. Its `type` is `about:blank`: the status says what kind of problem it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemDocument {
    /// The status in words.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What is wrong, and what to do, in words.
    pub detail: String,
    /// The values that are wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// A value that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// Path of the key in the request; `null` if the problem is in the configuration file.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub advice: String,
}
