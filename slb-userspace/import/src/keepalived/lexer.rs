//! Lines, words and blocks of `keepalived.conf`. A statement ends with its line.

use std::collections::HashMap;

use crate::{
    ImportError,
    ledger::Ledger,
    source::{Lines, Sources},
    tree::{Statement, TreeBuilder, include},
};

const ALONE: &str = "such a name alone in its line, and fewer uses of long ones";

/// Most bytes that definitions may become.
const MAX_REPLACED: usize = 64 << 20;

/// Definitions `$NAME=VALUE` so far.
#[derive(Default)]
struct Definitions {
    /// The lines of each one.
    values: HashMap<String, Vec<String>>,
    /// Bytes that they became.
    replaced: usize,
}

impl Definitions {
    /// The lines of a definition, if `word` is its name and it has several.
    fn lines(&self, word: &str) -> Option<&[String]> {
        let name = word.strip_prefix('$')?;
        let name = name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name);
        self.values.get(name).filter(|lines| lines.len() > 1).map(Vec::as_slice)
    }

    /// Replaces `$NAME` and `${NAME}` by what is defined. Others stay.
    ///
    /// # Errors
    /// What is wrong.
    fn replace(&mut self, word: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut rest = word;
        while let Some(begin) = rest.find('$') {
            out.push_str(&rest[..begin]);
            let after = &rest[begin + 1..];
            let inner = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            let (name, next) = inner.unwrap_or((&after[..end], &after[end..]));
            match self.values.get(name).map(Vec::as_slice) {
                Some([]) => {}
                Some([value]) => out.push_str(value),
                Some(_) => return Err(format!("`${name}` has several lines")),
                None => out.push_str(&rest[begin..rest.len() - next.len()]),
            }
            rest = next;
        }
        out.push_str(rest);
        self.grow(out.len())?;
        Ok(out)
    }

    fn grow(&mut self, bytes: usize) -> Result<(), String> {
        self.replaced = self.replaced.saturating_add(bytes);
        if self.replaced > MAX_REPLACED {
            Err("definitions become more than 64 MiB".to_owned())
        } else {
            Ok(())
        }
    }
}

/// A line with those that a backslash at its end joins to it.
struct Joined<'t> {
    at: Lines,
    parts: Vec<&'t str>,
    /// Whether a last line is missing.
    is_open: bool,
}

fn joined(text: &str, file: usize) -> Vec<Joined<'_>> {
    let mut found: Vec<Joined<'_>> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let at = Lines::one(file, index + 1);
        let next = continued(line);
        let part = next.unwrap_or(line);
        match found.last_mut().filter(|before| before.is_open) {
            Some(before) => {
                before.at = before.at.until(at);
                before.parts.push(part);
                before.is_open = next.is_some();
            }
            None => found.push(Joined { at, parts: vec![part], is_open: next.is_some() }),
        }
    }
    found
}

/// The line without the backslash at its end, if it has one outside of a comment.
fn continued(line: &str) -> Option<&str> {
    let mut is_quoted = false;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => is_quoted = !is_quoted,
            '\\' if is_quoted => _ = chars.next(),
            '#' | '!' if !is_quoted => return None,
            _ => {}
        }
    }
    line.trim_end().strip_suffix('\\')
}

/// Reads the first file and all that it includes.
pub(super) fn read(sources: &mut Sources<'_>, ledger: &mut Ledger) -> Result<Vec<Statement>, ImportError> {
    file(sources, ledger, &mut Definitions::default(), 0)
}

fn file(
    sources: &mut Sources<'_>,
    ledger: &mut Ledger,
    definitions: &mut Definitions,
    number: usize,
) -> Result<Vec<Statement>, ImportError> {
    let text = sources.text(number).to_owned();
    let mut tree = TreeBuilder::new();
    for Joined { at, parts, is_open } in joined(&text, number) {
        if let Some((name, value)) = definition(&parts) {
            if is_open {
                let found = format!("`${name}` over several lines has no end");
                return Err(sources.error(at, found, "a last line without a backslash at its end"));
            }
            definitions.values.insert(name, value);
            ledger.used(at);
            continue;
        }
        let words = words(&parts.join(" "))
            .map_err(|found| sources.error(at, found, "a quote at the end of the text"))?;
        if words.first().is_some_and(|word| word.starts_with('@')) {
            ledger.left_out(at, "it holds for one instance of keepalived only (`@`)");
            continue;
        }
        if words.first().is_some_and(|word| word.starts_with("include")) {
            let pattern = definitions
                .replace(words.get(1).map_or("", String::as_str))
                .map_err(|found| sources.error(at, found, ALONE))?;
            for included in include(sources, ledger, at, &pattern)? {
                let statements = file(sources, ledger, definitions, included)?;
                tree.splice(statements);
            }
            continue;
        }
        match words.as_slice() {
            [word] if definitions.lines(word).is_some() => {
                defined(sources, &mut tree, definitions, at, word)?;
                ledger.used(at);
            }
            _ => statements(sources, &mut tree, definitions, at, &words)?,
        }
    }
    tree.finish().map_err(|open| {
        let found = format!("the block `{}` has no end", open.keyword());
        sources.error(open.head, found, "`}` before the end of the file")
    })
}

