//! Changes of objects that are made together: all or none.

use axum::http::StatusCode;

use super::render::{Objects, entity_tag};
use crate::{
    server::{
        loader::{LoadPermit, Loader},
        problem::Problem,
    },
    sources::{
        api_document::{ApiDocument, name},
        edit::{EditError, ObjectPath, Operation},
    },
};
use slb_config::{
    Config, LoadedConfig,
    model::{Documents, Source},
};

/// A change of one object.
#[derive(Debug, Clone)]
pub(in crate::server) struct Edit {
    pub(super) path: ObjectPath,
    pub(super) operation: Operation,
    /// Entity tag that the object must have; `*` for any.
    pub(super) if_match: Option<String>,
}

/// Changes, in this order.
#[derive(Debug, Clone)]
pub(in crate::server) struct Edits(pub(super) Vec<Edit>);

impl Edits {
    /// Loads the configuration that results from the active one.
    ///
    /// # Errors
    /// An object cannot be changed, or the result breaks a rule.
    pub(in crate::server) async fn load(
        &self,
        loader: &Loader,
        base: &Config,
    ) -> Result<(LoadedConfig, LoadPermit), Problem> {
        let documents = &base.documents;
        let failed = |error: anyhow::Error| {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}: nothing was changed"))
        };
        let mut document = ApiDocument::parse(documents.api.as_ref()).map_err(failed)?;
        let objects = Objects::of(base);
        for edit in &self.0 {
            edit.refuse_mismatch(&objects)?;
            edit.refuse_of_file(&objects)?;
            document.edit(&edit.path, &edit.operation).map_err(|error| problem(&error))?;
        }
        document.revision += 1;
        let file_name = name(&base.daemon.state_dir);
        let api = Some(document.render(&file_name).map_err(failed)?);
        // The paths of a single object are below its own place.
        let place = match &self.0[..] {
            [edit] => document.place(&edit.path),
            _ => None,
        };
        let field = move |key: String| {
            let below = place.as_deref().and_then(|place| key.strip_prefix(place));
            below.map_or(key.clone(), |below| below.trim_start_matches('.').to_owned())
        };
        let documents = Documents { file: documents.file.clone(), api };
        loader.documents(documents, move |error| Problem::of_config(&error, &field)).await
    }
}

impl Edit {
    fn refuse_mismatch(&self, objects: &Objects<'_>) -> Result<(), Problem> {
        let Some(expected) = &self.if_match else { return Ok(()) };
        let found = objects.get(&self.path).map(|object| entity_tag(&object));
        let matches = found.as_ref().is_some_and(|tag| {
            expected.split(',').map(str::trim).any(|expected| expected == "*" || expected == tag)
        });
        if matches {
            return Ok(());
        }
        let words = self.path.words();
        let text = match found {
            Some(tag) => format!("{words} has changed: its entity tag is {tag} now; read it again"),
            None => format!("there is no {words} any more"),
        };
        Err(Problem::new(StatusCode::PRECONDITION_FAILED, text))
    }

    fn refuse_of_file(&self, objects: &Objects<'_>) -> Result<(), Problem> {
        if objects.source(&self.path) != Some(Source::File) {
            return Ok(());
        }
        let text = format!(
            "{} is of source `file`: change it in the configuration file and reload; weights and admin states of its servers \
             can be set (`slb server`)",
            self.path.owner().words()
        );
        Err(Problem::new(StatusCode::CONFLICT, text))
    }
}

fn problem(error: &EditError) -> Problem {
    let status = match error {
        EditError::Missing(_) => StatusCode::NOT_FOUND,
        EditError::Exists(_) => StatusCode::CONFLICT,
        EditError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
    };
    Problem::new(status, error.to_string())
}
