//! Overrides: weights and admin states set at run time, in a file that outlives the daemon.
//!
//! The file is replaced as a whole by a rename, so it holds the state before or after a change, never a mixture. A file
//! that cannot be parsed stays as it is and is not used. Until it is moved away, no override can be set.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};

use crate::{
    advice::{Attempt, with_advice},
    server::{changes::overrides::override_change, override_keys::api_override},
    sources::api_document,
    state_file,
};
use slb_api::{
    changes::{ApiMissing, ApiOverrideChange, ApiOverrideEffect},
    types::{ApiOverride, Requester},
};
use slb_config::{Config, model::Document};
use slb_control::{
    model::OverrideKey,
    overrides::{NamedServer, Overrides, ServerOverride},
};

mod stored;

const FILE: &str = "overrides.json";

/// The overrides and their file.
pub(super) struct Store {
    directory: PathBuf,
    /// The lock on the directory, or why this daemon cannot use it.
    lock: Result<Flock<File>, String>,
    records: BTreeMap<OverrideKey, OverrideRecord>,
    settings: Overrides,
}

/// An override, with who set it and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OverrideRecord {
    pub(super) setting: ServerOverride,
    /// Who set it last.
    pub(super) by: Requester,
    /// Time of the last change, as in RFC 3339.
    pub(super) at: String,
}

impl OverrideRecord {
    /// The API's document, with the server as users name it.
    pub(super) fn document(&self, server: &NamedServer) -> ApiOverride {
        api_override(server, self.setting, self.by.clone(), self.at.clone())
    }
}

impl Store {
    /// Reads the overrides. If that fails, it logs the reason and there are no overrides.
    pub(super) fn open(directory: &Path) -> Self {
        let mut store = Self {
            directory: directory.to_owned(),
            lock: Err(String::new()),
            records: BTreeMap::new(),
            settings: Overrides::new(),
        };
        if let Err(why) = store.reopen() {
            tracing::error!("{why}; forwarding goes on by the configuration alone");
        }
        store
    }

    /// The overrides.
    pub(super) fn settings(&self) -> &Overrides {
        &self.settings
    }

    /// The overrides, with who set them and when.
    pub(super) fn records(&self) -> &BTreeMap<OverrideKey, OverrideRecord> {
        &self.records
    }

    /// The directory, if this daemon has locked it.
    pub(super) fn directory(&self) -> Option<&Path> {
        self.lock.is_ok().then_some(&self.directory)
    }

