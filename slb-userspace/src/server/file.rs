//! Compares the daemon's file with the active configuration.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use slb_config as config;
use slb_config::{
    Config,
    model::{Document, Documents},
};

/// A file, and its content when it was last read.
pub(super) struct ConfigFile {
    path: PathBuf,
    /// Seed for a configuration without `hash_seed`.
    seed: u64,
    read: Mutex<Option<(Stamp, Option<Document>, Content)>>,
}

/// Identifies a version of a file.
type Stamp = (u64, u64, i64, i64, u64, u32);
/// A configuration, or why the file has none.
type Content = Result<Arc<Config>, String>;

impl ConfigFile {
    pub(super) fn new(path: PathBuf, seed: u64) -> Self {
        Self { path, seed, read: Mutex::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How the file differs from the active configuration; `None` if they are equal.
    pub(super) fn difference(&self, running: &Config) -> Option<String> {
        match self.content(running.documents.api.as_ref()) {
            Ok(config) if *config == *running => None,
            Ok(_) => Some("differs".to_owned()),
            Err(why) => Some(why),
        }
    }

    /// Reads the file only if it or the document of the API has changed, because it may be large.
    fn content(&self, api: Option<&Document>) -> Content {
        let found = fs::metadata(&self.path).map_err(|error| format!("cannot be read: {error}"))?;
        // Reading a pipe would block.
        if !found.is_file() {
            return Err("is not a regular file, and cannot be read again".to_owned());
        }
        let stamp = (found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.size(), found.mode());
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, with, content)) = &*read
            && *known == stamp
            && with.as_ref() == api
        {
            return content.clone();
        }
        let content = config::text(&self.path)
            .map(|text| Document::new(&self.path.display().to_string(), &text))
            .and_then(|file| config::parse_documents(Documents { file, api: api.cloned() }))
            .map(|loaded| {
                let mut config = loaded.config;
                config.daemon.hash_seed.get_or_insert(self.seed);
                Arc::new(config)
            })
            .map_err(|_| "cannot be used: `slbd check` says why".to_owned());
        *read = Some((stamp, api.cloned(), content.clone()));
        content
    }
}
