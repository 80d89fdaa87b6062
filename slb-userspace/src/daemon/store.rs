//! Overrides: weights and admin states set at run time, in a file that outlives the daemon.
//!
//! The file is replaced as a whole by a rename, so it holds the state before or after a change, never a mixture. A file
//! that cannot be parsed stays as it is and is not used. Until it is moved away, no override can be set.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::{
    advice::{Attempt, with_advice},
    server::override_keys::{admin_state_of, at_override_key, override_key_of},
    state_file,
};
use slb_api::types::ApiOverride;
use slb_config::{Config, model::Weight};
use slb_control::{
    dataplane::state::MapState,
    overrides::{OverrideKey, Overrides, ServerOverride, carry_over, carry_over_from_maps},
};

const FILE: &str = "overrides.json";
const VERSION: u32 = 1;
/// Opens no symbolic link, and does not block on a pipe.
const SAFE_OPEN_FLAGS: i32 = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
/// Maximum size that is read, in bytes. The daemon writes no larger file.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// The overrides and their file.
pub(super) struct Store {
    directory: PathBuf,
    /// The lock on the directory, or why this daemon cannot use it.
    lock: Result<Flock<File>, String>,
    records: BTreeMap<OverrideKey, ApiOverride>,
    settings: Overrides,
}

