//! What the API asks the control loop for: it alone changes anything.

use std::{fmt, time::Duration};

use tokio::sync::oneshot;

use super::types::{By, Changed, Differences, Set};
use crate::control::overrides::Place;

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
    /// What a configuration would change.
    Differences {
        /// Name of the text, for messages.
        name: Option<String>,
        /// The configuration; the daemon's own file if it is missing.
        text: Option<String>,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<Differences, Refused>>,
    },
}

/// What is to be changed.
#[derive(Debug)]
pub enum Order {
    /// To read the file again.
    Reload,
    /// To put a configuration in force.
    Apply {
        /// Name of the text, for messages.
        name: String,
        /// The configuration.
        text: String,
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
    },
}

impl Order {
    /// Its name, for the log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Reload => "reload",
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
