//! Reads and parses configurations off the event loop, one at a time.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    task::spawn_blocking,
};

use super::requests::RequestError;
use slb_config as config;
use slb_config::{
    ConfigError, LoadedConfig,
    model::{Document, Documents},
};
use slb_control::map_limits;

/// Loads the daemon's file and configuration texts.
#[derive(Debug, Clone)]
pub struct Loader {
    file: Arc<PathBuf>,
    /// Seed for configurations without `hash_seed`.
    seed: u64,
    permit: Arc<Mutex<()>>,
}

/// The right to load. It is kept until the loaded configuration is in the event loop's queue, so that later loads
/// cannot overtake it.
#[derive(Debug)]
pub struct LoadPermit {
    _guard: OwnedMutexGuard<()>,
}

impl Loader {
    /// Creates a loader of `file` and of texts. Configurations without `hash_seed` get `seed`.
    pub fn new(file: PathBuf, seed: u64) -> Self {
        Self { file: Arc::new(file), seed, permit: Arc::default() }
    }

    /// Seed for configurations without `hash_seed`.
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// The daemon's file.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// Loads the daemon's file, with the objects of `api`.
    ///
    /// # Errors
    /// The file is invalid; the error says why.
    pub async fn file(&self, api: Option<Document>) -> Result<(LoadedConfig, LoadPermit), RequestError> {
        let path = Arc::clone(&self.file);
        self.load_blocking(move || parse(Documents { file: read(&path)?, api })).await
    }

    /// Loads a text in place of the file, with the objects of `api`. `name` stands for it in messages.
    ///
    /// # Errors
    /// The text is invalid; the error says why.
    pub async fn text(
        &self,
        name: Option<&str>,
        text: &str,
        api: Option<Document>,
    ) -> Result<(LoadedConfig, LoadPermit), RequestError> {
        let file = Document::new(name.unwrap_or("configuration"), text);
        self.load_blocking(move || parse(Documents { file, api })).await
    }

    /// Loads these documents, as `check` refuses them.
    ///
    /// # Errors
    /// They are invalid.
    pub async fn documents<E: From<RequestError> + Send + 'static>(
        &self,
        documents: Documents,
        check: impl FnOnce(ConfigError) -> E + Send + 'static,
    ) -> Result<(LoadedConfig, LoadPermit), E> {
        self.load_blocking(move || config::parse_documents(documents).map_err(check)).await
    }

    /// Also checks the map sizes here: with thousands of listeners that takes as long as parsing.
    async fn load_blocking<E: From<RequestError> + Send + 'static>(
        &self,
        load: impl FnOnce() -> Result<LoadedConfig, E> + Send + 'static,
    ) -> Result<(LoadedConfig, LoadPermit), E> {
        let guard = Arc::clone(&self.permit).lock_owned().await;
        let seed = self.seed;
        // The blocking task owns the guard: a caller that disconnects does not let a second load begin.
        let loaded = spawn_blocking(move || {
            let mut loaded = load()?;
            loaded.config.daemon.hash_seed.get_or_insert(seed);
            let fits = map_limits::check(&loaded.config)
                .map_err(|large| RequestError::Invalid(format!("error: {large}")).into());
            fits.map(|()| (loaded, LoadPermit { _guard: guard }))
        })
        .await;
        loaded.unwrap_or_else(|error| {
            let text = format!("error: the configuration could not be parsed: {error}");
            Err(RequestError::Failed(text).into())
        })
    }
}

fn parse(documents: Documents) -> Result<LoadedConfig, RequestError> {
    config::parse_documents(documents).map_err(|rejected| RequestError::Invalid(rejected.to_string()))
}

fn read(file: &Path) -> Result<Document, RequestError> {
    // A pipe cannot be read twice, and opening it would block until another writer.
    if fs::metadata(file).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        let file = file.display();
        return Err(RequestError::Invalid(format!(
            "error: {file}: is not a regular file and cannot be read again: use `slb apply FILE`, or start slbd with a file"
        )));
    }
    let text = config::text(file).map_err(|rejected| RequestError::Invalid(rejected.to_string()))?;
    Ok(Document::new(&file.display().to_string(), &text))
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
            let (loaded, _turn) = loader.text(None, &text, None).await.unwrap();
            assert_eq!(loaded.config.daemon.hash_seed, Some(seed));
        }
    }

    #[tokio::test]
    async fn loads_are_serialized() {
        let loader = Loader::new("/nonexistent/slb.toml".into(), 7);
        let text = include_str!("../../../config/slb.toml");
        let (_, permit) = loader.text(None, text, None).await.unwrap();
        let second = loader.text(None, text, None);
        assert!(timeout(Duration::from_millis(50), second).await.is_err(), "two at a time");
        drop(permit);
        loader.text(None, text, None).await.unwrap();
    }

    #[tokio::test]
    async fn load_refuses_a_configuration_beyond_the_map_size() {
        let servers = |n: u32| format!("{{ address = \"10.0.{}.{}\", port = 80 }}", n >> 8, n & 255);
        let servers: Vec<_> = (1..=600).map(servers).collect();
        let text = format!(
            "[daemon]\ninterfaces = [\"eth0\"]\nmax_servers = 1024\n[[load_balancer]]\nname = \"lb\"\n\
             addresses = [\"192.0.2.1\"]\n[[load_balancer.listener]]\nname = \"l\"\nprotocol = \"tcp\"\nport = 80\n\
             server_group = \"web\"\n[[load_balancer.listener]]\nname = \"m\"\nprotocol = \"tcp\"\nport = 81\n\
             server_group = \"web\"\nhealth_check = {{ kind = \"tcp\", port = 9 }}\n[[server_group]]\nname = \"web\"\nservers = [{}]\n",
            servers.join(", ")
        );
        let refused =
            Loader::new("/nonexistent/slb.toml".into(), 7).text(None, &text, None).await.unwrap_err();
        let said = refused.to_string();
        assert!(said.starts_with("error: the configuration needs 1200 server entries"), "{said}");
    }

    #[tokio::test]
    async fn failed_load_is_refused_and_lets_the_next_one_run() {
        let loader = Loader::new("/nonexistent/slb.toml".into(), 7);
        for _ in 0..2 {
            let refused = loader.file(None).await.unwrap_err();
            assert!(refused.to_string().contains("/nonexistent/slb.toml"), "{refused}");
            let refused = loader.text(Some("mine.toml"), "x", None).await.unwrap_err();
            assert!(refused.to_string().contains("mine.toml"), "{refused}");
        }
    }
}
