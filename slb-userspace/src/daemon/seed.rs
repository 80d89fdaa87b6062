//! Seed of the flow hash if none is configured: made at the first start and stored in `[daemon] state_dir`.
//!
//! The seed in the maps takes precedence over the file, so losing the file or removing `hash_seed` moves no connection.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{dataplane::bpf::seeds::random, state_file};
use slb_config::model::Config;

const FILE: &str = "hash-seed.json";
const VERSION: u32 = 1;

/// The content of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeedDocument {
    version: u32,
    hash_seed: u64,
}

/// Where a seed comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SeedOrigin {
    Configured,
    FromMaps,
    FromFile,
    Generated,
}

/// Sets the seed of a configuration without one. Precedence: the seed `in_use` in the maps, the one stored in
/// `directory`, a new random one. Stores the seed in `directory`, this daemon's state directory, if there is one.
///
/// # Errors
/// No random numbers are available.
pub(super) fn fill_in(
    mut config: Arc<Config>,
    in_use: Option<u64>,
    directory: Option<&Path>,
) -> Result<Arc<Config>> {
    let configured = config.daemon.hash_seed;
    let kept = directory.map_or(Ok(None), read);
    let (seed, origin) = choose(configured, in_use, kept.as_ref().ok().copied().flatten(), random)?;
    match (origin, in_use) {
        (SeedOrigin::Configured, Some(in_use)) if in_use != seed => tracing::warn!(
            hash_seed = seed,
            in_use,
            "another hash_seed takes effect: connections without a flow-table entry (modes dsr, ipip and gue) move to other servers"
        ),
        (SeedOrigin::FromMaps, _) if seed == 0 => tracing::warn!(
            "hash_seed 0 of an earlier start stays in use, so that no connection moves; it is a well-known value: to replace it, set \
             [daemon] hash_seed to a random number and restart slbd, which moves connections without a flow-table entry"
        ),
        (SeedOrigin::Generated, _) => tracing::info!(
            hash_seed = seed,
            "a random hash_seed was made: other machines that serve the same VIPs need the same, as [daemon] hash_seed"
        ),
        _ => {}
    }
    persist(seed, origin, kept, directory);
    Arc::make_mut(&mut config).daemon.hash_seed = Some(seed);
    Ok(config)
}

fn choose(
    configured: Option<u64>,
    in_use: Option<u64>,
    kept: Option<u64>,
    random: impl FnOnce() -> Result<u64>,
) -> Result<(u64, SeedOrigin)> {
    let known =
        [(configured, SeedOrigin::Configured), (in_use, SeedOrigin::FromMaps), (kept, SeedOrigin::FromFile)];
    if let Some(known) = known.into_iter().find_map(|(seed, origin)| Some((seed?, origin))) {
        return Ok(known);
    }
    // Fits TOML's signed integers, so that it can be written into a configuration.
    Ok(((random()? >> 1).max(1), SeedOrigin::Generated))
}

/// Stores a seed for a start without maps. A configured seed and seed 0 are not stored.
fn persist(seed: u64, origin: SeedOrigin, kept: Result<Option<u64>>, directory: Option<&Path>) {
    if origin == SeedOrigin::Configured || seed == 0 {
        return;
    }
    let written = match (kept, directory) {
        (Ok(Some(kept)), _) if kept == seed => return,
        (Ok(_), Some(directory)) => write(directory, seed),
        (Ok(_), None) => Err(anyhow::anyhow!("[daemon] state_dir cannot be used")),
        (Err(unreadable), _) => Err(unreadable),
    };
    if let Err(error) = written {
        tracing::warn!(
            error = format!("{error:#}"),
            hash_seed = seed,
            "the hash seed is not kept: after `slbd detach`, or a start of the machine, another one is made"
        );
    }
}

fn path(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

fn read(directory: &Path) -> Result<Option<u64>> {
    #[derive(Deserialize)]
    struct SeedVersion {
        version: u32,
    }
    let path = path(directory);
    let text = match state_file::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.with_context(|| format!("cannot read {}", path.display()))?.0,
    };
    let parsed = || -> Result<u64> {
        // Other versions may have another format.
        let SeedVersion { version } = serde_json::from_slice(&text)?;
        ensure!(version == VERSION, "it is of version {version}, and this slbd knows version {VERSION}");
        Ok(serde_json::from_slice::<SeedDocument>(&text)?.hash_seed)
    };
    let shown = path.display();
    let seed = parsed()
        .with_context(|| format!("{shown} is not what slbd writes: move it away (`mv {shown} {shown}.old`)"));
    seed.map(Some)
}

fn write(directory: &Path, seed: u64) -> Result<()> {
    let path = path(directory);
    let text = serde_json::to_string_pretty(&SeedDocument { version: VERSION, hash_seed: seed })? + "\n";
    state_file::replace_durably(&path, text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use slb_config::samples::shop;

    fn filled(configured: Option<u64>, in_use: Option<u64>, directory: Option<&Path>) -> u64 {
        let mut config = shop(&[]);
        config.daemon.hash_seed = configured;
        let filled = fill_in(Arc::new(config), in_use, directory).unwrap();
        filled.daemon.hash_seed.expect("a seed")
    }

    #[test]
    fn first_start_makes_a_seed_and_later_ones_keep_it() {
        let home = tempfile::tempdir().unwrap();
        let (here, other) = (home.path(), tempfile::tempdir().unwrap());
        let seed = filled(None, None, Some(here));
        assert!(seed != 0 && i64::try_from(seed).is_ok(), "{seed}");
        assert_eq!(filled(None, None, Some(here)), seed, "after a detach");
        assert_ne!(filled(None, None, Some(other.path())), seed, "another node");
        assert_eq!(fs::read_dir(here).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn active_seed_stays_if_the_file_or_the_setting_is_lost() {
        let home = tempfile::tempdir().unwrap();
        for directory in [None, Some(home.path())] {
            assert_eq!(filled(None, Some(7), directory), 7);
        }
        assert_eq!(filled(None, None, Some(home.path())), 7, "it is kept from then on");
        write(home.path(), 8).unwrap();
        assert_eq!(filled(None, Some(7), Some(home.path())), 7, "another one in the file");
        assert_eq!(filled(Some(9), Some(7), Some(home.path())), 9, "configured");
        assert_eq!(filled(None, None, Some(home.path())), 7, "what is configured is not kept");
    }

    #[test]
    fn active_seed_0_stays_and_is_not_stored() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(filled(None, Some(0), Some(home.path())), 0);
        assert_ne!(filled(None, None, Some(home.path())), 0);
    }

    #[test]
    fn torn_or_foreign_seed_file_is_left_unchanged() {
        let home = tempfile::tempdir().unwrap();
        write(home.path(), 1234).unwrap();
        let whole = fs::read_to_string(path(home.path())).unwrap();
        let cuts = (0..whole.trim_end().len()).map(|length| whole[..length].to_owned());
        for text in cuts.chain([whole.replace("\"version\": 1", "\"version\": 2")]) {
            fs::write(path(home.path()), &text).unwrap();
            assert!(read(home.path()).is_err(), "{text}");
            assert_eq!(filled(None, Some(7), Some(home.path())), 7);
            assert_ne!(filled(None, None, Some(home.path())), 1234);
            assert_eq!(fs::read_to_string(path(home.path())).unwrap(), text);
        }
    }
}
