//! Statements in blocks, as keepalived and nginx have them.

use crate::{
    ImportError,
    ledger::Ledger,
    source::{Lines, Sources},
};

/// A keyword with its arguments, and the statements in its block if it has one.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    /// From the keyword to the brace that opens the block, or to the last argument.
    pub(crate) head: Lines,
    /// From the keyword to the end of the block.
    pub(crate) whole: Lines,
    pub(crate) words: Vec<String>,
    pub(crate) block: Option<Vec<Statement>>,
}

impl Statement {
    /// The keyword; empty for a block without a name.
    pub(crate) fn keyword(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The argument of this number, from 1; empty if it is absent.
    pub(crate) fn argument(&self, number: usize) -> &str {
        self.words.get(number).map_or("", String::as_str)
    }

    pub(crate) fn statements(&self) -> &[Self] {
        self.block.as_deref().unwrap_or_default()
    }

    /// Marks keyword, arguments and braces as part of the result.
    pub(crate) fn use_frame(&self, ledger: &mut Ledger) {
        ledger.used(self.head);
        ledger.used(Lines { first: self.whole.last, ..self.whole });
    }
}

impl Statement {
    /// Leaves the statement out, with its block and the files that are included there.
    pub(crate) fn leave_out(&self, ledger: &mut Ledger, reason: &str) {
        ledger.left_out(self.whole, reason);
        let mut inside: Vec<&Self> = self.statements().iter().collect();
        while let Some(statement) = inside.pop() {
            if !self.whole.contains(statement.head.file, statement.head.first) {
                ledger.left_out(statement.whole, reason);
            }
            inside.extend(statement.statements());
        }
    }
}

/// Leaves out blocks where the format has none, at any depth. `is_block` knows the keywords of blocks.
pub(crate) fn leave_out_blocks(
    ledger: &mut Ledger,
    statements: &[Statement],
    is_block: impl Fn(&str) -> bool,
) {
    let mut left: Vec<&Statement> = statements.iter().collect();
    while let Some(statement) = left.pop() {
        if statement.block.is_some() && !is_block(statement.keyword()) {
            statement.leave_out(ledger, "this keyword has no block");
        }
        left.extend(statement.statements());
    }
}

/// Reads the files that an `include` at `at` names. Returns their numbers. The line is used, or left out if there are
/// none.
pub(crate) fn include(
    sources: &mut Sources<'_>,
    ledger: &mut Ledger,
    at: Lines,
    pattern: &str,
) -> Result<Vec<usize>, ImportError> {
    let files = sources.include(at, pattern)?;
    if files.is_empty() {
        ledger.left_out(at, "no file here matches: import it on its host, or copy the files");
    } else {
        ledger.used(at);
    }
    Ok(files)
}

/// Leaves out statements of these keywords that a later one of the same block replaces.
pub(crate) fn leave_out_replaced(ledger: &mut Ledger, statements: &[Statement], keywords: &[&str]) {
    for keyword in keywords {
        let mut same = statements.iter().filter(|line| line.keyword() == *keyword).rev();
        let Some(last) = same.next() else { continue };
        for line in same {
            line.leave_out(ledger, &format!("line {} sets it again", last.head.first));
        }
    }
}

/// Deepest nesting of blocks.
const MAX_DEPTH: usize = 32;

/// Builds the tree of a file from its statements and braces.
#[derive(Debug, Default)]
pub(crate) struct TreeBuilder {
    /// Statements of each block that is open; the first are those of the file.
    open: Vec<Vec<Statement>>,
    /// The statement of each open block.
    parents: Vec<Statement>,
}

impl TreeBuilder {
    pub(crate) fn new() -> Self {
        Self { open: vec![Vec::new()], parents: Vec::new() }
    }

    /// Adds a statement without a block.
    pub(crate) fn statement(&mut self, words: Vec<String>, at: Lines) {
        if let Some(block) = self.open.last_mut() {
            block.push(Statement { head: at, whole: at, words, block: None });
        }
    }

    /// Keyword of the outermost block that is open.
    pub(crate) fn outermost(&self) -> Option<&str> {
        self.parents.first().map(Statement::keyword)
    }

    /// Adds statements of another file.
    pub(crate) fn splice(&mut self, statements: Vec<Statement>) {
        if let Some(block) = self.open.last_mut() {
            block.extend(statements);
        }
    }

    /// Takes the last statement of the open block back, to give it a block.
    pub(crate) fn last_without_block(&mut self, file: usize) -> Option<(Vec<String>, Lines)> {
        let block = self.open.last_mut()?;
        let last = block.pop_if(|last| last.block.is_none() && last.head.file == file)?;
        Some((last.words, last.head))
    }

    /// Opens a block. Returns false if blocks lie too deep.
    pub(crate) fn begin(&mut self, words: Vec<String>, at: Lines) -> bool {
        self.parents.push(Statement { head: at, whole: at, words, block: None });
        self.open.push(Vec::new());
        self.parents.len() <= MAX_DEPTH
    }

    /// Closes a block. Returns false if none is open.
    pub(crate) fn end(&mut self, at: Lines) -> bool {
        let Some(mut parent) = self.parents.pop() else { return false };
        parent.whole = parent.head.until(at);
        parent.block = self.open.pop();
        if let Some(block) = self.open.last_mut() {
            block.push(parent);
        }
        true
    }

    /// The statements of the file, or the innermost block that is still open.
    pub(crate) fn finish(mut self) -> Result<Vec<Statement>, Statement> {
        match self.parents.pop() {
            Some(open) => Err(open),
            None => Ok(self.open.pop().unwrap_or_default()),
        }
    }
}
