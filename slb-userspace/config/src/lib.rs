//! Configuration: from a TOML file to a model that holds only valid values.
//!
//! The stages are `file` (trusted bytes) -> `raw` (serde's values with positions) -> `parse` (all rules) -> [`model`].
//! `raw` is private to this module. A [`Config`] is always complete: either all rules hold, or the text is
//! [`ConfigError`] with every violation.

use std::path::{Path, PathBuf};

pub use diagnostic::{Diagnostic, DiagnosticReport, Severity};
pub use field::address::unusable as unusable_address;
pub use model::Config;
pub use parse::{parse, parse_documents};

use parse::STATE_DIR;

mod diagnostic;
pub mod diff;
mod field;
mod file;
pub mod immutable_settings;
pub mod model;
mod parse;
mod raw;
#[cfg(any(test, feature = "testing"))]
pub mod samples;
mod sources;
mod suggest;
mod syntax;
#[cfg(test)]
mod tests;

/// A valid configuration with its warnings.
#[derive(Debug)]
pub struct LoadedConfig {
    /// The configuration.
    pub config: Config,
    /// Warnings in file order; contains no errors.
    pub warnings: DiagnosticReport,
}

/// Why a configuration cannot be used. The text names the file and a remedy.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be opened or read.
    #[error("error: {}: cannot be read: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        error: std::io::Error,
    },
    /// The path names a directory.
    #[error("error: {}: is a directory: name the configuration file in it", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// Everyone on the machine may change the file, and so redirect traffic.
    #[error(
        "error: {path}: everyone on this machine may write to it (mode {mode:04o}), and so redirect traffic: \
         run `chmod o-w {path}` and check its content",
        path = path.display()
    )]
    WorldWritable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is larger than any configuration.
    #[error("error: {}: is larger than {} MiB: this is not a configuration file", path.display(), file::MAX_BYTES >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not text.
    #[error("error: {}:{line}: is not UTF-8 text from this line on: save it as UTF-8", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// Line of the first byte that is not UTF-8, from 1.
        line: usize,
    },
    /// The text breaks the syntax or the rules; the report holds errors only.
    #[error("{0}")]
    Invalid(DiagnosticReport),
}

impl ConfigError {
    /// Returns the text to show, with the colours of a terminal if `colour`.
    pub fn render(&self, colour: bool) -> String {
        match self {
            Self::Invalid(report) => report.render(colour),
            other => other.to_string(),
        }
    }
}

/// Reads and checks a configuration file, without the objects of the API.
///
/// # Errors
///
/// [`ConfigError`] if the file cannot be read, may be written by everyone, or breaks a rule.
pub fn load(path: &Path) -> Result<LoadedConfig, ConfigError> {
    parse(&path.display().to_string(), &text(path)?)
}

/// The state directory that a configuration names, or the default. The text need not be valid otherwise.
pub fn state_dir(text: &str) -> PathBuf {
    #[derive(serde::Deserialize)]
    struct Named {
        daemon: Option<NamedDaemon>,
    }
    #[derive(serde::Deserialize)]
    struct NamedDaemon {
        state_dir: Option<PathBuf>,
    }
    let named = toml::from_str::<Named>(text).ok();
    let named = named.and_then(|named| named.daemon).and_then(|daemon| daemon.state_dir);
    named.unwrap_or_else(|| STATE_DIR.into())
}

/// Reads the text of a configuration file, if its content may be trusted.
///
/// # Errors
///
/// Every variant of [`ConfigError`] but [`ConfigError::Invalid`].
pub fn text(path: &Path) -> Result<String, ConfigError> {
    file::read(path)
}