/// The statements of a line.
fn statements(
    sources: &Sources<'_>,
    tree: &mut TreeBuilder,
    definitions: &mut Definitions,
    at: Lines,
    words: &[String],
) -> Result<(), ImportError> {
    let mut pending: Vec<String> = Vec::new();
    for word in words {
        match word.as_str() {
            "{" => {
                // The name of a block may stand in a line before.
                let named = if pending.is_empty() {
                    tree.last_without_block(at.file)
                } else {
                    Some((std::mem::take(&mut pending), at))
                };
                let Some((words, head)) = named else {
                    return Err(sources.error(at, "a block without a name", "a keyword before `{`"));
                };
                if !tree.begin(words, head.until(at)) {
                    return Err(sources.error(at, "blocks lie too deep", "32 blocks in each other at most"));
                }
            }
            "}" => {
                if !pending.is_empty() {
                    tree.statement(std::mem::take(&mut pending), at);
                }
                if !tree.end(at) {
                    return Err(sources.error(at, "`}` closes no block", "a block that is open"));
                }
            }
            word => {
                let replaced = definitions.replace(word);
                pending.push(replaced.map_err(|found| sources.error(at, found, ALONE))?);
            }
        }
    }
    if !pending.is_empty() {
        tree.statement(pending, at);
    }
    Ok(())
}

/// The statements of a definition with several lines.
fn defined(
    sources: &Sources<'_>,
    tree: &mut TreeBuilder,
    definitions: &mut Definitions,
    at: Lines,
    name: &str,
) -> Result<(), ImportError> {
    let lines = definitions.lines(name).unwrap_or_default().to_vec();
    for line in lines {
        definitions.grow(line.len()).map_err(|found| sources.error(at, found, ALONE))?;
        let words =
            words(&line).map_err(|found| sources.error(at, found, "a quote at the end of the text"))?;
        statements(sources, tree, definitions, at, &words)?;
    }
    Ok(())
}

/// Name and lines of `$NAME=VALUE`.
fn definition(parts: &[&str]) -> Option<(String, Vec<String>)> {
    let (name, first) = parts.first()?.trim().strip_prefix('$')?.split_once('=')?;
    let name = name.trim_end();
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let lines = std::iter::once(first).chain(parts.iter().skip(1).copied());
    let lines = lines.map(|line| line.split(['#', '!']).next().unwrap_or_default().trim());
    let lines = lines.filter(|line| !line.is_empty()).map(str::to_owned).collect();
    is_name.then(|| (name.to_owned(), lines))
}

/// Words of a line without its comment. Braces are words of their own.
fn words(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '#' | '!' => break,
            '"' => {
                let text = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => text.extend(chars.next()),
                        Some(c) => text.push(c),
                        None => return Err("a quoted text has no end"),
                    }
                }
            }
            '$' if chars.peek() == Some(&'{') => {
                let text = word.get_or_insert_default();
                text.push('$');
                for c in chars.by_ref() {
                    text.push(c);
                    if c == '}' {
                        break;
                    }
                }
            }
            '{' | '}' => {
                words.extend(word.take());
                words.push(c.to_string());
            }
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoFiles;

    fn read_text(text: &str) -> Result<Vec<Statement>, ImportError> {
        read(&mut Sources::new("f", text, &NoFiles), &mut Ledger::default())
    }

    #[test]
    fn blocks_may_open_on_the_next_line_and_without_a_space() {
        let found = read_text("a b # c\n{\n  url{\n path /x ! y\n}\n}\nd\n").expect("read");
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].words.join(" ").as_str(), found[0].whole.last), ("a b", 6));
        let url = &found[0].statements()[0];
        assert_eq!((url.keyword(), url.statements()[0].argument(1)), ("url", "/x"));
    }

    #[test]
    fn definitions_are_replaced() {
        let found = read_text("$VIP=192.0.2.1\nvirtual_server ${VIP} $PORT\n$A = b\n").expect("read");
        assert_eq!(found[0].words, ["virtual_server", "192.0.2.1", "$PORT"]);
    }

    #[test]
    fn faults_have_their_line() {
        for (text, line, part) in [
            ("a {\nb {\n}\n", 1, "has no end"),
            ("a\n}\n", 2, "closes no block"),
            ("{\n}\n", 1, "without a name"),
            ("x\ny \"z\n", 2, "quote"),
            ("x\ninclude y\n", 2, "include y"),
        ] {
            let error = read_text(text).expect_err(text);
            assert!(error.line == line && error.to_string().contains(part), "{error}");
        }
        assert!(read_text(&"a {\n".repeat(1000)).is_err());
    }
}