    /// Why no override can be set, if so.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.lock.as_ref().err().map(String::as_str)
    }

    /// Writes the changed overrides to the file, then uses them.
    ///
    /// # Errors
    /// The state directory cannot be used, or the file could not be written. Nothing has changed.
    pub(super) fn replace(
        &mut self,
        change: impl FnOnce(&mut BTreeMap<OverrideKey, OverrideRecord>),
    ) -> Result<()> {
        if self.lock.is_err() {
            // The obstacle may have been moved away.
            self.reopen().map_err(anyhow::Error::msg)?;
        }
        let mut records = self.records.clone();
        change(&mut records);
        if records != self.records {
            write(&self.directory, &records)?;
            self.take(records);
        }
        Ok(())
    }

    /// Checks that the document of the API is the one that the configuration was made from.
    ///
    /// # Errors
    /// Another daemon uses the state directory, or has changed the document.
    pub(super) fn expect_api_document(&self, document: Option<&Document>) -> Result<()> {
        let shown = api_document::name(&self.directory);
        match &self.lock {
            // Without the document nothing is at stake.
            Err(_) if document.is_none() => Ok(()),
            Err(why) => bail!("{shown} may be another slbd's: {why}"),
            Ok(_) => {
                let found = api_document::read(&self.directory)?;
                ensure!(found.as_ref() == document, "another process has changed {shown}: start slbd again");
                Ok(())
            }
        }
    }

    /// Replaces the document of the API `before` by another one, or removes it if there is none.
    ///
    /// # Errors
    /// The state directory cannot be used, or the file could not be written. It is as before.
    pub(super) fn write_api_document(
        &mut self,
        document: Option<&Document>,
        before: Option<&Document>,
    ) -> Result<()> {
        if self.lock.is_err() {
            self.reopen().map_err(anyhow::Error::msg)?;
        }
        self.expect_api_document(before)?;
        api_document::write(&self.directory, document).inspect_err(|_| self.restore_api_document(before))
    }

    /// Writes the document of the API again that a failed change has replaced.
    pub(super) fn restore_api_document(&self, before: Option<&Document>) {
        if let Err(error) = api_document::write(&self.directory, before) {
            tracing::error!(
                error = format!("{error:#}"),
                "the document of the API may have a change that is not active: the next start would use it"
            );
        }
    }

    /// The overrides that would not apply with this configuration. `names` has the names of their groups.
    pub(super) fn without_effect(&self, config: &Config, names: &Config) -> Vec<ApiOverrideChange> {
        let lost = self.records.iter().filter(|(key, _)| !key.exists(config) && key.exists(names));
        lost.map(|(key, record)| {
            let (effect, missing) = (ApiOverrideEffect::DoesNotApply, missing(key, config));
            override_change(key, &key.named([names]), record.setting, effect, Some(missing))
        })
        .collect()
    }

    /// Deletes overrides of servers that none of these configurations has. Returns them; `names` has the names of
    /// groups that are gone.
    pub(super) fn prune(&mut self, configs: &[&Config], names: &Config) -> Vec<ApiOverrideChange> {
        let is_gone = |key: &&OverrideKey| !configs.iter().any(|config| key.exists(config));
        let gone: Vec<_> = self.records.keys().filter(is_gone).cloned().collect();
        let (Some(active), false) = (configs.first(), gone.is_empty()) else { return Vec::new() };
        let ended = gone.iter().map(|key| {
            let (named, setting) = (key.named([*active, names]), self.records[key].setting);
            override_change(key, &named, setting, ApiOverrideEffect::Ends, Some(missing(key, active)))
        });
        let ended = ended.collect();
        if let Err(error) = self.replace(|records| records.retain(|key, _| !gone.contains(key))) {
            tracing::warn!(error = format!("{error:#}"), "what has ended is still written");
        }
        self.records.retain(|key, _| !gone.contains(key));
        self.settings.retain(|key, _| !gone.contains(key));
        ended
    }

    fn take(&mut self, records: BTreeMap<OverrideKey, OverrideRecord>) {
        self.settings = records.iter().map(|(key, record)| (key.clone(), record.setting)).collect();
        self.records = records;
    }

    fn reopen(&mut self) -> Result<(), String> {
        let opened = lock(&self.directory).and_then(|lock| Ok((lock, read(&self.directory)?)));
        match opened {
            Ok((lock, records)) => {
                self.lock = Ok(lock);
                self.take(records);
                Ok(())
            }
            Err(error) => {
                let why = format!("{error:#}");
                self.lock = Err(why.clone());
                Err(why)
            }
        }
    }
}

/// What a configuration does not have of an entry.
fn missing(key: &OverrideKey, config: &Config) -> ApiMissing {
    if key.entries(config).is_some() { ApiMissing::Server } else { ApiMissing::Group }
}

/// Creates the directory if it is missing, and locks it.
fn lock(directory: &Path) -> Result<Flock<File>> {
    let shown = directory.display();
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| with_advice(error.into(), Attempt::Write)).with_context(|| {
        format!("cannot make [daemon] state_dir {shown}: clear its place, or set it to another directory")
    })?;
    let opened = File::open(directory).with_context(|| format!("cannot open [daemon] state_dir {shown}"))?;
    ensure!(
        opened.metadata()?.permissions().mode() & 0o002 == 0,
        "[daemon] state_dir {shown}: everyone on this machine may write to it: run `chmod o-w {shown}`"
    );
    Flock::lock(opened, FlockArg::LockExclusiveNonblock).map_err(|(_, _)| {
        anyhow::anyhow!("another slbd uses {shown}: set [daemon] state_dir to another directory")
    })
}

fn read(directory: &Path) -> Result<BTreeMap<OverrideKey, OverrideRecord>> {
    let path = directory.join(FILE);
    let shown = path.display();
    let instead = format!("move it away (`mv {shown} {shown}.old`), which ends what was set at run time");
    let Some(text) = state_file::read_trusted(&path, &instead)? else { return Ok(BTreeMap::new()) };
    stored::parse(&text).with_context(|| format!("{shown} is not what slbd writes: {instead}"))
}

fn write(directory: &Path, records: &BTreeMap<OverrideKey, OverrideRecord>) -> Result<()> {
    let path = directory.join(FILE);
    let text = stored::render(records)?;
    let written = state_file::replace_durably(&path, text.as_bytes());
    let written = written.map_err(|error| with_advice(error.into(), Attempt::Write));
    written.with_context(|| format!("cannot write {}: nothing was changed", path.display()))
}

#[cfg(test)]
mod tests;
