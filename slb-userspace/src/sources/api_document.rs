//! The document of the API: the objects that it has made, as text in the format of the configuration file.
//!
//! It is replaced as a whole by a rename before a change is acknowledged. A document that cannot be read stops the start:
//! without it, objects would be missing.

use std::{fs, io::ErrorKind, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use toml::{Table, Value};

use crate::{
    advice::{Attempt, with_advice},
    state_file,
};
use slb_config::model::Document;

/// Name of the file in the state directory.
const FILE: &str = "api.toml";
/// Version of the format.
const VERSION: i64 = 1;
/// Key of the table that describes the document.
const HEADER: &str = "document";
const COMMENT: &str =
    "# Objects that were made through the API. slbd writes this file: change them through the API.\n\n";

/// Objects that the API has made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ApiDocument {
    /// Number of changes so far.
    pub revision: u64,
    /// Lists of objects by kind, as in the configuration file.
    pub objects: Table,
}

impl ApiDocument {
    /// Reads a text that slbd has written; no text is a document without objects.
    ///
    /// # Errors
    /// It is not such a text, or of another version.
    pub fn parse(document: Option<&Document>) -> Result<Self> {
        let Some(Document { name, text }) = document else { return Ok(Self::default()) };
        let mut objects: Table = text.parse().with_context(|| format!("{name} is not TOML"))?;
        let Some(Value::Table(header)) = objects.remove(HEADER) else {
            bail!("{name} has no table [{HEADER}]: it is not what slbd writes");
        };
        let number = |key| header.get(key).and_then(Value::as_integer);
        let version = number("version").with_context(|| format!("{name} has no [{HEADER}] version"))?;
        ensure!(
            version == VERSION,
            "{name} is of version {version}, and this slbd knows version {VERSION}: start the slbd that wrote it"
        );
        let revision = number("revision").and_then(|revision| revision.try_into().ok());
        let revision = revision.with_context(|| format!("{name} has no [{HEADER}] revision"))?;
        Ok(Self { revision, objects })
    }

    /// The text. `name` is its file name in messages.
    ///
    /// # Errors
    /// It cannot be serialized.
    pub fn render(&self, name: &str) -> Result<Document> {
        let mut all = self.objects.clone();
        let revision = i64::try_from(self.revision).context("too many revisions")?;
        let header = [("version", VERSION), ("revision", revision)];
        let header = header.map(|(key, number)| (key.to_owned(), Value::Integer(number)));
        all.insert(HEADER.to_owned(), Value::Table(header.into_iter().collect()));
        Ok(Document::new(name, &(COMMENT.to_owned() + &toml::to_string(&all)?)))
    }
}

/// The file name of the document in a state directory, for messages.
pub fn name(directory: &Path) -> String {
    directory.join(FILE).display().to_string()
}

/// Reads the document from a state directory; `None` if there is none.
///
/// # Errors
/// It cannot be read, its content cannot be trusted, or it is not what slbd writes.
pub(crate) fn read(directory: &Path) -> Result<Option<Document>> {
    let path = directory.join(FILE);
    let shown = path.display();
    let instead = format!(
        "mend it, or move it away (`mv {shown} {shown}.old`), which removes what was made through the API; forwarding goes \
         on meanwhile"
    );
    if fs::metadata(&path).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied) {
        let (user, directory) = (nix::unistd::geteuid(), directory.display());
        bail!(
            "{shown} may have what was made through the API, and this user may not read it: run `chown -R {user} {directory}`, \
             or set [daemon] state_dir to another directory; forwarding goes on meanwhile"
        );
    }
    let Some(text) = state_file::read_trusted(&path, &instead)? else { return Ok(None) };
    let directory = directory.display();
    let mode = fs::metadata(path.parent().unwrap_or(&path))?.permissions().mode();
    ensure!(
        mode & 0o002 == 0,
        "[daemon] state_dir {directory}: everyone on this machine may write to it, and so to {shown}: run `chmod o-w \
         {directory}`"
    );
    let document = Document::new(&shown.to_string(), &text);
    ApiDocument::parse(Some(&document)).context(instead)?;
    Ok(Some(document))
}

/// Writes the document, or removes it.
///
/// # Errors
/// The file cannot be written. It may have changed nevertheless, if only its directory could not be synced.
pub(crate) fn write(directory: &Path, document: Option<&Document>) -> Result<()> {
    let path = directory.join(FILE);
    let written = match document {
        Some(document) => state_file::replace_durably(&path, document.text.as_bytes()),
        None => match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| fs::File::open(directory)?.sync_all()),
        },
    };
    let written = written.map_err(|error| with_advice(error.into(), Attempt::Write));
    written.with_context(|| format!("cannot write {}: nothing was changed", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::sources::edit::{ObjectPath, Operation, TopKind};

    fn document() -> ApiDocument {
        let mut document = ApiDocument { revision: 7, ..ApiDocument::default() };
        let path = ObjectPath { top: TopKind::ServerGroup, id: "web".to_owned(), child: None };
        let servers = json!([{ "address": "10.0.0.1", "port": 80 }]);
        document.edit(&path, &Operation::Put(json!({ "name": "web", "servers": servers }))).unwrap();
        document
    }

    #[test]
    fn written_document_is_read_again() {
        let directory = TempDir::new().unwrap();
        assert_eq!(read(directory.path()).unwrap(), None);
        let rendered = document().render(&name(directory.path())).unwrap();
        write(directory.path(), Some(&rendered)).unwrap();
        let found = read(directory.path()).unwrap();
        assert_eq!(found, Some(rendered));
        assert_eq!(ApiDocument::parse(found.as_ref()).unwrap(), document());
        write(directory.path(), None).unwrap();
        write(directory.path(), None).unwrap();
        assert_eq!(read(directory.path()).unwrap(), None);
    }

    #[test]
    fn document_that_slbd_has_not_written_is_refused_with_its_place() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join(FILE);
        let text = document().render("api.toml").unwrap().text.to_string();
        for (text, words) in [
            (text.replace("version = 1", "version = 2"), "is of version 2"),
            (text.replace("revision = 7", "revision = -1"), "no [document] revision"),
            ("[[server_group]]\n".to_owned(), "no table [document]"),
            ("x".to_owned(), "not TOML"),
        ] {
            fs::write(&path, text).unwrap();
            let said = format!("{:#}", read(directory.path()).unwrap_err());
            assert!(said.contains(words) && said.contains(&format!("mv {}", path.display())), "{said}");
        }
        fs::write(&path, &text).unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let said = read(directory.path()).unwrap_err().to_string();
        assert!(said.contains("chmod o-w"), "{said}");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(read(directory.path()).unwrap_err().to_string().contains("everyone may write"));
    }
}
