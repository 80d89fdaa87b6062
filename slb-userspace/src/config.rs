//! Configuration: from a TOML file to a model that holds only valid values.
//!
//! The way is `file` (bytes that may be trusted) -> `raw` (what serde read, with positions) -> `parse` (every rule)
//! -> [`model`]. `raw` never leaves this module, and a [`Config`] can only come out of it whole: either every rule
//! holds, or the text is [`Rejected`] with all the places that break one.

use std::path::{Path, PathBuf};

pub use diagnostic::{Diagnostic, Report, Severity};
pub use model::Config;
pub use parse::parse;

mod diagnostic;
pub mod difference;
mod field;
mod file;
pub mod fixed;
pub mod model;
mod parse;
mod raw;
#[cfg(test)]
pub(crate) mod samples;
mod suggest;
mod syntax;
#[cfg(test)]
mod tests;

/// A configuration that may be used, and what its author should know about it.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Warnings, in the order of the file; no errors.
    pub warnings: Report,
}

/// Why a configuration cannot be used. The text names the file and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// The file could not be opened or read.
    #[error("error: {}: cannot be read: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
    /// The path names a directory.
    #[error("error: {}: is a directory: name the configuration file in it", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// Everyone on the machine may change the file, and so send traffic anywhere.
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
    Invalid(Report),
}

impl Rejected {
    /// Returns the text to show, with the colours of a terminal if `colour`.
    pub fn render(&self, colour: bool) -> String {
        match self {
            Self::Invalid(report) => report.render(colour),
            other => other.to_string(),
        }
    }
}

/// Reads and checks a configuration file.
///
/// # Errors
///
/// [`Rejected`] if the file cannot be read, may be written by everyone, or breaks a rule.
pub fn load(path: &Path) -> Result<Loaded, Rejected> {
    parse(&path.display().to_string(), &text(path)?)
}

/// Reads the text of a configuration file, if its content may be trusted.
///
/// # Errors
///
/// Every variant of [`Rejected`] but [`Rejected::Invalid`].
pub fn text(path: &Path) -> Result<String, Rejected> {
    file::read(path)
}
