//! Reads and parses configurations off the control loop, one at a time.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    task::spawn_blocking,
};

use super::requests::Refused;
use slb_config as config;
use slb_config::Loaded;
use slb_control::map_limits;

/// Loads the daemon's file and configuration texts.
#[derive(Debug, Clone)]
pub struct Loader {
    file: Arc<PathBuf>,
    /// Seed for configurations without `hash_seed`.
    seed: u64,
    turn: Arc<Mutex<()>>,
}

/// The right to load. It is kept until the loaded configuration is in the control loop's queue, so that later loads
/// cannot overtake it.
#[derive(Debug)]
pub struct Turn {
    _guard: OwnedMutexGuard<()>,
}

impl Loader {
    /// Creates a loader of `file` and of texts. Configurations without `hash_seed` get `seed`.
    pub fn new(file: PathBuf, seed: u64) -> Self {
        Self { file: Arc::new(file), seed, turn: Arc::default() }
    }

    /// Seed for configurations without `hash_seed`.
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// The daemon's file.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// Loads the daemon's file.
    ///
    /// # Errors
    /// The file is invalid; the error says why.
    pub async fn file(&self) -> Result<(Loaded, Turn), Refused> {
        let file = Arc::clone(&self.file);
        self.off_the_loop(move || load(&file)).await
    }

    /// Loads a text. `name` stands for it in messages.
    ///
    /// # Errors
    /// The text is invalid; the error says why.
    pub async fn text(&self, name: Option<String>, text: String) -> Result<(Loaded, Turn), Refused> {
        let name = name.unwrap_or_else(|| "configuration".to_owned());
        let parse =
            move || config::parse(&name, &text).map_err(|rejected| Refused::Unfit(rejected.to_string()));
        self.off_the_loop(parse).await
    }

    /// Also checks the map sizes here: with thousands of listeners that takes as long as parsing.
    async fn off_the_loop(
        &self,
        load: impl FnOnce() -> Result<Loaded, Refused> + Send + 'static,
    ) -> Result<(Loaded, Turn), Refused> {
        let guard = Arc::clone(&self.turn).lock_owned().await;
        let seed = self.seed;
        // The blocking task owns the guard: a caller that disconnects does not let a second load begin.
        let loaded = spawn_blocking(move || {
            let mut loaded = load()?;
            loaded.config.daemon.hash_seed.get_or_insert(seed);
            let fits =
                map_limits::check(&loaded.config).map_err(|large| Refused::Unfit(format!("error: {large}")));
            fits.map(|()| (loaded, Turn { _guard: guard }))
        })
        .await;
        loaded.unwrap_or_else(|error| {
            Err(Refused::Failed(format!("error: the configuration could not be parsed: {error}")))
        })
    }
}

fn load(file: &Path) -> Result<Loaded, Refused> {
    // A pipe cannot be read twice, and opening it would block until another writer.
    if fs::metadata(file).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        let file = file.display();
        return Err(Refused::Unfit(format!(
            "error: {file}: is not a regular file and cannot be read again: use `slb apply FILE`, or start slbd with a file"
        )));
    }
    config::load(file).map_err(|rejected| Refused::Unfit(rejected.to_string()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn configuration_without_a_seed_gets_the_one_in_use() {
        let loader = Loader::new("/nonexistent/slb.toml".into(), 7);
        let without = "[daemon]\ninterfaces = [\"eth0\"]\n";
        for (text, seed) in [(without.to_owned(), 7), (format!("{without}hash_seed = 9\n"), 9)] {
            let (loaded, _turn) = loader.text(None, text).await.unwrap();
            assert_eq!(loaded.config.daemon.hash_seed, Some(seed));
        }
    }

    #[tokio::test]
    async fn loads_wait_for_their_turn() {
        let loader = Loader::new("/nonexistent/slb.toml".into(), 7);
        let text = include_str!("../../../config/slb.toml").to_owned();
        let (_, turn) = loader.text(None, text.clone()).await.unwrap();
        let second = loader.text(None, text.clone());
        assert!(timeout(Duration::from_millis(50), second).await.is_err(), "two at a time");
        drop(turn);
        loader.text(None, text).await.unwrap();
    }

    #[tokio::test]
    async fn what_the_maps_have_no_room_for_is_refused() {
        let servers = |n: u32| format!("{{ address = \"10.0.{}.{}\", port = 80 }}", n >> 8, n & 255);
        let servers: Vec<_> = (1..=600).map(servers).collect();
        let text = format!(
            "[daemon]\ninterfaces = [\"eth0\"]\nmax_servers = 1024\n[[load_balancer]]\nname = \"lb\"\n\
             addresses = [\"192.0.2.1\"]\n[[load_balancer.listener]]\nname = \"l\"\nprotocol = \"tcp\"\nport = 80\n\
             server_group = \"web\"\n[[load_balancer.listener]]\nname = \"m\"\nprotocol = \"tcp\"\nport = 81\n\
             server_group = \"web\"\nhealth_check = {{ kind = \"tcp\", port = 9 }}\n[[server_group]]\nname = \"web\"\nservers = [{}]\n",
            servers.join(", ")
        );
        let refused = Loader::new("/nonexistent/slb.toml".into(), 7).text(None, text).await.unwrap_err();
        let said = refused.to_string();
        assert!(said.starts_with("error: the configuration needs 1200 server entries"), "{said}");
    }

    #[tokio::test]
    async fn what_cannot_be_loaded_is_refused_and_ends_its_turn() {
        let loader = Loader::new("/nonexistent/slb.toml".into(), 7);
        for _ in 0..2 {
            let refused = loader.file().await.unwrap_err();
            assert!(refused.to_string().contains("/nonexistent/slb.toml"), "{refused}");
            let refused = loader.text(Some("mine.toml".to_owned()), "x".to_owned()).await.unwrap_err();
            assert!(refused.to_string().contains("mine.toml"), "{refused}");
        }
    }
}
