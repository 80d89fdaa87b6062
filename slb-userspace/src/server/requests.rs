//! Requests from the API to the event loop, which alone changes anything.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::oneshot;

use crate::instruments::INSTRUMENTS;
use slb_api::{
    changes::{ApiOverrideChange, ChangeResult},
    flows::Flushed,
    types::{Requester, Set},
};
use slb_config::{Config, DiagnosticReport, LoadedConfig, model::Document};
use slb_control::{flush::FlushFilter, overrides::NamedServer};

/// A request and the channel for its answer.
#[derive(Debug)]
pub enum Request {
    /// A command.
    ApiCommand {
        /// The command.
        order: ApiCommand,
        /// Who sent it.
        by: Requester,
        /// Channel for the answer.
        answer: oneshot::Sender<Result<ChangeResult, RequestError>>,
    },
    /// A flush of the flow table.
    Flush {
        /// Which entries.
        filter: FlushFilter,
        /// Whether they are erased or only counted.
        erases: bool,
        /// Who sent it.
        by: Requester,
        /// Channel for the answer, which follows after the flush.
        answer: oneshot::Sender<Result<Flushed, RequestError>>,
    },
    /// Validates a configuration against the running state.
    Validate {
        /// The configuration.
        config: Arc<Config>,
        /// Channel for the answer.
        answer: oneshot::Sender<ValidationResult>,
    },
}

/// Result of a validation.
#[derive(Debug)]
pub struct ValidationResult {
    /// The active configuration, for comparison.
    pub running: Arc<Config>,
    /// Warnings about missing resources, or why the configuration cannot become active.
    pub outcome: Result<Vec<String>, RequestError>,
    /// Overrides that would not apply.
    pub without_effect: Vec<ApiOverrideChange>,
}

/// A command.
#[derive(Debug)]
pub enum ApiCommand {
    /// Makes the file's configuration active.
    Reload {
        /// The configuration.
        loaded: Box<LoadedConfig>,
    },
    /// Makes another configuration active.
    Apply {
        /// The configuration.
        loaded: Box<LoadedConfig>,
        /// Time within which it must be confirmed; otherwise it is rolled back.
        confirm_within: Option<Duration>,
    },
    /// Makes a changed document of the API active, and stores it.
    Edit {
        /// The configuration with the changed document.
        loaded: Box<LoadedConfig>,
        /// The document that was changed.
        base: Option<Document>,
    },
    /// Confirms the configuration that would be rolled back.
    Confirm,
    /// Sets or resets overrides of servers.
    Set {
        /// The servers.
        servers: Vec<NamedServer>,
        /// The change.
        set: Set,
        /// Even if a listener is left without a server that receives new flows.
        force: bool,
    },
}

impl ApiCommand {
    /// The command's name, for the log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Reload { .. } => "reload",
            Self::Apply { .. } => "apply",
            Self::Edit { .. } => "edit",
            Self::Confirm => "confirm",
            Self::Set { .. } => "server",
        }
    }
}

/// Why a command changed nothing. The text says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestError {
    /// The request is invalid.
    Invalid(String),
    /// The current state does not allow it.
    Conflict(String),
    /// It was valid and failed.
    Failed(String),
    /// Another change came first. The request is to be made again, from the documents as they are then.
    Stale,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(text) | Self::Conflict(text) | Self::Failed(text) => f.write_str(text),
            Self::Stale => f.write_str("other changes came first for too long: try again, or make several changes at once (POST /v1/batch)"),
        }
    }
}

/// Logs a refused command with its sender.
pub fn log_refused(what: &str, by: &Requester, refused: &RequestError) {
    INSTRUMENTS.command(what, false);
    let Requester { uid, user, pid } = by;
    tracing::warn!(what, uid, user, pid, "refused: {refused}");
}

/// Combines the warnings of a configuration with those about missing resources.
pub fn all_warnings(warnings: &DiagnosticReport, absent: impl IntoIterator<Item = String>) -> String {
    let of_text = Some(warnings.to_string()).filter(|text| !text.is_empty());
    of_text.into_iter().chain(absent).collect::<Vec<_>>().join("\n\n")
}
