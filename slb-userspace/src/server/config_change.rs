//! Changes of the configuration, and how each is made from the active configuration.

use std::{sync::Arc, time::Duration};

use super::{
    loader::{LoadPermit, Loader},
    objects::edits::{EditOutcome, EditedConfig, Edits},
    problem::Problem,
    requests::ApiCommand,
};
use slb_config::Config;

/// A change of the configuration.
pub(super) enum ConfigChange {
    /// The file as it is now.
    Reload,
    /// A text in place of the file.
    Apply { name: Option<String>, text: String, confirm_within: Option<Duration> },
    /// Changed objects of the API.
    Edit(Edits),
}

impl ConfigChange {
    /// The change's name, for the log.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::Apply { .. } => "apply",
            Self::Edit(_) => "edit",
        }
    }

    /// Makes the configuration from the active one; `None` if it is the same.
    ///
    /// # Errors
    /// It is invalid.
    pub(super) async fn prepare(
        &self,
        loader: &Loader,
        base: &Arc<Config>,
    ) -> Result<Option<PreparedChange>, Problem> {
        let api = base.documents.api.clone();
        let (order, permit, outcome) = match self {
            Self::Reload => {
                let (loaded, permit) = loader.file(api).await?;
                (ApiCommand::Reload { loaded: Box::new(loaded) }, permit, EditOutcome::default())
            }
            Self::Apply { name, text, confirm_within } => {
                let (loaded, permit) = loader.text(name.as_deref(), text, api).await?;
                let (loaded, confirm_within) = (Box::new(loaded), *confirm_within);
                (ApiCommand::Apply { loaded, confirm_within }, permit, EditOutcome::default())
            }
            Self::Edit(edits) => {
                let Some(edited) = edits.load(loader, base).await? else { return Ok(None) };
                let EditedConfig { loaded, permit, outcome } = edited;
                (ApiCommand::Edit { loaded: Box::new(loaded), base: api }, permit, outcome)
            }
        };
        Ok(Some(PreparedChange { order, permit, outcome }))
    }
}

/// A change for the event loop.
pub(super) struct PreparedChange {
    pub(super) order: ApiCommand,
    pub(super) permit: LoadPermit,
    pub(super) outcome: EditOutcome,
}
