//! Sources of the configuration: the file, and the document of the API in the state directory.
//!
//! Each object has one owner. The file owns what is in it; the API changes only what it has made. The configuration is
//! the union of both, checked as a whole.

pub mod api_document;
pub mod edit;

use std::path::Path;

use slb_config::{
    ConfigError, LoadedConfig,
    model::{Document, Documents},
};

/// Reads and checks the configuration of a daemon that starts: the file at `path`, and the document of the API in the
/// state directory that the file names.
///
/// # Errors
/// A text cannot be read, or breaks a rule. The error is to be shown as it is.
pub fn load(path: &Path) -> Result<LoadedConfig, String> {
    let shown = |error: ConfigError| error.to_string();
    let text = slb_config::text(path).map_err(shown)?;
    let api =
        api_document::read(&slb_config::state_dir(&text)).map_err(|error| format!("error: {error:#}"))?;
    let file = Document::new(&path.display().to_string(), &text);
    slb_config::parse_documents(Documents { file, api }).map_err(shown)
}
