//! The daemon's file, compared with what is running.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use crate::config::{self, Config};

/// A file, and what stood in it when it was read last.
pub(super) struct File {
    path: PathBuf,
    /// Of a configuration that names none.
    seed: u64,
    read: Mutex<Option<(Stamp, Content)>>,
}

/// What tells one version of a file from another.
type Stamp = (u64, u64, i64, i64, u64, u32);
/// A configuration, or why there is none.
type Content = Result<Arc<Config>, String>;

impl File {
    pub(super) fn new(path: PathBuf, seed: u64) -> Self {
        Self { path, seed, read: Mutex::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How the file differs from what is running, if it does.
    pub(super) fn difference(&self, running: &Config) -> Option<String> {
        match self.content() {
            Ok(config) if *config == *running => None,
            Ok(_) => Some("differs".to_owned()),
            Err(why) => Some(why),
        }
    }

    /// Read again only where it has changed: it may be large.
    fn content(&self) -> Content {
        let found = fs::metadata(&self.path).map_err(|error| format!("cannot be read: {error}"))?;
        // A pipe would have to be waited for.
        if !found.is_file() {
            return Err("is not a regular file, and cannot be read again".to_owned());
        }
        let stamp = (found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.size(), found.mode());
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, content)) = &*read
            && *known == stamp
        {
            return content.clone();
        }
        let content = config::load(&self.path)
            .map(|loaded| {
                let mut config = loaded.config;
                config.daemon.hash_seed.get_or_insert(self.seed);
                Arc::new(config)
            })
            .map_err(|_| "cannot be used: `slbd check` says why".to_owned());
        *read = Some((stamp, content.clone()));
        content
    }
}