/// The content of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OverridesDocument {
    version: u32,
    overrides: Vec<ApiOverride>,
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
    pub(super) fn records(&self) -> &BTreeMap<OverrideKey, ApiOverride> {
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
        change: impl FnOnce(&mut BTreeMap<OverrideKey, ApiOverride>),
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

    /// Moves overrides along with groups whose names differ between the configurations `old` and `new`.
    ///
    /// # Errors
    /// The file could not be written. The overrides are moved, but the next start will not know them.
    pub(super) fn carry_over(&mut self, old: &Config, new: &Config) -> Result<()> {
        self.put(with_names_of(&self.records, old, new))
    }

    /// As [`Self::carry_over`] for a start: `held` is the state that an earlier run left in the maps.
    ///
    /// # Errors
    /// As [`Self::carry_over`].
    pub(super) fn carry_over_from_maps(&mut self, held: &MapState, new: &Config) -> Result<()> {
        self.put(by_place(carry_over_from_maps(&self.records, held, new)))
    }

    fn put(&mut self, records: BTreeMap<OverrideKey, ApiOverride>) -> Result<()> {
        if records == self.records {
            return Ok(());
        }
        let written = self.replace(|before| before.clone_from(&records));
        self.take(records);
        written
    }

    /// Deletes overrides of servers that none of these configurations has. Returns them in words.
    pub(super) fn prune(&mut self, configs: &[&Config]) -> Vec<String> {
        let is_gone = |override_key: &&OverrideKey| !configs.iter().any(|config| override_key.exists(config));
        let gone: Vec<_> = self.records.keys().filter(is_gone).cloned().collect();
        if gone.is_empty() {
            return Vec::new();
        }
        // An override that moved along with a renamed group continues to apply.
        let goes_on = |override_key: &&OverrideKey| {
            self.records.iter().any(|(other, record)| {
                !gone.contains(other)
                    && other.server() == override_key.server()
                    && at_override_key(self.records[*override_key].clone(), other) == *record
            })
        };
        let ended = gone.iter().filter(|override_key| !goes_on(override_key)).map(|override_key| {
            let setting = setting(&self.records[override_key]);
            format!("{override_key}: what was set for it ends ({setting}): it is not configured any more")
        });
        let ended = ended.collect();
        if let Err(error) =
            self.replace(|records| records.retain(|override_key, _| !gone.contains(override_key)))
        {
            tracing::warn!(error = format!("{error:#}"), "what has ended is still written");
        }
        self.records.retain(|override_key, _| !gone.contains(override_key));
        self.settings.retain(|override_key, _| !gone.contains(override_key));
        ended
    }

    fn take(&mut self, records: BTreeMap<OverrideKey, ApiOverride>) {
        self.settings =
            records.iter().map(|(override_key, record)| (override_key.clone(), setting(record))).collect();
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

/// The overrides of `old`, also under the names that renamed groups have in `new`.
pub(super) fn with_names_of(
    records: &BTreeMap<OverrideKey, ApiOverride>,
    old: &Config,
    new: &Config,
) -> BTreeMap<OverrideKey, ApiOverride> {
    by_place(carry_over(records, old, new))
}

fn by_place(records: BTreeMap<OverrideKey, ApiOverride>) -> BTreeMap<OverrideKey, ApiOverride> {
    records
        .into_iter()
        .map(|(override_key, record)| (override_key.clone(), at_override_key(record, &override_key)))
        .collect()
}

fn setting(record: &ApiOverride) -> ServerOverride {
    ServerOverride { weight: record.weight, state: record.state.map(admin_state_of) }
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

fn read(directory: &Path) -> Result<BTreeMap<OverrideKey, ApiOverride>> {
    let path = directory.join(FILE);
    let shown = path.display();
    let instead = format!("move it away (`mv {shown} {shown}.old`), which ends what was set at run time");
    let file = match OpenOptions::new().read(true).custom_flags(SAFE_OPEN_FLAGS).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error).with_context(|| format!("{shown} cannot be opened: {instead}")),
    };
    let metadata = file.metadata()?;
    ensure!(metadata.is_file(), "{shown} is not a file: {instead}");
    ensure!(metadata.permissions().mode() & 0o002 == 0, "{shown}: everyone may write to it: {instead}");
    let mut text = String::new();
    file.take(MAX_FILE_BYTES)
        .read_to_string(&mut text)
        .with_context(|| format!("{shown} cannot be read: {instead}"))?;
    let records = parse(&text).with_context(|| format!("{shown} is not what slbd writes: {instead}"))?;
    Ok(records)
}

fn parse(text: &str) -> Result<BTreeMap<OverrideKey, ApiOverride>> {
    #[derive(Deserialize)]
    struct OverridesVersion {
        version: u32,
    }
    // Other versions may have another format.
    let OverridesVersion { version } = serde_json::from_str(text)?;
    ensure!(version == VERSION, "it is of version {version}, and this slbd knows version {VERSION}");
    let OverridesDocument { overrides, .. } = serde_json::from_str(text)?;
    let mut records = BTreeMap::new();
    for record in overrides {
        let override_key = override_key_of(&record)?;
        ensure!(!setting(&record).is_empty(), "{override_key}: nothing is set");
        ensure!(
            record.weight.is_none_or(|weight| weight <= Weight::MAX),
            "{override_key}: a weight beyond {}",
            Weight::MAX
        );
        if let Some(twice) = records.insert(override_key, record) {
            bail!("server {} appears twice", twice.server);
        }
    }
    Ok(records)
}

fn write(directory: &Path, records: &BTreeMap<OverrideKey, ApiOverride>) -> Result<()> {
    let path = directory.join(FILE);
    let document = OverridesDocument { version: VERSION, overrides: records.values().cloned().collect() };
    let text = serde_json::to_string_pretty(&document)? + "\n";
    let written = state_file::replace_durably(&path, text.as_bytes());
    let written = written.map_err(|error| with_advice(error.into(), Attempt::Write));
    written.with_context(|| format!("cannot write {}: nothing was changed", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use slb_api::types::{AdminState, Requester};
    use slb_config::samples::shop;

    fn record(server: &str, weight: Option<u8>, state: Option<AdminState>) -> ApiOverride {
        let by = Requester { uid: Some(0), user: Some("root".to_owned()), pid: Some(7) };
        ApiOverride {
            server_group: Some("web".to_owned()),
            load_balancer: None,
            server: server.to_owned(),
            weight,
            state,
            by,
            at: "2026-11-21T09:00:00Z".to_owned(),
        }
    }

    fn set(store: &mut Store, record: ApiOverride) -> Result<()> {
        store.replace(|records| drop(records.insert(override_key_of(&record).unwrap(), record)))
    }

    fn home() -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("state");
        (home, directory)
    }

    #[test]
    fn overrides_are_read_back_from_a_private_file() {
        let (_home, directory) = home();
        let mut store = Store::open(&directory);
        assert_eq!((store.trouble(), store.settings().len()), (None, 0));
        set(&mut store, record("10.0.0.11:8080", Some(5), None)).unwrap();
        set(&mut store, record("[fd00::1]:80", None, Some(AdminState::Disabled))).unwrap();
        let records = store.records().clone();
        drop(store);
        let store = Store::open(&directory);
        assert_eq!(*store.records(), records);
        assert_eq!(store.settings().len(), 2);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&directory.join(FILE))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn torn_or_foreign_override_file_is_left_unchanged() {
        let whole = {
            let (_home, directory) = home();
            set(&mut Store::open(&directory), record("10.0.0.11:8080", Some(5), None)).unwrap();
            fs::read_to_string(directory.join(FILE)).unwrap()
        };
        let torn = &whole[..whole.len() / 2];
        for (text, word) in [
            ("", "EOF"),
            (torn, "EOF"),
            ("mine", "expected value"),
            ("{\"version\":2,\"rules\":[]}", "version 2, and this slbd knows version 1"),
            ("{\"version\":1,\"overrides\":[],\"more\":1}", "unknown field `more`"),
            (&whole.replace("10.0.0.11:8080", "10.0.0.11"), "10.0.0.11"),
            (&whole.replace("\"weight\": 5", "\"weight\": 101"), "a weight beyond 100"),
            (&whole.replace("\"weight\": 5", "\"weight\": null"), "nothing is set"),
        ] {
            let (_home, directory) = home();
            fs::create_dir(&directory).unwrap();
            let path = directory.join(FILE);
            fs::write(&path, text).unwrap();
            let mut store = Store::open(&directory);
            let trouble = store.trouble().unwrap().to_owned();
            assert!(trouble.contains(word) && trouble.contains("mv "), "{trouble}");
            let refused = set(&mut store, record("10.0.0.12:8080", Some(6), None)).unwrap_err().to_string();
            assert!(refused.contains("mv "), "{refused}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            fs::rename(&path, path.with_extension("old")).unwrap();
            set(&mut store, record("10.0.0.12:8080", Some(6), None)).unwrap();
            assert_eq!(store.trouble(), None);
        }
    }

    #[test]
    fn override_file_of_wrong_type_or_mode_is_not_read() {
        let (_home, directory) = home();
        fs::create_dir_all(directory.join(FILE)).unwrap();
        let store = Store::open(&directory);
        let trouble = store.trouble().unwrap();
        assert!(trouble.contains("is not a file: move it away"), "{trouble}");

        let (_home, directory) = home();
        set(&mut Store::open(&directory), record("10.0.0.11:8080", Some(5), None)).unwrap();
        fs::set_permissions(directory.join(FILE), fs::Permissions::from_mode(0o666)).unwrap();
        let store = Store::open(&directory);
        let trouble = store.trouble().unwrap();
        assert!(trouble.contains("everyone may write to it: move it away"), "{trouble}");
        assert!(store.records().is_empty());
    }

    #[test]
    fn override_is_refused_if_its_file_cannot_be_written() {
        let (_home, directory) = home();
        let mut store = Store::open(&directory);
        // It blocks the temporary file and is not removed with it.
        fs::create_dir_all(directory.join("overrides.json.new/theirs")).unwrap();
        let refused = set(&mut store, record("10.0.0.11:8080", Some(5), None)).unwrap_err();
        let refused = format!("{refused:#}");
        assert!(refused.contains("cannot write") && refused.contains("nothing was changed"), "{refused}");
        assert!(store.records().is_empty());
    }

    #[test]
    fn truncated_override_file_is_refused() {
        let (_home, directory) = home();
        set(&mut Store::open(&directory), record("10.0.0.11:8080", Some(5), None)).unwrap();
        let whole = fs::read_to_string(directory.join(FILE)).unwrap();
        // The last character is the end of the line.
        for length in 0..whole.len() - 1 {
            assert!(parse(&whole[..length]).is_err(), "{length} bytes");
        }
        assert!(parse(&whole).is_ok());
    }

    #[test]
    fn state_directory_that_cannot_be_created_is_reported() {
        let (_home, directory) = home();
        let words = "clear its place, or set it to another directory: ";
        fs::write(&directory, "mine").unwrap();
        // Where not even root can make one.
        for (directory, why) in [
            (directory.clone(), "File exists"),
            (directory.join("below"), "Not a directory"),
            (PathBuf::from("/proc/slb"), "No such file or directory"),
        ] {
            let mut store = Store::open(&directory);
            let trouble = store.trouble().unwrap().to_owned();
            let override_key = format!("cannot make [daemon] state_dir {}: ", directory.display());
            assert!(
                [override_key.as_str(), words, why].iter().all(|word| trouble.contains(word)),
                "{trouble}"
            );
            assert!(set(&mut store, record("10.0.0.11:8080", Some(5), None)).is_err());
        }
        let mut store = Store::open(&directory);
        assert_eq!(fs::read_to_string(&directory).unwrap(), "mine");
        fs::remove_file(&directory).unwrap();
        set(&mut store, record("10.0.0.11:8080", Some(5), None)).unwrap();
        assert_eq!(store.trouble(), None);
    }

    #[test]
    fn pruned_override_is_reported_and_renamed_one_is_kept() {
        let (_home, directory) = home();
        let mut store = Store::open(&directory);
        for server in ["10.0.0.11:8080", "10.0.0.12:8081"] {
            set(&mut store, record(server, Some(5), None)).unwrap();
        }
        let before = shop(&[]);
        let after = shop(&[("\"web\"", "\"www\"")]);
        store.carry_over(&before, &after).unwrap();
        assert_eq!(store.records().len(), 4);
        assert_eq!(store.prune(&[&after]), [""; 0]);
        assert_eq!(store.records().len(), 2);

        let smaller = shop(&[("\"web\"", "\"www\""), ("  { address = \"10.0.0.12\", port = 8081 },\n", "")]);
        let ended = "server group www: server 10.0.0.12:8081: what was set for it ends (weight 5): it is not configured any more";
        assert_eq!(store.prune(&[&smaller]), [ended]);
        assert_eq!(store.records().len(), 1);
    }

    #[test]
    fn second_daemon_cannot_use_the_same_state_directory() {
        let (_home, directory) = home();
        let _first = Store::open(&directory);
        let mut second = Store::open(&directory);
        assert!(second.trouble().unwrap().contains("another slbd uses"), "{:?}", second.trouble());
        assert!(set(&mut second, record("10.0.0.11:8080", Some(5), None)).is_err());
    }

    #[test]
    fn temporary_file_of_a_killed_daemon_is_overwritten() {
        let (_home, directory) = home();
        let mut store = Store::open(&directory);
        fs::write(directory.join("overrides.json.new"), "{").unwrap();
        set(&mut store, record("10.0.0.11:8080", Some(5), None)).unwrap();
        assert_eq!(parse(&fs::read_to_string(directory.join(FILE)).unwrap()).unwrap().len(), 1);
    }
}
