//! Words of a text with their places.

/// A word in lower case.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) word: String,
    /// Line, from 1 on.
    pub(super) line: usize,
    /// Whether punctuation or code separates it from the word before.
    pub(super) begins_sentence: bool,
}

/// What surrounds a character of a Rust file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Code,
    Comment,
    BlockComment,
    Text,
    /// In a raw string that ends with this many `#`.
    RawText(usize),
}

/// Words of prose. Whitespace, quotes and comment marks between two words do not separate them; a blank line does.
pub(super) fn prose(text: &str) -> Vec<Token> {
    let mut words = Words::default();
    text.chars().for_each(|c| words.prose(c));
    words.finish()
}

/// Words of a Rust file: comments and strings as prose, identifiers by their parts.
pub(super) fn rust(text: &str) -> Vec<Token> {
    let mut words = Words::default();
    let mut place = Place::Code;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (next, length) = step(place, rest, words.in_word());
        if place == Place::Code && next == Place::Code {
            rest[..length].chars().for_each(|c| words.code(c));
        } else if next == place {
            words.prose(c);
        } else {
            // Comment lines that follow one another are one text.
            let joins = matches!((place, next), (Place::Comment, _) | (_, Place::Comment));
            words.leave(joins);
            words.line += rest[..length].matches('\n').count();
        }
        place = next;
        rest = &rest[length..];
    }
    words.finish()
}

/// The place after the next characters, and their length in bytes. A step that stays in a place is one character,
/// except for character literals.
fn step(place: Place, rest: &str, in_word: bool) -> (Place, usize) {
    let one = rest.chars().next().map_or(0, char::len_utf8);
    match place {
        Place::Code if rest.starts_with("//") => (Place::Comment, 2),
        Place::Code if rest.starts_with("/*") => (Place::BlockComment, 2),
        Place::Code if rest.starts_with('"') => (Place::Text, 1),
        Place::Code if rest.starts_with('r') && !in_word => match raw(rest) {
            Some((marks, length)) => (Place::RawText(marks), length),
            None => (place, one),
        },
        Place::Code if rest.starts_with('\'') => (place, literal(rest)),
        Place::Comment if rest.starts_with('\n') => (Place::Code, 1),
        Place::BlockComment if rest.starts_with("*/") => (Place::Code, 2),
        Place::Text if rest.starts_with('"') => (Place::Code, 1),
        Place::Text if rest.starts_with("\\\"") || rest.starts_with("\\\\") || rest.starts_with("\\n") => {
            // An escape ends a word.
            (place, 2)
        }
        Place::RawText(marks) if ends_raw(rest, marks) => (Place::Code, 1 + marks),
        _ => (place, one),
    }
}

/// Number of `#` and length of the beginning of a raw string.
fn raw(rest: &str) -> Option<(usize, usize)> {
    let marks = rest[1..].chars().take_while(|c| *c == '#').count();
    rest[1 + marks..].starts_with('"').then_some((marks, marks + 2))
}

fn ends_raw(rest: &str, marks: usize) -> bool {
    rest.strip_prefix('"').is_some_and(|rest| rest.chars().take_while(|c| *c == '#').count() >= marks)
}

/// Length of a character literal; 1 for a lifetime.
fn literal(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => chars.skip(1).find(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 1),
        Some((_, _)) => chars.next().filter(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 1),
        None => 1,
    }
}

/// Collects words.
#[derive(Debug)]
struct Words {
    tokens: Vec<Token>,
    word: String,
    /// Whether the last character of an identifier was no capital letter.
    is_lowercase: bool,
    line: usize,
    /// Whether the next word begins a sentence.
    begins_sentence: bool,
    /// Whether the line is blank so far.
    is_blank: bool,
}

impl Default for Words {
    fn default() -> Self {
        Self {
            tokens: Vec::new(),
            word: String::new(),
            is_lowercase: false,
            line: 1,
            begins_sentence: true,
            is_blank: true,
        }
    }
}

impl Words {
    fn in_word(&self) -> bool {
        !self.word.is_empty()
    }

    fn prose(&mut self, c: char) {
        match c {
            c if c.is_alphanumeric() || c == '\'' => self.word.extend(c.to_lowercase()),
            // In a document, an identifier in backticks is split as one in code.
            '_' => self.end(),
            '\n' => {
                self.end();
                self.begins_sentence |= self.is_blank;
                self.line += 1;
                self.is_blank = true;
                return;
            }
            c => {
                self.end();
                self.begins_sentence |= !(c.is_whitespace() || matches!(c, '\\' | '/' | '!' | '*' | '"'));
            }
        }
        self.is_blank &= c.is_whitespace();
    }

    fn code(&mut self, c: char) {
        match c {
            '_' => self.end(),
            c if c.is_alphanumeric() => {
                // A word in capitals is one word.
                if c.is_uppercase() && self.is_lowercase {
                    self.end();
                }
                self.is_lowercase = !c.is_uppercase();
                self.word.extend(c.to_lowercase());
            }
            c => {
                self.end();
                // Only whitespace between two lines of a comment leaves a sentence open.
                self.begins_sentence |= !c.is_whitespace();
                self.line += usize::from(c == '\n');
            }
        }
    }

    /// Leaves a comment or a string, or enters one.
    fn leave(&mut self, joins: bool) {
        self.end();
        self.begins_sentence |= !joins;
        self.is_blank = false;
    }

    fn end(&mut self) {
        if self.in_word() {
            let word = std::mem::take(&mut self.word);
            let begins_sentence = std::mem::take(&mut self.begins_sentence);
            self.tokens.push(Token { word, line: self.line, begins_sentence });
        }
    }

    fn finish(mut self) -> Vec<Token> {
        self.end();
        self.tokens
    }
}
