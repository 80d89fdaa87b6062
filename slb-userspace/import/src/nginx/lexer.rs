//! Directives and blocks of `nginx.conf`.

use crate::{
    ImportError,
    ledger::Ledger,
    source::{Lines, Sources},
    tree::{Statement, TreeBuilder, include},
};

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    End,
    Open,
    Close,
}

/// Reads the first file and all that it includes.
pub(super) fn read(sources: &mut Sources<'_>, ledger: &mut Ledger) -> Result<Vec<Statement>, ImportError> {
    file(sources, ledger, 0)
}

fn file(
    sources: &mut Sources<'_>,
    ledger: &mut Ledger,
    number: usize,
) -> Result<Vec<Statement>, ImportError> {
    let text = sources.text(number).to_owned();
    let mut lexer = Lexer { text: &text, at: 0, line: 1 };
    let mut tree = TreeBuilder::new();
    let mut words: Vec<String> = Vec::new();
    let mut begin = Lines::one(number, 1);
    loop {
        let token = lexer.next();
        let at = Lines::one(number, lexer.line);
        let token = token.map_err(|found| sources.error(at, found, "a quote at the end of the text"))?;
        match token {
            None => break,
            Some((Token::Word(word), line)) => {
                if words.is_empty() {
                    begin = Lines::one(number, line);
                }
                words.push(word);
            }
            Some((Token::End, _)) if words.is_empty() => {
                return Err(sources.error(at, "`;` ends nothing", "a directive before it"));
            }
            // What layer 7 includes has no counterpart either.
            Some((Token::End, _))
                if words[0] == "include" && !matches!(tree.outermost(), Some("http" | "mail")) =>
            {
                let pattern = words.get(1).map_or("", String::as_str);
                for included in include(sources, ledger, begin.until(at), pattern)? {
                    let statements = file(sources, ledger, included)?;
                    tree.splice(statements);
                }
                words.clear();
            }
            Some((Token::End, _)) => tree.statement(std::mem::take(&mut words), begin.until(at)),
            Some((Token::Open, _)) if words.is_empty() => {
                return Err(sources.error(at, "a block without a name", "a directive before `{`"));
            }
            Some((Token::Open, _)) => {
                let is_code = words[0].ends_with("_by_lua_block");
                if !tree.begin(std::mem::take(&mut words), begin.until(at)) {
                    return Err(sources.error(at, "blocks lie too deep", "32 blocks in each other at most"));
                }
                if is_code && !lexer.skip_code() {
                    return Err(sources.error(
                        at,
                        "a block of Lua has no end",
                        "`}` before the end of the file",
                    ));
                }
            }
            Some((Token::Close, _)) => {
                if let Some(word) = words.first() {
                    return Err(sources.error(
                        begin,
                        format!("`{word}` has no end"),
                        "`;` after the directive",
                    ));
                }
                if !tree.end(at) {
                    return Err(sources.error(at, "`}` closes no block", "a block that is open"));
                }
            }
        }
    }
    if let Some(word) = words.first() {
        return Err(sources.error(begin, format!("`{word}` has no end"), "`;` after the directive"));
    }
    tree.finish().map_err(|open| {
        let found = format!("the block `{}` has no end", open.keyword());
        sources.error(open.head, found, "`}` before the end of the file")
    })
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
    line: usize,
}

impl Lexer<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        self.line += usize::from(c == '\n');
        Some(c)
    }

    /// The next token with its first line. An error is a quote without end.
    fn next(&mut self) -> Result<Option<(Token, usize)>, &'static str> {
        loop {
            match self.peek() {
                None => return Ok(None),
                Some('#') => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.bump();
                    }
                }
                Some(c) if c.is_whitespace() => {
                    self.bump();
                }
                Some(_) => break,
            }
        }
        let line = self.line;
        let token = match self.peek() {
            Some(';') => Token::End,
            Some('{') => Token::Open,
            Some('}') => Token::Close,
            _ => return self.word().map(|word| Some((Token::Word(word), line))),
        };
        self.bump();
        Ok(Some((token, line)))
    }

    fn word(&mut self) -> Result<String, &'static str> {
        const OPEN: &str = "a quoted text has no end";
        let mut word = String::new();
        if let Some(quote @ ('"' | '\'')) = self.peek() {
            self.bump();
            loop {
                match self.bump().ok_or(OPEN)? {
                    c if c == quote => return Ok(word),
                    '\\' => word.push(self.bump().ok_or(OPEN)?),
                    c => word.push(c),
                }
            }
        }
        while let Some(c) = self.peek() {
            match c {
                ';' | '{' => break,
                c if c.is_whitespace() => break,
                '\\' => {
                    self.bump();
                    word.extend(self.bump());
                }
                '$' => {
                    self.bump();
                    word.push('$');
                    if self.peek() == Some('{') {
                        while let Some(c) = self.bump() {
                            word.push(c);
                            if c == '}' {
                                break;
                            }
                        }
                    }
                }
                c => {
                    self.bump();
                    word.push(c);
                }
            }
        }
        Ok(word)
    }

    /// Skips code up to the brace that closes its block, which stays. Returns false at the end of the text.
    fn skip_code(&mut self) -> bool {
        let mut depth = 0_usize;
        while let Some(c) = self.peek() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => return true,
                '}' => depth -= 1,
                _ => {}
            }
            self.bump();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoFiles;

    fn read_text(text: &str) -> Result<Vec<Statement>, ImportError> {
        read(&mut Sources::new("f", text, &NoFiles), &mut Ledger::default())
    }

    #[test]
    fn directives_have_quotes_variables_and_lines() {
        let found = read_text("a 'b c' \"d\\\"e\" ${f}g; # h;\ni {\n j\n  k;\n}\n").expect("read");
        assert_eq!(found[0].words, ["a", "b c", "d\"e", "${f}g"]);
        let block = &found[1];
        assert_eq!((block.head.first, block.whole.last), (2, 5));
        assert_eq!((block.statements()[0].head.first, block.statements()[0].head.last), (3, 4));
    }

    #[test]
    fn files_that_http_includes_are_not_read() {
        let found = read_text("http {\n server {\n include absent;\n }\n}\n").expect("read");
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn lua_is_skipped() {
        let found = read_text("a_by_lua_block {\n x = { y }; -- z\n}\nb;\n").expect("read");
        assert_eq!(found.len(), 2);
        assert!(found[0].statements().is_empty());
    }

    #[test]
    fn faults_have_their_line() {
        for (text, line, part) in [
            ("a {\nb;\n", 1, "has no end"),
            ("a;\n}\n", 2, "closes no block"),
            ("a;\nb\n", 2, "`;` after"),
            ("a {\n b\n}\n", 2, "`;` after"),
            ("{\n}\n", 1, "without a name"),
            (";\n", 1, "ends nothing"),
            ("a 'b;\n", 1, "quote"),
            ("a;\ninclude x;\n", 2, "include x"),
        ] {
            let error = read_text(text).expect_err(text);
            assert!(error.to_string().contains(part), "{error}");
            assert!(error.line == line || part == "quote", "{error}");
        }
    }
}
