//! Changes of objects that are made together: all or none.

use std::{fmt::Display, sync::Arc};

use axum::http::StatusCode;
use tokio::task::spawn_blocking;

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
    /// Entity tags of which the object must have one; `*` for any.
    pub(super) if_match: Option<String>,
    /// Whether the object must not exist.
    pub(super) must_be_new: bool,
}

/// Changes, in this order.
#[derive(Debug, Clone)]
pub(in crate::server) struct Edits(pub(super) Vec<Edit>);

/// What became of a single object.
#[derive(Debug, Clone, Default)]
pub(in crate::server) struct EditOutcome {
    /// Whether it did not exist before.
    pub(in crate::server) is_new: bool,
    /// Its entity tag; `None` if it was removed.
    pub(in crate::server) tag: Option<String>,
}

/// The configuration that changes lead to.
pub(in crate::server) struct EditedConfig {
    pub(in crate::server) loaded: LoadedConfig,
    pub(in crate::server) permit: LoadPermit,
    pub(in crate::server) outcome: EditOutcome,
}

/// The documents that changes lead to.
struct EditedDocuments {
    documents: Documents,
    /// Place of the object, if there is only one, in the document of the API.
    place: Option<String>,
    is_new: bool,
}

impl Edits {
    /// Loads the configuration that results from the active one; `None` if it is the same.
    ///
    /// # Errors
    /// An object cannot be changed, or the result breaks a rule.
    pub(in crate::server) async fn load(
        &self,
        loader: &Loader,
        base: &Arc<Config>,
    ) -> Result<Option<EditedConfig>, Problem> {
        let (edits, base) = (self.clone(), Arc::clone(base));
        let edited = spawn_blocking(move || edits.edited(&base)).await.map_err(|error| failed(&error))?;
        let Some(EditedDocuments { documents, place, is_new }) = edited? else { return Ok(None) };
        // The fields of a single object are below its own place.
        let field = move |key: String| {
            let below = place.as_deref().and_then(|place| key.strip_prefix(place));
            below.map_or(key.clone(), |below| below.trim_start_matches('.').to_owned())
        };
        let loaded = loader.documents(documents, move |error| Problem::of_config(&error, field)).await;
        let (loaded, permit) = loaded?;
        let tag = match &self.0[..] {
            [edit] => Objects::of(&loaded.config).get(&edit.path).map(|object| entity_tag(&object)),
            _ => None,
        };
        Ok(Some(EditedConfig { loaded, permit, outcome: EditOutcome { is_new, tag } }))
    }

    fn edited(&self, base: &Config) -> Result<Option<EditedDocuments>, Problem> {
        let before = ApiDocument::parse(base.documents.api.as_ref()).map_err(|error| failed(&error))?;
        let mut after = before.clone();
        let objects = Objects::of(base);
        for edit in &self.0 {
            edit.check_preconditions(&objects)?;
            edit.refuse_of_file(&objects)?;
            after.edit(&edit.path, &edit.operation).map_err(|error| problem(&error))?;
        }
        if after.objects == before.objects {
            return Ok(None);
        }
        after.revision += 1;
        let document = after.render(&name(&base.daemon.state_dir)).map_err(|error| failed(&error))?;
        let documents = Documents { file: base.documents.file.clone(), api: Some(document) };
        let (place, is_new) = match &self.0[..] {
            [edit] => (after.place(&edit.path), before.place(&edit.path).is_none()),
            _ => (None, false),
        };
        Ok(Some(EditedDocuments { documents, place, is_new }))
    }
}

fn failed(error: &dyn Display) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}: nothing was changed"))
}

impl Edit {
    /// Checks `If-Match` and `If-None-Match` (RFC 9110, 13.1).
    fn check_preconditions(&self, objects: &Objects<'_>) -> Result<(), Problem> {
        let Self { path, if_match, must_be_new, .. } = self;
        if if_match.is_none() && !must_be_new {
            return Ok(());
        }
        let found = objects.get(path).map(|object| entity_tag(&object));
        let refused = |text| Err(Problem::new(StatusCode::PRECONDITION_FAILED, text));
        let words = path.words();
        let Some(found) = found else {
            return if if_match.is_some() {
                refused(format!("there is no {words} any more"))
            } else {
                Ok(())
            };
        };
        if *must_be_new {
            return refused(format!("{words} exists already"));
        }
        let mut expected = if_match.iter().flat_map(|tags| tags.split(',')).map(str::trim);
        if expected.any(|expected| expected == "*" || expected == found) {
            return Ok(());
        }
        refused(format!("{words} has changed: its entity tag is {found} now; read it again"))
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
