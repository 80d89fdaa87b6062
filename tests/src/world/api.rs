//! Requests to the API of the daemon.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use slb_api::client;
use tokio::runtime;

use super::World;

/// An answer of the API.
#[derive(Debug, Clone)]
pub struct ApiAnswer {
    /// HTTP status.
    pub status: u16,
    /// Entity tag of the object.
    pub tag: Option<String>,
    /// The document; `null` for an empty body, and text as a string.
    pub body: Value,
}

impl ApiAnswer {
    /// Fails unless the answer has this status.
    ///
    /// # Errors
    /// The answer, if it has another status.
    pub fn expect(self, status: u16) -> Result<Self> {
        ensure!(self.status == status, "{status} was expected: {} {}", self.status, self.body);
        Ok(self)
    }
}

impl World {
    /// Sends a request to the daemon.
    ///
    /// # Errors
    /// No daemon answers.
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Result<ApiAnswer> {
        self.api_with(method, path, &[], body)
    }

    /// As [`Self::api`], with headers.
    ///
    /// # Errors
    /// No daemon answers.
    pub fn api_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<ApiAnswer> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let answer = runtime.block_on(client::send(&self.plan.socket, method, path, headers, body));
        let answer = answer.with_context(|| format!("{method} {path}"))?;
        let tag = answer.headers.get("etag").and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        let text = || Value::String(String::from_utf8_lossy(&answer.body).into_owned());
        let body = serde_json::from_slice(&answer.body).unwrap_or_else(|_| text());
        Ok(ApiAnswer { status: answer.status.as_u16(), tag, body })
    }
}
