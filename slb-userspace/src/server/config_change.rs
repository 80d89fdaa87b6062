//! Changes of the configuration, and how each is made from the active configuration.

use std::time::Duration;

use super::{
    loader::{LoadPermit, Loader},
    objects::edits::Edits,
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

    /// Makes the configuration from the active one.
    ///
    /// # Errors
    /// It is invalid.
    pub(super) async fn prepare(
        &self,
        loader: &Loader,
        base: &Config,
    ) -> Result<(ApiCommand, LoadPermit), Problem> {
        match self {
            Self::Reload => {
                let (loaded, permit) = loader.file(base.documents.api.clone()).await?;
                Ok((ApiCommand::Reload { loaded: Box::new(loaded) }, permit))
            }
            Self::Apply { name, text, confirm_within } => {
                let (loaded, permit) = loader.text(name.as_deref(), text, base.documents.api.clone()).await?;
                let confirm_within = *confirm_within;
                Ok((ApiCommand::Apply { loaded: Box::new(loaded), confirm_within }, permit))
            }
            Self::Edit(edits) => {
                let (loaded, permit) = edits.load(loader, base).await?;
                Ok((ApiCommand::Edit { loaded: Box::new(loaded), base: base.documents.api.clone() }, permit))
            }
        }
    }
}
