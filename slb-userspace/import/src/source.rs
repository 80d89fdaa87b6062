//! The text that is imported: its files, and places in them.

use crate::ImportError;

/// Gives the text of files that a configuration includes.
pub trait Files {
    /// Returns name and text of each file that `pattern` names, in the order of their names. `from` is the file with the
    /// `include`.
    ///
    /// # Errors
    /// Why a file cannot be read, or that the files exceed the budget.
    fn read(&self, from: &str, pattern: &str, budget: Budget) -> Result<Vec<(String, String)>, String>;
}

/// What an `include` may still read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Number of files.
    pub files: usize,
    /// Bytes of all of them.
    pub bytes: usize,
}

/// No files: each `include` is an error.
#[derive(Debug, Clone, Copy)]
pub struct NoFiles;

impl Files for NoFiles {
    fn read(&self, _: &str, _: &str, _: Budget) -> Result<Vec<(String, String)>, String> {
        Err("included files cannot be read here".to_owned())
    }
}

/// Lines of a file, from 1. Both ends belong to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Lines {
    pub(crate) file: usize,
    pub(crate) first: usize,
    pub(crate) last: usize,
}

impl Lines {
    pub(crate) const fn one(file: usize, line: usize) -> Self {
        Self { file, first: line, last: line }
    }

    /// From the first line of `self` to the last one of `end`, in the file of `self`.
    pub(crate) fn until(self, end: Self) -> Self {
        Self { last: end.last.max(self.first), ..self }
    }

    pub(crate) const fn contains(self, file: usize, line: usize) -> bool {
        self.file == file && self.first <= line && line <= self.last
    }
}

/// Depth of files that include each other, and number of files.
const MAX_DEPTH: usize = 16;
const MAX_FILES: usize = 1_000;
/// Bytes of all files.
const MAX_BYTES: usize = 16 << 20;

#[derive(Debug)]
struct SourceFile {
    name: String,
    text: String,
    depth: usize,
}

/// All files of a configuration.
pub(crate) struct Sources<'f> {
    files: &'f dyn Files,
    read: Vec<SourceFile>,
}

impl<'f> Sources<'f> {
    pub(crate) fn new(name: &str, text: &str, files: &'f dyn Files) -> Self {
        Self { files, read: vec![SourceFile { name: name.to_owned(), text: text.to_owned(), depth: 0 }] }
    }

    pub(crate) fn count(&self) -> usize {
        self.read.len()
    }

    pub(crate) fn name(&self, file: usize) -> &str {
        self.read.get(file).map_or("", |file| &file.name)
    }

    pub(crate) fn text(&self, file: usize) -> &str {
        self.read.get(file).map_or("", |file| &file.text)
    }

    /// Reads the files that an `include` at `at` names. Returns their numbers.
    pub(crate) fn include(&mut self, at: Lines, pattern: &str) -> Result<Vec<usize>, ImportError> {
        let depth = self.read.get(at.file).map_or(0, |file| file.depth) + 1;
        if depth > MAX_DEPTH {
            let found = format!("`include {pattern}` lies {depth} files deep");
            return Err(self.error(at, found, "files that do not include each other"));
        }
        let bytes: usize = self.read.iter().map(|file| file.text.len()).sum();
        let budget = Budget {
            files: MAX_FILES.saturating_sub(self.read.len()),
            bytes: MAX_BYTES.saturating_sub(bytes),
        };
        let texts = self
            .files
            .read(self.name(at.file), pattern, budget)
            .map_err(|why| self.error(at, format!("`include {pattern}`: {why}"), "files that can be read"))?;
        let first = self.read.len();
        let files = texts.into_iter().map(|(name, text)| SourceFile { name, text, depth });
        self.read.extend(files);
        let bytes: usize = self.read.iter().map(|file| file.text.len()).sum();
        if self.read.len() > MAX_FILES || bytes > MAX_BYTES {
            let found = format!("`include {pattern}` gives {} files of {bytes} bytes", self.read.len());
            return Err(self.error(at, found, "1,000 files of 16 MiB at most"));
        }
        Ok((first..self.read.len()).collect())
    }

    /// An error at a place.
    pub(crate) fn error(
        &self,
        at: Lines,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> ImportError {
        ImportError {
            file: self.name(at.file).to_owned(),
            line: at.first,
            found: found.into(),
            expected: expected.into(),
        }
    }
}
