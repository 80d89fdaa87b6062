//! The texts of a configuration in one range of positions: that of the API follows that of the file.

use std::ops::Range;

use annotate_snippets::{Annotation, Snippet};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::model::{Document, Documents};

/// A byte range of all texts.
pub(super) type Span = Range<usize>;

/// The texts of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sources {
    file: SourceText,
    api: Option<SourceText>,
}

/// A text, and where it begins in the range of all texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SourceText {
    document: Document,
    pub(super) start: usize,
}

impl Sources {
    pub(super) fn of(documents: &Documents) -> Self {
        let file = SourceText { document: documents.file.clone(), start: 0 };
        // One byte between them: the end of one text is not the start of the other.
        let start = documents.file.text.len() + 1;
        Self { file, api: documents.api.clone().map(|document| SourceText { document, start }) }
    }

    #[cfg(test)]
    pub(super) fn file(name: &str, text: &str) -> Self {
        Self::of(&Documents { file: Document::new(name, text), api: None })
    }

    #[cfg(test)]
    pub(super) fn with_api(self, name: &str, text: &str) -> Self {
        Self::of(&Documents { file: self.file.document, api: Some(Document::new(name, text)) })
    }

    /// The text of the file.
    pub(super) fn file_text(&self) -> &str {
        &self.file.document.text
    }

    /// The text of the API, after blanks that stand for the file: positions count from the start of a text.
    pub(super) fn padded_api_text(&self) -> Option<String> {
        let SourceText { document, start } = self.api.as_ref()?;
        Some(" ".repeat(*start) + &document.text)
    }

    /// The text that a position is in.
    pub(super) fn of_span(&self, span: &Span) -> &SourceText {
        self.api.as_ref().filter(|api| span.start >= api.start).unwrap_or(&self.file)
    }

    /// The keys of the document of the API; `None` without one.
    pub(super) fn api_keys(&self) -> Option<ApiKeys<'_>> {
        let source = self.api.as_ref()?;
        let table = DeTable::parse(&source.document.text).ok()?;
        Some(ApiKeys { source, table })
    }
}

/// The keys of the document of the API, with their positions.
pub(super) struct ApiKeys<'a> {
    source: &'a SourceText,
    table: Spanned<DeTable<'a>>,
}

impl ApiKeys<'_> {
    /// The innermost key at a position; `None` if the position is in the file.
    pub(super) fn at(&self, span: &Span) -> Option<String> {
        let mut path = String::new();
        (span.start >= self.source.start).then(|| {
            append_table(self.table.get_ref(), &self.source.local(span), &mut path);
            path
        })
    }
}

impl SourceText {
    /// A position in this text.
    pub(super) fn local(&self, span: &Span) -> Span {
        let end = self.document.text.len();
        let local = |position: usize| position.saturating_sub(self.start).min(end);
        local(span.start)..local(span.end)
    }

    pub(super) fn snippet(&self) -> Snippet<'_, Annotation<'_>> {
        Snippet::source(&*self.document.text).path(&*self.document.name)
    }
}

/// Appends the key of a table at a position, and those within its value.
fn append_table(table: &DeTable<'_>, at: &Span, path: &mut String) {
    let entry = table.iter().find(|(key, value)| contains(&key.span(), at) || holds(value, at));
    let Some((key, value)) = entry else { return };
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key.get_ref());
    append_value(value.get_ref(), at, path);
}

fn append_value(value: &DeValue<'_>, at: &Span, path: &mut String) {
    match value {
        DeValue::Table(table) => append_table(table, at, path),
        DeValue::Array(items) => {
            if let Some((place, item)) = items.iter().enumerate().find(|(_, item)| holds(item, at)) {
                path.push_str(&format!("[{place}]"));
                append_value(item.get_ref(), at, path);
            }
        }
        _ => {}
    }
}

/// Whether a position is within a value. The span of a table is that of its header, so its entries count too.
fn holds(value: &Spanned<DeValue<'_>>, at: &Span) -> bool {
    contains(&value.span(), at)
        || match value.get_ref() {
            DeValue::Table(table) => {
                table.iter().any(|(key, value)| contains(&key.span(), at) || holds(value, at))
            }
            DeValue::Array(items) => items.iter().any(|item| holds(item, at)),
            _ => false,
        }
}

fn contains(span: &Span, at: &Span) -> bool {
    span.start <= at.start && at.end <= span.end
}
