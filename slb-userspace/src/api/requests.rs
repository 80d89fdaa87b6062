//! What the API asks the control loop for: it alone changes anything.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{
    flows::Flushed,
    types::{By, Changed, Set},
};
use crate::{
    config::{Config, Loaded, Report},
    control::{flush::Filter, overrides::Place},
};

/// Something that is asked, and where the answer goes.
#[derive(Debug)]
pub enum Request {
    /// To change something.
    Order {
        /// What.
        order: Order,
        /// Who asks.
        by: By,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<Changed, Refused>>,
    },
    /// To erase entries of the flow table.
    Flush {
        /// Which.
        filter: Filter,
        /// Whether they are erased, or counted only.
        erases: bool,
        /// Who asks.
        by: By,
        /// Where the answer goes, once it is done.
        answer: oneshot::Sender<Result<Flushed, Refused>>,
    },
    /// Whether a configuration could become the active one.
    Examine {
        /// The configuration.
        config: Arc<Config>,
        /// Where the answer goes.
        answer: oneshot::Sender<Examined>,
    },
}

/// What the control loop says of a configuration.
#[derive(Debug)]
pub struct Examined {
    /// The running one, to compare it with.
    pub running: Arc<Config>,
    /// What it names and is not there, or why it cannot become the active one.
    pub outcome: Result<Vec<String>, Refused>,
}

/// What is to be changed.
#[derive(Debug)]
pub enum Order {
    /// To make what stands in the file the active configuration.
    Reload {
        /// The configuration.
        loaded: Box<Loaded>,
    },
    /// To put a configuration in force.
    Apply {
        /// The configuration.
        loaded: Box<Loaded>,
        /// Until when it must be confirmed, or it falls back.
        confirm_within: Option<Duration>,
    },
    /// To keep the configuration that would fall back.
    Confirm,
    /// To set something for servers.
    Set {
        /// Which.
        places: Vec<Place>,
        /// What.
        set: Set,
        /// Even if a listener is left without a server that receives new flows.
        force: bool,
    },
}

impl Order {
    /// Its name, for the log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Reload { .. } => "reload",
            Self::Apply { .. } => "apply",
            Self::Confirm => "confirm",
            Self::Set { .. } => "server",
        }
    }
}

/// Why nothing was changed. The text says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// What is wanted cannot be.
    Unfit(String),
    /// It cannot be now.
    Conflict(String),
    /// It should be and could not be done.
    Failed(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unfit(text) | Self::Conflict(text) | Self::Failed(text)) = self;
        f.write_str(text)
    }
}

/// Writes to the log what was refused, and to whom.
pub fn log_refused(what: &str, by: &By, refused: &Refused) {
    let By { uid, user, pid } = by;
    tracing::warn!(what, uid, user, pid, "refused: {refused}");
}

/// What the author of a configuration should know of it, and of what it names and is not there.
pub fn told(warnings: &Report, absent: impl IntoIterator<Item = String>) -> String {
    let of_text = Some(warnings.to_string()).filter(|text| !text.is_empty());
    of_text.into_iter().chain(absent).collect::<Vec<_>>().join("\n\n")
}
